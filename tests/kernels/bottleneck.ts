/** The bottleneck's kernels against double precision, declared for whatever backend is open. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import type { Activation } from '../../src/kernels/activations.ts'
import { uploadTensor } from '../../src/kernels/backend.ts'
import {
  bottleneckDown,
  bottleneckDownBackward,
  bottleneckUp,
  bottleneckUpBackward,
  bottleneckWeightBackward,
} from '../../src/kernels/bottleneck.ts'
import { aligned, viewOf } from '../../src/kernels/views.ts'
import { matrix, random, vector } from './harness.ts'
import {
  activationTruth,
  gradientTruth,
  layerNormTruth,
  matmulTruth,
  worstError,
  type Numbers,
} from './truth.ts'

const eps = 1e-5

/** Rows, features, width of the bottleneck, its activation and factor. */
export type Case = [N: number, H: number, R: number, act: Activation, factor: number]

/** Edges of every tile, sizes that are no multiple of 4, widths on either side of what a tile holds. */
export const cases: Case[] = [
  [1, 8, 1, 'relu', 1],
  [7, 36, 6, 'gelu', 4],
  [33, 64, 12, 'swish', 0.5],
  [130, 65, 4, 'relu', 2],
  [33, 8, 64, 'swish', 1],
  [130, 768, 48, 'relu', 1],
  [7, 768, 64, 'gelu', 0.25],
  [33, 36, 96, 'gelu', 3],
  [64, 768, 65, 'relu', 1],
]

interface Norm {
  weight: Float32Array
  bias: Float32Array
}

function normOf(H: number): Norm {
  return { weight: random(H).map((value) => 1 + value / 2), bias: random(H) }
}

/** As a tensor; kernels get it with the eps above. */
function upload(norm: Norm | null) {
  return norm && { weight: vector(norm.weight), bias: vector(norm.bias), eps }
}

function normed(x: Numbers, norm: Norm | null): Numbers {
  return norm ? layerNormTruth(x, norm.weight, norm.bias, eps) : x
}

/** dy [N,H] -> the gradient at x of LN(x). */
function normBackwardTruth(dy: Numbers, x: Numbers, { weight }: Norm): Float64Array {
  const H = weight.length
  const dx = new Float64Array(x.length)
  const xhat = layerNormTruth(x, new Float32Array(H).fill(1), new Float32Array(H), eps)
  for (let row = 0; row < x.length; row += H) {
    let [mean, g, gx] = [0, 0, 0]
    for (let h = 0; h < H; h++) {
      mean += x[row + h]! / H
      g += (dy[row + h]! * weight[h]!) / H
      gx += (dy[row + h]! * weight[h]! * xhat[row + h]!) / H
    }
    let variance = 0
    for (let h = 0; h < H; h++) variance += (x[row + h]! - mean) ** 2 / H
    for (let h = 0; h < H; h++)
      dx[row + h] = (dy[row + h]! * weight[h]! - g - xhat[row + h]! * gx) / Math.sqrt(variance + eps)
  }
  return dx
}

function slopeTruth(act: Activation, v: number): number {
  if (act === 'relu') return v > 0 ? 1 : 0
  const f = activationTruth[act]!
  return (f(v + 1e-4) - f(v - 1e-4)) / 2e-4
}

/** left [K,M]ᵀ · right [K,N] and the like; see matmulTruth. */
function product(
  a: Numbers,
  b: Numbers,
  M: number,
  N: number,
  K: number,
  ta = false,
  tb = false,
): Float64Array {
  return matmulTruth(a, b, { batch: 1, M, N, K }, ta, tb)
}

function columnSums(x: Numbers, width: number, factor = 1): Float64Array {
  const sums = new Float64Array(width)
  for (let i = 0; i < x.length; i++) sums[i % width]! += factor * x[i]!
  return sums
}

/** Values of all tensors that `make` returns; twice, and the second time bit for bit the same. */
async function results(make: () => tf.Tensor[]): Promise<Float32Array[]> {
  const once = async () => {
    const tensors = tf.tidy(make)
    const data = await Promise.all(tensors.map((tensor) => tensor.data() as Promise<Float32Array>))
    tf.dispose(tensors)
    return data
  }
  const first = await once()
  const second = await once()
  const differs = first.map((data, i) => data.findIndex((value, at) => !Object.is(value, second[i]![at])))
  expect(differs, 'the first element that is another the second time').toEqual(first.map(() => -1))
  return first
}

function expectAll(got: Float32Array[], want: Record<string, Numbers>): void {
  expect(got.length).toBe(Object.keys(want).length)
  Object.entries(want).forEach(([name, truth], i) =>
    expect(worstError(got[i]!, truth), name).toBeLessThan(1e-5),
  )
}

/** What a pass has besides x and its norm; values that are sums in practice are kept small. */
function passOf(N: number, H: number, R: number) {
  return { a: random(N * R), dpre: random(N * R), dt: random(N * H) }
}

type Pass = ReturnType<typeof passOf>

