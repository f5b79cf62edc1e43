/**
 * Products in half precision on WebGPU: within stated bounds of float64 at every magnitude where the device has
 * shader-f16, and nothing else than float32 where it has not.
 */
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { deviceLine } from '../../src/deviceText.ts'
import { openBackend, uploadTensor } from '../../src/kernels/backend.ts'
import { toHalf } from '../../src/kernels/half.ts'
import { linear, linearActivated, linearBackwardInput } from '../../src/kernels/linear.ts'
import { multipliesInHalf, projections, projectionsBackwardInput } from '../../src/kernels/matmul.ts'
import { disposeModel } from '../../src/model/model.ts'
import { disposeRoberta } from '../../src/model/roberta.ts'
import { keepsAll } from '../../src/model/walk.ts'
import { matrix, random, values, vector } from '../kernels/harness.ts'
import { activationTruth, matmulTruth } from '../kernels/truth.ts'
import { apart, loadBase, modelOf, passOf, type Pass } from '../savingChecks.ts'

/** Of each element, relative to its sum of magnitudes: both operands, their product and three sums are rounded. */
const worst = 6 * 1.01 * 2 ** -11
/** Of a whole result, by norms. */
const typical = 1e-3

/** Rows of activations or gradients: one element in 50 stands out, and every third row is a thousandth of the others. */
function rowsOf(count: number, width: number, magnitude: number): Float32Array {
  const outlier = (i: number) => (i % 50 === 7 ? 40 : 1)
  const quiet = (i: number) => (Math.floor(i / width) % 3 === 2 ? 1e-3 : 1)
  return random(count * width).map((x, i) => x * magnitude * outlier(i) * quiet(i))
}

/** Weights as large as RoBERTa's, of which a few stand out. */
const weightsOf = (n: number) => random(n).map((x, i) => x * (i % 301 === 5 ? 10 : 0.05))

const shapes = [
  ['vec4s', 40, 36, 64],
  ['odd sizes', 37, 19, 45],
  ['a split inner dimension', 33, 24, 1040],
  ['many tiles', 700, 772, 20],
] as const

/** One pass as it is, and with products in half precision. */
async function passes(name: string): Promise<{ kept: Pass; halved: Pass }> {
  const { roberta } = await loadBase()
  const model = await modelOf(roberta, name)
  const kept = await passOf(model, keepsAll)
  const halved = await passOf(model, { ...keepsAll, inHalf: true })
  disposeModel(model)
  disposeRoberta(roberta)
  return { kept, halved }
}

