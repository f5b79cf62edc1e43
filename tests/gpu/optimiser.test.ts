/**
 * AdamW in place on WebGPU: beside its reference on the same device, packed or apart, bit for bit the same again, and
 * never hidden behind values that were read before. Also tables in half precision, which hosts do not have.
 */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { adamwState } from '../../src/kernels/adamw.ts'
import { openBackend, openedDevice } from '../../src/kernels/backend.ts'
import { embedding, embeddingNorm } from '../../src/kernels/embedding.ts'
import { fromHalf, toHalf } from '../../src/kernels/half.ts'
import { replaceByReference, type KernelFamily } from '../../src/kernels/program.ts'
import { columnSum } from '../../src/kernels/sum.ts'
import { viewOf, whereOf } from '../../src/kernels/views.ts'
import { declareElementwise } from '../kernels/elementwise.ts'
import { agree, matrix, random, values, vector } from '../kernels/harness.ts'
import { clippedStep, declareOptimiser, gradients } from '../kernels/optimiser.ts'
import { declareReductions } from '../kernels/reductions.ts'
import { declareRowOps } from '../kernels/rows.ts'
import { declareTraining } from '../kernels/training.ts'
import { layerNormTruth, worstError } from '../kernels/truth.ts'

const own: KernelFamily[] = [
  'adamw',
  'sum',
  'layerNorm',
  'embedding',
  'firstToken',
  'dropout',
  'crossEntropy',
]

let before = 0
const begin = async (variants: 'gpu' | 'software') => {
  await openBackend('webgpu', { variants })
  before = tf.memory().numTensors
}
afterEach(() => {
  expect(tf.memory().numTensors, 'tensors left over').toBe(before)
  replaceByReference([])
})

/** p, m and v after 30 clipped steps, and p as a view of its middle showed it. */
async function after30(n: number, p: Float32Array, gs: Float32Array[]): Promise<Float32Array[]> {
  let state = adamwState(vector(p))
  for (const g of gs) state = clippedStep(state, g, n >> 1)
  const all = [await state.p.data(), await state.m.data(), await state.v.data()]
  tf.dispose([state.p, state.m, state.v])
  return all.map((one) => Float32Array.from(one))
}

describe.each(['gpu', 'software'] as const)('AdamW, variants for %s', (variants) => {
  beforeEach(() => begin(variants))
  const n = 5003
  const [p, gs] = [random(n), gradients(n, 30)]

  test('30 steps equal the reference on this device and repeat bit for bit', async () => {
    const packed = await after30(n, p, gs)
    expect(await after30(n, p, gs)).toEqual(packed)
    replaceByReference(['adamw', 'sum'])
    const reference = await after30(n, p, gs)
    packed.forEach((one, i) => expect(worstError(one, reference[i]!)).toBeLessThan(1e-6))
  })

  test('vectors too long for one binding stay apart and move the same', async () => {
    const packed = await after30(n, p, gs)
    openedDevice().limits.maxStorageBufferBindingSize = 3 * n * 4
    const state = adamwState(vector(p))
    expect(whereOf(state.p)).toBe(null)
    tf.dispose([state.p, state.m, state.v])
    const apart = await after30(n, p, gs)
    packed.forEach((one, i) => expect(worstError(apart[i]!, one)).toBeLessThan(1e-7))
  })

  test('views of the parameters that were read before a step show the values after it', async () => {
    const state = adamwState(vector(p))
    const middle = viewOf<tf.Tensor1D>(state.p, 64, [100])
    expect(await middle.data()).toEqual(p.slice(64, 164))
    expect(await state.p.data()).toEqual(p)
    clippedStep(state, gs[0]!, n)
    const moved = await state.p.data()
    expect(moved.every((value, i) => value !== p[i])).toBe(true)
    expect(await middle.data()).toEqual(moved.slice(64, 164))
    tf.dispose([state.p, state.m, state.v, middle])
  })

  test('columnSum writes into the memory it is given', async () => {
    const flat = vector(random(256))
    const slot = viewOf(flat, 64, [33])
    const x = random(200 * 33)
    const whole = Float32Array.from(await flat.data())
    const sums = await values(() => columnSum(matrix(x, 33), slot).clone())
    whole.set(sums, 64)
    expect(await flat.data()).toEqual(whole)
    tf.dispose([flat, slot])
  })

  test('embedding and embeddingNorm of a table in half precision', async () => {
    const [V, P, H] = [11, 5, 34]
    const words = toHalf(random(V * H))
    const exact = fromHalf(words)
    const ids = Int32Array.of(3, 10, 0, 3)
    const rows = Float32Array.from({ length: 4 * H }, (_, i) => exact[ids[Math.floor(i / H)]! * H + (i % H)]!)
    const blocks = (height: number) =>
      Array.from({ length: Math.ceil(V / height) }, (_, i) =>
        matrix(words.slice((i * height * H) / 2, ((i + 1) * height * H) / 2), H / 2),
      )
    const [positions, types, weight, bias] = [random(P * H), random(H), random(H), random(H)]
    const sum = rows.map((word, i) => word + types[i % H]! + positions[H + i]!)
    const around = () => ({
      ...{ positions: matrix(positions, H), position_ids: vector(Int32Array.of(1, 2, 3, 4)) as tf.Tensor1D },
      ...{ types: matrix(types, H) },
      norm: { weight: vector(weight) as tf.Tensor1D, bias: vector(bias) as tf.Tensor1D, eps: 1e-5 },
    })
    for (const families of [[], own]) {
      replaceByReference(families)
      for (const height of [11, 4]) {
        expect(await values(() => embedding(blocks(height), vector(ids) as tf.Tensor1D))).toEqual(rows)
        const make = () => embeddingNorm(blocks(height), vector(ids) as tf.Tensor1D, around())
        await agree(make, layerNormTruth(sum, weight, bias, 1e-5))
      }
    }
  })
})

describe('the references on webgpu', () => {
  beforeEach(async () => {
    await begin('software')
    replaceByReference(own)
  })
  declareRowOps()
  declareReductions()
  declareElementwise()
  declareTraining()
  declareOptimiser()
})