/** The four gradients of the weights. */
function weightTruth(x: Numbers, norm: Norm | null, pass: Pass, [N, H, R, , factor]: Case) {
  const { a, dpre, dt } = pass
  return {
    downWeight: product(dpre, normed(x, norm), R, H, N, true),
    downBias: columnSums(dpre, R),
    upWeight: product(dt, a, H, R, N, true).map((value) => factor * value),
    upBias: columnSums(dt, H, factor),
  }
}

function weightGradients(
  x: Float32Array,
  norm: Norm | null,
  pass: Pass,
  [, H, R, , factor]: Case,
  outputs: (tf.Tensor | null)[] | null,
) {
  return bottleneckWeightBackward(
    {
      x: matrix(x, H),
      norm: upload(norm),
      a: matrix(pass.a, R),
      dpre: matrix(pass.dpre, R),
      dt: matrix(pass.dt, H),
      factor,
    },
    outputs,
  )
}

/** Input with a mean that is not small beside its deviation. */
const rows = (N: number, H: number) => random(N * H).map((value) => 2 * value + 3)

export function declareBottleneck(): void {
  const both = cases.flatMap((one) => [true, false].map((withNorm) => [...one, withNorm] as const))

  test.each(both)('down of [%i,%i] to %i, %s (factor %d, norm %s)', async (N, H, R, act, _, withNorm) => {
    const [x, weight, bias] = [rows(N, H), random(R * H).map((value) => value / Math.sqrt(H)), random(R)]
    const norm = withNorm ? normOf(H) : null
    const pre = product(normed(x, norm), weight, N, R, H, false, true).map((value, i) => value + bias[i % R]!)
    const got = await results(() => {
      const { pre, a } = bottleneckDown(matrix(x, H), upload(norm), matrix(weight, H), vector(bias), act)
      return [pre, a]
    })
    expectAll(got, { pre, a: pre.map(activationTruth[act]!) })
  })

  test.each(cases)('up of [%i,%i] from %i (%s, factor %d)', async (N, H, R, _, factor) => {
    const [a, residual, bias] = [random(N * R), rows(N, H), random(H)]
    const weight = random(H * R).map((value) => value / Math.sqrt(R))
    const norm = normOf(H)
    const up = product(a, weight, N, H, R, false, true)
    const t = up.map((value, i) => residual[i]! + factor * (value + bias[i % H]!))
    const run = (kept: boolean) => {
      const given = [matrix(weight, R), vector(bias), factor, matrix(residual, H), upload(norm)!] as const
      const { t, y } = bottleneckUp(matrix(a, R), ...given, kept)
      return t ? [t, y] : [y]
    }
    const both = await results(() => run(true))
    expectAll(both, { t, y: normed(t, norm) })
    expect(await results(() => run(false))).toEqual([both[1]])
  })

  test.each(both)(
    'up backward of [%i,%i] to %i, %s (factor %d, norm %s)',
    async (N, H, R, act, factor, withNorm) => {
      const [dy, t, pre] = [random(N * H), rows(N, H), random(N * R).map((value) => 3 * value)]
      const weight = random(H * R).map((value) => value / Math.sqrt(H))
      const norm = withNorm ? normOf(H) : null
      const dt = norm ? normBackwardTruth(dy, t, norm) : dy
      const da = product(dt, weight, N, R, H)
      const got = await results(() => {
        const behind = norm && matrix(t, H)
        const { dt, dpre } = bottleneckUpBackward(
          matrix(dy, H),
          behind,
          upload(norm),
          matrix(weight, R),
          act,
          matrix(pre, R),
          factor,
        )
        return [dt, dpre]
      })
      expectAll(got, { dt, dpre: da.map((value, i) => factor * value * slopeTruth(act, pre[i]!)) })
    },
  )

  test.each(both)(
    'down backward of [%i,%i] to %i (%s, factor %d, norm %s)',
    async (N, H, R, _, __, withNorm) => {
      const [dpre, x, residual] = [random(N * R), rows(N, H), random(N * H)]
      const weight = random(R * H).map((value) => value / Math.sqrt(R))
      const norm = withNorm ? normOf(H) : null
      const dz = product(dpre, weight, N, H, R)
      const alone = norm ? normBackwardTruth(dz, x, norm) : dz
      const dx = (more: boolean) =>
      bottleneckDownBackward(matrix(dpre, R), matrix(weight, H), norm && matrix(x, H), upload(norm), more ? matrix(residual, H) : null) // prettier-ignore
      expectAll(await results(() => [dx(false), dx(true)]), {
        alone,
        added: alone.map((value, i) => value + residual[i]!),
      })
    },
  )

  test.each(both)(
    'weight gradients of [%i,%i] to %i (%s, factor %d, norm %s)',
    async (N, H, R, act, factor, withNorm) => {
      const one: Case = [N, H, R, act, factor]
      const [x, pass, norm] = [rows(N, H), passOf(N, H, R), withNorm ? normOf(H) : null]
      expectAll(
        await results(() => weightGradients(x, norm, pass, one, null)),
        weightTruth(x, norm, pass, one),
      )
    },
  )

  test('weight gradients of more rows than one chunk takes at a time', async () => {
    const one: Case = [2200, 36, 6, 'relu', 2]
    const [N, H, R] = one
    const [x, pass, norm] = [rows(N, H), passOf(N, H, R), normOf(H)]
    expectAll(await results(() => weightGradients(x, norm, pass, one, null)), weightTruth(x, norm, pass, one))
  })

  test('all parts together are the gradient of LN(x + factor·up(act(down(LN(x)))))', async () => {
    const [N, H, R, act, factor] = [5, 12, 8, 'swish', 0.7] as const
    const [x, dy] = [rows(N, H), random(N * H)]
    const [down, downBias, up, upBias] = [random(R * H), random(R), random(H * R), random(H)]
    const [before, after] = [normOf(H), normOf(H)]
    const forward = (x: Numbers, down: Numbers, downBias: Numbers, up: Numbers, upBias: Numbers) => {
      const pre = product(normed(x, before), down, N, R, H, false, true)
      const a = pre.map((value, i) => activationTruth[act]!(value + downBias[i % R]!))
      const o = product(a, up, N, H, R, false, true)
      const t = o.map((value, i) => x[i]! + factor * (value + upBias[i % H]!))
      return { t, y: normed(t, after) }
    }
    const t = Float32Array.from(forward(x, down, downBias, up, upBias).t)
    const got = await results(() => {
      const [norm, X] = [upload(before), matrix(x, H)]
      const { pre, a } = bottleneckDown(X, norm, matrix(down, H), vector(downBias), act)
      const { dt, dpre } = bottleneckUpBackward(
        matrix(dy, H),
        matrix(t, H),
        upload(after),
        matrix(up, R),
        act,
        pre,
        factor,
      )
      const own = bottleneckWeightBackward({ x: X, norm, a, dpre, dt, factor }, null)
      return [bottleneckDownBackward(dpre, matrix(down, H), X, norm, dt), ...own]
    })
    expectAll(got, {
      dx: gradientTruth((at) => forward(at, down, downBias, up, upBias).y, x, dy),
      downWeight: gradientTruth((at) => forward(x, at, downBias, up, upBias).y, down, dy),
      downBias: gradientTruth((at) => forward(x, down, at, up, upBias).y, downBias, dy),
      upWeight: gradientTruth((at) => forward(x, down, downBias, at, upBias).y, up, dy),
      upBias: gradientTruth((at) => forward(x, down, downBias, up, at).y, upBias, dy),
    })
  })

  test('weights that do not fit and a norm without its input are refused in a sentence', () => {
    tf.tidy(() => {
      const [x, weight, bias] = [matrix(random(16), 8), matrix(random(14), 7), vector(random(2))]
      const norm = upload(normOf(8))
      expect(() => bottleneckDown(x, null, weight, bias, 'relu')).toThrow('dimension 1 must be 8')
      const [pre, up, down] = [matrix(random(4), 2), matrix(random(16), 2), matrix(random(16), 8)]
      expect(() => bottleneckUpBackward(x, null, norm, up, 'relu', pre, 1)).toThrow('without its input')
      expect(() => bottleneckDownBackward(pre, down, null, norm, null)).toThrow('without its input')
    })
  })
}

