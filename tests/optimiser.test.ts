/** What the optimiser and the small kernels around a step cost on a GPU: dispatches, uploads and memory. */
import * as tf from '@tensorflow/tfjs-core'
import { beforeEach, expect, test } from 'vitest'
import { adamw, adamwState } from '../src/kernels/adamw.ts'
import { gpuBytes, openBackend } from '../src/kernels/backend.ts'
import { crossEntropy } from '../src/kernels/crossEntropy.ts'
import { embeddingNorm } from '../src/kernels/embedding.ts'
import { firstToken, firstTokenBackward } from '../src/kernels/firstToken.ts'
import { columnSum } from '../src/kernels/sum.ts'
import { layOut } from '../src/model/params.ts'
import { stretchesOf } from '../src/train/adamwByLayer.ts'
import { difference, FakeGpu, type Counts } from './bench/fakeDevice.ts'

let gpu: FakeGpu
beforeEach(async () => {
  gpu = new FakeGpu()
  await openBackend('webgpu', { gpu: gpu as unknown as GPU })
})

/** What `work` costs; all it makes is freed. */
function cost(work: () => unknown): Pick<Counts, 'dispatches' | 'uploads' | 'readbacks'> {
  const before = { ...gpu.counts }
  tf.tidy(() => void work())
  const { dispatches, uploads, readbacks } = difference(gpu.counts, before)
  return { dispatches, uploads, readbacks }
}
const only = (dispatches: number) => ({ dispatches, uploads: 0, readbacks: 0 })
const zeros = <R extends tf.Rank>(shape: tf.ShapeMap[R]) => tf.fill<R>(shape, 0)
const ints = (n: number) => tf.cast(zeros<tf.Rank.R1>([n]), 'int32')

const rates = {
  learning_rate: 1e-3,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weight_decay: 0.1,
  decayed: 7,
  max_norm: 1,
}

test.each([[64], [1_500_000], [120_000_000]])(
  'a step of AdamW on %i elements, clipped, is two dispatches and no upload',
  (n) => {
    let state = adamwState(zeros<tf.Rank.R1>([n]))
    const g = zeros<tf.Rank.R1>([n])
    const step = () => {
      const next = adamw(state, g, rates)
      next.grad_norm.dispose()
      state = next.state
    }
    step()
    // p, m, v and g; and what p was copied from, free again.
    expect(gpuBytes()).toBeLessThan(5 * 4 * n * 1.04 + 4096)
    const bytes = gpuBytes()
    expect(cost(step)).toEqual(only(2))
    // A few buffers for uniforms may come to it.
    expect(gpuBytes() - bytes).toBeLessThan(4096)
    tf.dispose([state.p, state.m, state.v, g])
  },
)

test('where three vectors exceed a binding, a step is two dispatches more', () => {
  const n = 190_000_000
  let state = adamwState(zeros<tf.Rank.R1>([n]))
  const g = zeros<tf.Rank.R1>([n])
  expect(cost(() => (state = adamw(state, g, rates).state))).toEqual(only(4))
  tf.dispose([state.p, state.m, state.v, g])
})

test('dispatches of the kernels around a step', () => {
  const [B, S, H, V] = [32, 128, 768, 1000]
  const x = zeros<tf.Rank.R2>([B * S, H])
  const row = zeros<tf.Rank.R1>([H])
  const ids = ints(B * S)
  const around = {
    ...{ positions: zeros<tf.Rank.R2>([514, H]), position_ids: ids, types: zeros<tf.Rank.R2>([1, H]) },
    norm: { weight: row, bias: row, eps: 1e-5 },
  }
  const table = () => zeros<tf.Rank.R2>([V, H])
  const [first, second] = [table(), table()]
  const [logits, labels] = [zeros<tf.Rank.R2>([B, 2]), ints(B)]
  const small = zeros<tf.Rank.R2>([B, H])
  expect(cost(() => embeddingNorm([first], ids, around))).toEqual(only(1))
  expect(cost(() => embeddingNorm([first, second], ids, around))).toEqual(only(3))
  expect(cost(() => firstToken(x, B))).toEqual(only(1))
  expect(cost(() => firstTokenBackward(small, S))).toEqual(only(1))
  expect(cost(() => crossEntropy(logits, labels, 0.1))).toEqual(only(1))
  expect(cost(() => columnSum(x))).toEqual(only(2))
})

test('tensors with one count of steps are one stretch, from the first element to the last', () => {
  const key = (layer: number, name: string) =>
    `roberta.encoder.layer.${layer}.output.adapters.a.adapter_down.0.${name}`
  const layout = layOut([
    [key(0, 'weight'), [5, 3]],
    [key(0, 'bias'), [5]],
    [key(1, 'weight'), [5, 3]],
    [key(1, 'bias'), [5]],
    [key(2, 'weight'), [5, 3]],
    ['heads.a.1.weight', [2, 70]],
  ])
  const missed = new Map([
    [0, 4],
    [1, 1],
  ])
  const stretches = stretchesOf(layout, 9, [1], missed)
  expect(stretches.map(({ step }) => step)).toEqual([5, null, 9, 5, null])
  expect(stretches.reduce((sum, { size }) => sum + size, 0)).toBe(layout.size)
  expect(stretches[0]!.size).toBe(layout.slots[1]!.offset)
  expect(stretchesOf(layout, 9, [], new Map())).toEqual([{ size: layout.size, step: 9 }])
})
