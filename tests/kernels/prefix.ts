/** Keys and values behind a learned prefix, and the ways back, against the same written out in double precision. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { uploadTensor } from '../../src/kernels/backend.ts'
import {
  gateGradient,
  poolGradient,
  withoutPrefix,
  withPrefix,
  type Prefix,
} from '../../src/kernels/prefix.ts'
import { agree, matrix, random, tensor4 } from './harness.ts'

/** B texts of S tokens, N heads of D features, P prefix positions in a pool of `layers`, g gates. */
interface Case {
  sizes: [B: number, S: number, N: number, D: number, P: number]
  layers: number
  layer: number
  g: 0 | 1 | 2
}

const cases: Case[] = [
  { sizes: [3, 7, 2, 8, 5], layers: 2, layer: 1, g: 0 },
  { sizes: [2, 33, 3, 12, 1], layers: 1, layer: 0, g: 1 },
  { sizes: [5, 4, 2, 7, 9], layers: 3, layer: 1, g: 2 },
  { sizes: [1, 1, 1, 4, 3], layers: 2, layer: 0, g: 2 },
  { sizes: [9, 30, 4, 32, 30], layers: 2, layer: 1, g: 1 },
]

/** Everything one case needs, and where each element lies. */
function laidOut({ sizes: [B, S, N, D, P], layers, layer, g }: Case) {
  const [H, T] = [N * D, P + S]
  const W = 2 * layers * H
  const first = 2 * layer * H
  const pool = random(P * W)
  const gates = random(B * g)
  const gate = (b: number, c: number) => (g === 0 ? 1 : gates[b * g + Math.min(c, g - 1)]!)
  const prefix = (): Prefix => ({
    pool: matrix(pool, W),
    first,
    gate: g === 0 ? null : uploadTensor<tf.Rank.R3>(gates, [B, 1, g]),
  })
  /** What stands for each element of heads of keys or values, [B,N,T,D]. */
  const heads = <V>(at: (b: number, h: number, t: number) => V) =>
    Array.from({ length: B * T * H }, (_, i) => {
      const [d, t, n, b] = [i % D, Math.floor(i / D) % T, Math.floor(i / D / T) % N, Math.floor(i / H / T)]
      return at(b, n * D + d, t)
    })
  return { B, S, N, D, P, H, T, W, first, pool, gate, prefix, heads }
}

export function declarePrefix(): void {
  test.each(cases)('keys and values behind a prefix: %o', async (given) => {
    const { B, S, N, P, H, W, first, pool, gate, prefix, heads } = laidOut(given)
    const own = random(2 * B * S * H)
    const want = (c: number) =>
      heads((b, h, t) =>
        t < P ? gate(b, c) * pool[t * W + first + c * H + h]! : own[((c * B + b) * S + t - P) * H + h]!,
      )
    const make = () => withPrefix(uploadTensor<tf.Rank.R3>(own, [2, B * S, H]), prefix(), B, N)
    await agree(() => make().k, want(0), 1e-6)
    await agree(() => make().v, want(1), 1e-6)
  })

  test.each(cases)('their gradients without it: %o', async (given) => {
    const { B, S, N, D, P, H, T } = laidOut(given)
    const [dq, dk, dv] = [random(B * S * H), random(B * T * H), random(B * T * H)]
    const rows = (x: Float32Array) =>
      Array.from({ length: B * S * H }, (_, i) => {
        const [h, s, b] = [i % H, Math.floor(i / H) % S, Math.floor(i / H / S)]
        return x[((b * N + Math.floor(h / D)) * T + P + s) * D + (h % D)]!
      })
    const shape: [number, number, number, number] = [B, N, T, D]
    const make = () => withoutPrefix(matrix(dq, H), { k: tensor4(dk, shape), v: tensor4(dv, shape) }, P)
    await agree(make, [...dq, ...rows(dk), ...rows(dv)], 1e-7)
  })

  test.each(cases)('the gradients of prefix and gates: %o', async (given) => {
    const { B, N, D, P, H, T, W, first, pool, gate, prefix, heads } = laidOut(given)
    const [dk, dv, sum] = [random(B * T * H), random(B * T * H), random(P * W)]
    const dPool = new Float64Array(P * W)
    const dGate = new Float64Array(B * given.g)
    for (const [c, x] of [dk, dv].entries())
      heads((b, h, t) => [b, h, t] as const).forEach(([b, h, t], i) => {
        if (t >= P) return
        const at = t * W + first + c * H + h
        dPool[at]! += gate(b, c) * x[i]!
        dGate[b * given.g + Math.min(c, given.g - 1)]! += pool[at]! * x[i]!
      })
    const shape: [number, number, number, number] = [B, N, T, D]
    const learned = () => ({ k: tensor4(dk, shape), v: tensor4(dv, shape) })
    await agree(() => poolGradient(learned(), prefix(), null), dPool)
    await agree(
      () => poolGradient(learned(), prefix(), matrix(sum, W)),
      dPool.map((x, i) => x + sum[i]!),
    )
    if (given.g > 0) await agree(() => gateGradient(learned(), prefix(), given.g), dGate)
    expect(dPool.some((x) => x !== 0)).toBe(true)
  })
}
