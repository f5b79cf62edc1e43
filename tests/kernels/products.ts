/** Matrix products and linear layers, forward and backward, on odd shapes. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { uploadTensor } from '../../src/kernels/backend.ts'
import {
  linear,
  linearBackwardBias,
  linearBackwardInput,
  linearBackwardWeight,
} from '../../src/kernels/linear.ts'
import { matmul } from '../../src/kernels/matmul.ts'
import { agree, matrix, random, vector } from './harness.ts'
import { matmulTruth } from './truth.ts'

export function declareProducts(): void {
  const transposes = [
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ] as const

  test.each(transposes)('matmul, small and odd sizes, transposed %s %s', async (tA, tB) => {
    for (const [batch, M, N, K] of [
      [1, 1, 1, 1],
      [1, 3, 2, 33],
      [1, 9, 12, 8],
      [3, 7, 5, 36],
      [2, 33, 65, 7],
      [6, 16, 16, 64],
    ] as const) {
      const [a, b] = [random(batch * M * K), random(batch * K * N)]
      const make = () =>
        matmul(
          uploadTensor<tf.Rank.R4>(a, tA ? [1, batch, K, M] : [1, batch, M, K]),
          uploadTensor<tf.Rank.R4>(b, tB ? [1, batch, N, K] : [1, batch, K, N]),
          tA,
          tB,
        )
      await agree(make, matmulTruth(a, b, { batch, M, N, K }, tA, tB))
    }
  })

  // The region in which tfjs's own choice of program is wrong (see tests/gpu/kernels.test.ts).
  test.each([
    [8, 2048, 4],
    [128, 3072, 8],
    [320, 768, 64],
    [65, 4096, 48],
  ])('matmul of %i tokens, inner dimension %i, rank %i', async (M, K, N) => {
    for (const [tA, tB] of transposes.slice(0, 3)) {
      const [a, b] = [random(M * K), random(K * N)]
      const want = matmulTruth(a, b, { batch: 1, M, N, K }, tA, tB)
      await agree(() => matmul(matrix(a, tA ? M : K), matrix(b, tB ? K : N), tA, tB), want)
    }
  })

  test('matmul refuses operands that do not fit', () => {
    const [a, b] = [tf.zeros([2, 3]), tf.zeros([2, 3])]
    expect(() => matmul(a, b)).toThrow('inner and leading dimensions must agree')
    tf.dispose([a, b])
  })

  test.each([
    [5, 3, 2],
    [16, 64, 12],
    [33, 36, 8],
  ])('linear [%i,%i] -> %i, forward and backward', async (N, K, M) => {
    const [x, weight, bias, dy] = [random(N * K), random(M * K), random(M), random(N * M)]
    const product = matmulTruth(x, weight, { batch: 1, M: N, N: M, K }, false, true)
    await agree(() => linear(matrix(x, K), matrix(weight, K), null), product)
    const want = product.map((value, i) => value + bias[i % M]!)
    await agree(() => linear(matrix(x, K), matrix(weight, K), vector(bias)), want)
    const dx = matmulTruth(dy, weight, { batch: 1, M: N, N: K, K: M }, false, false)
    await agree(() => linearBackwardInput(matrix(dy, M), matrix(weight, K)), dx)
    const dWeight = matmulTruth(dy, x, { batch: 1, M, N: K, K: N }, true, false)
    await agree(() => linearBackwardWeight(matrix(dy, M), matrix(x, K)), dWeight)
    const ones = new Float32Array(N).fill(1)
    await agree(
      () => linearBackwardBias(matrix(dy, M)),
      matmulTruth(ones, dy, { batch: 1, M: 1, N: M, K: N }, false, false),
    )
  })
}
