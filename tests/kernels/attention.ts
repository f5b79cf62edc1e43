/**
 * Fused attention, forward and backward, against attention written out in double precision: ../attention.test.ts runs
 * this on cpu and wasm, ../gpu/attention.test.ts on WebGPU in both variants and with the family replaced.
 */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { attention, attentionBackward, type KeyValue } from '../../src/kernels/attention.ts'
import { uploadTensor } from '../../src/kernels/backend.ts'
import { dropoutMask, type Drop } from '../../src/kernels/dropout.ts'
import { aligned, viewOf } from '../../src/kernels/views.ts'
import { TorchGenerator } from '../../src/random.ts'
import { random } from './harness.ts'

interface Sizes {
  B: number
  N: number
  S: number
  T: number
  D: number
}

/** Operands in rows, [B*S,N*D] and [B*T,N*D], and the keys' padding, [B,2] or [B*S,2]. */
interface Case extends Sizes {
  q: Float32Array
  k: Float32Array
  v: Float32Array
  dO: Float32Array
  padding: Int32Array
  scale: number
  drop: Drop | null
}

const parts = ['o', 'lse', 'dq', 'dk', 'dv'] as const
type Results = Record<(typeof parts)[number], ArrayLike<number>>

const rng = new TorchGenerator(11)
const chance = (share: number) => rng.uniform(1, 0, 1)[0]! < share

/** How many keys are hidden before and behind those that query s of item b sees. */
type Hiding = (b: number, s: number) => [before: number, behind: number]

const below = (end: number) => Math.floor(rng.uniform(1, 0, end)[0]!)

/** Paddings by name. */
const paddings: Record<string, (sizes: Sizes) => Hiding> = {
  none: () => () => [0, 0],
  right: ({ T }) => {
    const lengths = [T, 1, Math.ceil(T / 2)]
    return (b) => [0, T - lengths[b % 3]!]
  },
  left: ({ T }) => {
    const lengths = [Math.ceil(T / 3), T]
    return (b) => [T - lengths[b % 2]!, 0]
  },
  'both, and all keys of the last item': ({ B, T }) => {
    const before = Math.floor(T / 2)
    return (b) => (b === B - 1 ? [0, T] : [before, Math.floor((T - before) / 2)])
  },
  'by query, some all': ({ B, S, T }) => {
    const rows = Array.from({ length: B * S }, (): [number, number] => {
      const before = chance(0.5) ? 0 : below(T)
      return chance(0.2) ? [0, T] : [before, below(T - before)]
    })
    return (b, s) => rows[b * S + s]!
  },
  'by query, none of the first': ({ T }) => {
    const [prompts, behind] = [Math.min(T - 1, 3), Math.floor(T / 2)]
    return (b, s) => (s < prompts ? [0, 0] : [0, b % 2 ? 0 : behind])
  },
}

function makeCase(sizes: Sizes, padded: string, drop: Drop | null): Case {
  const { B, N, S, T, D } = sizes
  const hiding = paddings[padded]!(sizes)
  const rows = padded.startsWith('by query') ? S : 1
  return {
    ...sizes,
    q: random(B * S * N * D).map((x) => 3 * x),
    k: random(B * T * N * D),
    v: random(B * T * N * D),
    dO: random(B * S * N * D),
    padding: Int32Array.from(
      Array.from({ length: B * rows }, (_, i) => hiding(Math.floor(i / rows), i % rows)).flat(),
    ),
    scale: 1 / Math.sqrt(D),
    drop,
  }
}

/** softmax(q·kᵀ·scale)·v and its gradients, one query of one head at a time. */
function truth({ B, N, S, T, D, q, k, v, dO, padding, scale, drop }: Case): Results {
  const want = {
    o: new Float64Array(q.length),
    lse: new Float64Array(B * N * S),
    dq: new Float64Array(q.length),
    dk: new Float64Array(k.length),
    dv: new Float64Array(k.length),
  }
  const noise = drop && dropoutMask(B * N * S * T, drop.rate, drop.seed, drop.offset)
  const each = (length: number, f: (i: number) => number) => Float64Array.from({ length }, (_, i) => f(i))
  const sum = (length: number, f: (i: number) => number) => each(length, f).reduce((x, y) => x + y, 0)
  for (let index = 0; index < B * N * S; index++) {
    const [s, n, b] = [index % S, Math.floor(index / S) % N, Math.floor(index / S / N)]
    const at = ((b * S + s) * N + n) * D
    const key = (t: number) => ((b * T + t) * N + n) * D
    const row = padding.length === 2 * B ? b : b * S + s
    const [first, end] = [padding[2 * row]!, T - padding[2 * row + 1]!]
    const dot = (x: Float32Array, y: Float32Array, t: number) => sum(D, (d) => x[at + d]! * y[key(t) + d]!)
    const scores = each(T, (t) => (t >= first && t < end ? dot(q, k, t) * scale : -1e30))
    const top = Math.max(...scores)
    const total = sum(T, (t) => Math.exp(scores[t]! - top))
    const p = each(T, (t) => Math.exp(scores[t]! - top) / total)
    const gain = each(T, (t) => (noise ? noise[index * T + t]! : 1))
    const dp = each(T, (t) => gain[t]! * dot(dO, v, t))
    const mean = sum(T, (t) => p[t]! * dp[t]!)
    want.lse[index] = top + Math.log(total)
    for (let t = 0; t < T; t++) {
      const dScore = p[t]! * (dp[t]! - mean) * scale
      const weight = p[t]! * gain[t]!
      for (let d = 0; d < D; d++) {
        want.o[at + d]! += weight * v[key(t) + d]!
        want.dq[at + d]! += dScore * k[key(t) + d]!
        want.dk[key(t) + d]! += dScore * q[at + d]!
        want.dv[key(t) + d]! += weight * dO[at + d]!
      }
    }
  }
  return want
}