/** Tests of what only a GPU has: slots of one flat gradient, written in place. R > 64 takes other programs. */
export function declareSlots(): void {
  test.each([
    [70, 36, 6, [0, 1, 2, 3]],
    [70, 36, 6, [0, 2]],
    [70, 36, 72, [0, 1, 2, 3]],
    [70, 36, 72, [1, 3]],
  ] as const)(
    'weight gradients of [%i,%i] to %i: parts %j go into slots, and nothing else is touched',
    async (N, H, R, into) => {
      const one: Case = [N, H, R, 'relu', 1.5]
      const [x, pass, norm] = [rows(N, H), passOf(N, H, R), normOf(H)]
      const want = Object.values(weightTruth(x, norm, pass, one))
      const shapes = [[R, H], [R], [H, R], [H]]
      // Last part first, and a gap behind each.
      const expected = new Float64Array(
        want.length * 128 + want.reduce((sum, { length }) => sum + aligned(length), 0),
      ).fill(7)
      const flat = uploadTensor(Float32Array.from(expected), [expected.length])
      let end = expected.length
      const slots = want.map((values, i) => {
        end -= aligned(values.length) + 128
        if (!into.some((part) => part === i)) return null
        expected.set(values, end)
        return viewOf(flat, end, shapes[i]!)
      })
      const held = await Promise.all(slots.map((slot) => slot?.data()))
      expect(held.every((values) => !values || values.every((value) => value === 7))).toBe(true)
      const got = tf.tidy(() => weightGradients(x, norm, pass, one, slots))
      for (const [i, tensor] of got.entries()) {
        if (slots[i]) expect(tensor).toBe(slots[i])
        expect(worstError(await tensor.data<'float32'>(), want[i]!)).toBeLessThan(1e-5)
      }
      const after = await flat.data<'float32'>()
      expect(worstError(after, expected)).toBeLessThan(1e-5)
      expected.forEach((value, at) => value === 7 && expect(after[at]).toBe(7))
      tf.dispose([got, flat])
    },
  )
}