describe('where the device has shader-f16', () => {
  let missing = false
  beforeAll(async () => {
    await openBackend('webgpu', { variants: 'gpu' })
    missing = !multipliesInHalf()
  })
  beforeEach(({ skip }) => skip(missing, 'this device has no shader-f16'))

  /** Holds a result to both bounds, row by row to the second. */
  async function check(
    make: () => tf.Tensor,
    a: Float32Array,
    b: Float32Array,
    sizes: number[],
    tB: boolean,
  ) {
    const [M, N, K] = sizes as [number, number, number]
    const shape = { batch: 1, M, N, K }
    const want = matmulTruth(a, b, shape, false, tB)
    const bound = matmulTruth(a.map(Math.abs), b.map(Math.abs), shape, false, tB)
    const got = await values(make)
    const beyond = got.findIndex((x, i) => !(Math.abs(x - want[i]!) <= worst * bound[i]!))
    expect(beyond, `element ${beyond}`).toBe(-1)
    for (let row = 0; row < M; row++) {
      const part = <T extends Float32Array | Float64Array>(x: T) => x.subarray(row * N, (row + 1) * N)
      expect(apart(part(got), part(want)), `row ${row}`).toBeLessThan(typical * 2)
    }
    expect(apart(got, want)).toBeLessThan(typical)
    expect(apart(got, want), 'nothing was rounded').toBeGreaterThan(1e-5)
  }

  test.each(shapes)('x·Wᵀ and dy·W keep three digits at any magnitude: %s', async (_, N, M, K) => {
    const weight = weightsOf(M * K)
    for (const magnitude of [1e-20, 1e-8, 1, 3000, 1e12]) {
      const [x, dy] = [rowsOf(N, K, magnitude), rowsOf(N, M, magnitude)]
      const manner = { inHalf: true }
      await check(() => linear(matrix(x, K), matrix(weight, K), null, manner), x, weight, [N, M, K], true)
      const back = () => linearBackwardInput(matrix(dy, M), matrix(weight, K), manner)
      await check(back, dy, weight, [N, K, M], false)
    }
  })

  test('a matrix that is held in half precision', async () => {
    const [N, M, K] = [33, 20, 64]
    const [x, weight] = [rowsOf(N, K, 2), weightsOf(M * K)]
    const words = () => matrix(toHalf(weight), K / 2)
    await check(() => linear(matrix(x, K), words(), null, { inHalf: true }), x, weight, [N, M, K], true)
  })

  test('linear layers side by side, and the way back through them', async () => {
    const [C, N, M, K] = [3, 37, 20, 48]
    const [x, weight, dy] = [rowsOf(N, K, 1), weightsOf(C * M * K), rowsOf(C * N, M, 1e-7)]
    const side = () => {
      const y = projections(matrix(x, K), matrix(weight, K), null, C, true)
      return tf.reshape(tf.transpose(y, [1, 0, 2]), [N, C * M])
    }
    await check(side, x, weight, [N, C * M, K], true)
    const wide = Float32Array.from({ length: N * C * M }, (_, at) => {
      const [n, c, m] = [Math.floor(at / (C * M)), Math.floor(at / M) % C, at % M]
      return dy[(c * N + n) * M + m]!
    })
    const back = () =>
      projectionsBackwardInput(
        uploadTensor<tf.Rank.R3>(dy, [C, N, M]),
        matrix(weight, K),
        tf.zeros([N, K]),
        true,
      )
    await check(back, wide, weight, [N, K, C * M], false)
  })

  test('what comes after the product is in float32', async () => {
    const [N, M, K] = [9, 8, 16]
    const [x, weight] = [random(N * K), weightsOf(M * K)]
    const bias = random(M).map((value) => 1e6 * value)
    const product = matmulTruth(x, weight, { batch: 1, M: N, N: M, K }, false, true)
    const want = product.map((value, i) => activationTruth.gelu!(value + bias[i % M]!))
    const got = await values(() => {
      const { h } = linearActivated('gelu', matrix(x, K), matrix(weight, K), vector(bias), true, true)
      return h
    })
    expect(apart(got, want)).toBeLessThan(1e-6)
  })

  test('zeros give zeros, what is no number gives no number, and rows beside them stay as they are', async () => {
    const [M, K] = [8, 16]
    const x = Float32Array.from({ length: 3 * K }, (_, i) => (i < K ? 0 : i === K + 3 ? NaN : 1))
    const weight = new Float32Array(M * K).fill(0.5)
    const got = await values(() => linear(matrix(x, K), matrix(weight, K), null, { inHalf: true }))
    expect([...got]).toEqual([...Array(M).fill(0), ...Array(M).fill(NaN), ...Array(M).fill(K / 2)])
  })

  test.each(['seq_bn', 'lora', 'unipelt'])('gradients of %s are within 3e-3 as a whole', async (name) => {
    const { kept, halved } = await passes(name)
    expect(Math.abs(halved.loss / kept.loss - 1)).toBeLessThan(1e-3)
    expect(apart(halved.gradient, kept.gradient)).toBeLessThan(3e-3)
    expect(apart(halved.gradient, kept.gradient), 'nothing was rounded').toBeGreaterThan(1e-5)
  })

  test('gradients of what leaves no matrix frozen are the same', async () => {
    const { kept, halved } = await passes('full')
    expect(halved).toEqual(kept)
  })
})

test.each(['gpu', 'software'] as const)(
  'where it has not, or in the variants for %s, asking for it changes nothing',
  async (variants) => {
    await openBackend('webgpu', { variants, features: variants === 'gpu' ? [] : undefined })
    expect(multipliesInHalf()).toBe(false)
    const [N, M, K] = [12, 8, 20]
    const [x, weight] = [random(N * K), random(M * K)]
    const product = (inHalf: boolean) =>
      values(() => linear(matrix(x, K), matrix(weight, K), null, { inHalf }))
    expect(await product(true)).toEqual(await product(false))
    if (variants === 'software') {
      const { kept, halved } = await passes('seq_bn')
      expect(halved).toEqual(kept)
    }
    expect(deviceLine(null, { rounded: false, args: { half_precision_products: true } })).toMatch(
      /half-precision products ignored \(.+\)$/,
    )
  },
)