/** Rows [B*T,N*D] as heads [B,N,T,D], and the other way. */
function swapped(x: ArrayLike<number>, [, I, J, D]: [number, number, number, number]): Float32Array {
  return Float32Array.from({ length: x.length }, (_, at) => {
    const [d, i, j, b] = [
      at % D,
      Math.floor(at / D) % I,
      Math.floor(at / D / I) % J,
      Math.floor(at / D / I / J),
    ]
    return x[((b * I + i) * J + j) * D + d]!
  })
}

type Layout = 'rows' | 'heads' | 'views of one tensor'

/** q, k, v on the device as `layout` says. */
function operands({ B, N, S, T, D, q, k, v }: Case, layout: Layout): [tf.Tensor2D, KeyValue, KeyValue] {
  const shapes = [
    [B * S, N * D],
    [B * T, N * D],
    [B * T, N * D],
  ] as const
  if (layout === 'views of one tensor') {
    const starts = [0, aligned(q.length), aligned(q.length) + aligned(k.length)]
    const flat = new Float32Array(starts[2]! + v.length)
    ;[q, k, v].forEach((data, i) => flat.set(data, starts[i]!))
    const packed = uploadTensor<tf.Rank.R1>(flat, [flat.length])
    return shapes.map((shape, i) => viewOf(packed, starts[i]!, [...shape])) as [
      tf.Tensor2D,
      KeyValue,
      KeyValue,
    ]
  }
  const heads = (x: Float32Array) => uploadTensor<tf.Rank.R4>(swapped(x, [B, T, N, D]), [B, N, T, D])
  const rows = (x: Float32Array) => uploadTensor<tf.Rank.R2>(x, [B * T, N * D])
  const make = layout === 'heads' ? heads : rows
  return [uploadTensor<tf.Rank.R2>(q, [...shapes[0]]), make(k), make(v)]
}

/** The results of the two functions, keys' gradients put back in rows. */
async function results(one: Case, layout: Layout): Promise<Results> {
  const { B, N, S, T, D, scale, drop } = one
  const made = tf.tidy(() => {
    const [q, k, v] = operands(one, layout)
    const padding = uploadTensor<tf.Rank.R2>(one.padding, [one.padding.length / 2, 2])
    const dO = uploadTensor<tf.Rank.R2>(one.dO, [B * S, N * D])
    const { o, lse } = attention(q, k, v, padding, { B, N, scale }, drop)
    const grads = attentionBackward(dO, q, k, v, o, lse, padding, { B, N, scale }, drop)
    expect(grads.dk.shape).toEqual(k.shape)
    return { o, lse, ...grads }
  })
  const entries = parts.map(async (part) => {
    const data = (await made[part].data()) as Float32Array
    const ofKeys = layout === 'heads' && (part === 'dk' || part === 'dv')
    return [part, ofKeys ? swapped(data, [B, N, T, D]) : data] as const
  })
  const read = Object.fromEntries(await Promise.all(entries)) as unknown as Results
  tf.dispose(Object.values(made))
  return read
}

/** Largest |got - want|; NaN when any value is. */
function difference(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) throw new Error(`${got.length} values, expected ${want.length}`)
  let most = 0
  for (let i = 0; i < want.length; i++) {
    const here = Math.abs(got[i]! - want[i]!)
    if (!(here <= most)) most = here
  }
  return most
}

const largest = (x: ArrayLike<number>) =>
  Array.from(x).reduce((most, value) => Math.max(most, Math.abs(value)), 0)

/**
 * Within 1e-5 of the largest value. dq and dk are differences of numbers as large as those in dv, nothing remains of
 * them where a query has one key: a tenth of the largest gradient is what they are measured against at least.
 */
function expectAgreement(got: Results, want: Results, about: string): void {
  const floor = 0.1 * Math.max(...(['dq', 'dk', 'dv'] as const).map((part) => largest(want[part])))
  for (const part of ['o', 'dq', 'dk', 'dv'] as const) {
    const size = Math.max(largest(want[part]), part === 'o' ? 1e-3 : floor, 1e-30)
    expect(difference(got[part], want[part]) / size, `${part}, ${about}`).toBeLessThan(1e-5)
  }
  const visible = Array.from(want.lse, (value) => value > -1e29)
  expect(Array.from(got.lse, (value) => value > -1e29)).toEqual(visible)
  const seen = (lse: ArrayLike<number>) => Array.from(lse).filter((_, i) => visible[i])
  expect(difference(seen(got.lse), seen(want.lse)) / Math.max(1, largest(seen(want.lse)))).toBeLessThan(1e-5)
}

type Dropping = 'drop' | 'keep' | 'drop or keep'

/**
 * Shapes [B,N,S,T,D]: other lengths of keys than of queries, around the sizes of blocks and beyond them. Every head size
 * is a program of its own, and another one with dropout, which a software adapter takes seconds to compile.
 */
export const shapes: [number, number, number, number, number, Dropping][] = [
  [1, 1, 1, 1, 4, 'keep'],
  [3, 2, 7, 7, 8, 'drop or keep'],
  [2, 1, 130, 130, 8, 'drop or keep'],
  [2, 2, 1, 65, 64, 'drop or keep'],
  [2, 2, 65, 65, 64, 'drop or keep'],
  [1, 2, 130, 33, 64, 'drop or keep'],
  [3, 1, 33, 7, 32, 'drop'],
  [2, 3, 7, 33, 4, 'keep'],
  [2, 1, 33, 130, 96, 'drop'],
  [2, 2, 65, 40, 20, 'keep'],
  [1, 2, 7, 9, 128, 'keep'],
  [2, 2, 7, 9, 5, 'drop'],
  [2, 1, 9, 7, 132, 'drop'],
]

/** Expects the two functions to agree with the truth. */
export async function expectAttention(sizes: Sizes, padded: string, layout: Layout, drop: Drop | null) {
  const one = makeCase(sizes, padded, drop)
  const about = `${layout}, padding ${padded}, dropout ${drop?.rate ?? 0}`
  expectAgreement(await results(one, layout), truth(one), about)
}

/** Expects that the results have nothing of keys that are hidden in whole tiles, by putting NaN there. */
export async function expectTilesSkipped(drop: Drop | null) {
  const sizes = { B: 2, N: 2, S: 70, T: 130, D: 8 }
  const one = makeCase(sizes, 'none', drop)
  // Item 0 sees keys of the second tile alone, item 1 of the third and fourth.
  one.padding = Int32Array.of(40, 70, 64, 10)
  const want = truth(one)
  const width = sizes.N * sizes.D
  for (const [b, from, to] of [
    [0, 0, 32],
    [0, 64, 130],
    [1, 0, 64],
    [1, 128, 130],
  ] as const)
    for (const x of [one.k, one.v]) x.fill(NaN, (b * sizes.T + from) * width, (b * sizes.T + to) * width)
  expectAgreement(await results(one, 'rows'), want, 'NaN where nobody looks')
}

/**
 * Declares the tests; `layouts` that the backend has, and which of the shapes. Each must leave as many tensors as it
 * found.
 */
export function declareAttentionTests(layouts: Layout[], some = shapes): void {
  let before = 0
  beforeEach(() => void (before = tf.memory().numTensors))
  afterEach(() => expect(tf.memory().numTensors, 'tensors left over').toBe(before))

  test.each(some)('attention of B %i, N %i, S %i, T %i, D %i, %s', async (B, N, S, T, D, dropping) => {
    for (const [i, padded] of Object.keys(paddings).entries()) {
      const layout = layouts[(S + i) % layouts.length]!
      const drops = dropping === 'drop' || (dropping === 'drop or keep' && (S + i) % 2 === 0)
      const drop = drops ? { rate: 0.3, seed: 5, offset: 70 + i } : null
      await expectAttention({ B, N, S, T, D }, padded, layout, drop)
    }
  })

  test('attention with scores far apart, as after long training', async () => {
    const one = makeCase({ B: 2, N: 2, S: 40, T: 50, D: 8 }, 'right', null)
    one.q = one.q.map((x) => 30 * x)
    expectAgreement(await results(one, 'rows'), truth(one), 'large scores')
  })

  test('attention of more rows than a dispatch has workgroups', async () => {
    await expectAttention({ B: 1, N: 2, S: 33_000, T: 3, D: 4 }, 'none', 'rows', null)
  })

  test('attention repeats bit for bit', async () => {
    const drop = { rate: 0.1, seed: 1, offset: 2 }
    const one = makeCase({ B: 2, N: 2, S: 65, T: 70, D: 32 }, 'by query, some all', drop)
    expect(await results(one, 'rows')).toEqual(await results(one, 'rows'))
  })

  test('attention refuses shapes that disagree', () => {
    const [q, k, padding] = [tf.zeros([6, 8]), tf.zeros([6, 8]), tf.zeros([2, 3], 'int32')]
    const call = () =>
      attention(
        q as tf.Tensor2D,
        k as tf.Tensor2D,
        k as tf.Tensor2D,
        padding as tf.Tensor2D,
        { B: 2, N: 2, scale: 1 },
        null,
      )
    expect(call).toThrow('q, k, v, padding of shapes [6,8], [6,8], [6,8], [2,3], which disagree')
    tf.dispose([q, k, padding])
  })
}
