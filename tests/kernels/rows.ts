/** LayerNorm and the order of heads, forward and backward. */
import type * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { mergeHeads, splitHeads } from '../../src/kernels/attention.ts'
import { embeddingNorm } from '../../src/kernels/embedding.ts'
import { layerNorm, layerNormBackward, layerNormBackwardWeight } from '../../src/kernels/layerNorm.ts'
import { agree, matrix, random, tensor4, values, vector } from './harness.ts'
import { gradientTruth, layerNormTruth } from './truth.ts'

export function declareRowOps(): void {
  test.each([
    [1, 1],
    [3, 7],
    [17, 65],
    [5, 128],
  ])('layerNorm of [%i,%i], forward and backward', async (N, H) => {
    const eps = 1e-5
    const x = random(N * H).map((value) => 3 * value + 5)
    const [weight, bias, dy] = [random(H), random(H), random(N * H)]
    await agree(
      () => layerNorm(matrix(x, H), vector(weight), vector(bias), eps),
      layerNormTruth(x, weight, bias, eps),
    )
    const dx = gradientTruth((at) => layerNormTruth(at, weight, bias, eps), x, dy)
    await agree(() => layerNormBackward(matrix(dy, H), matrix(x, H), vector(weight), eps), dx, 2e-5)
    const past = random(N * H)
    await agree(
      () => layerNormBackward(matrix(dy, H), matrix(x, H), vector(weight), eps, matrix(past, H)),
      dx.map((value, i) => value + past[i]!),
      2e-5,
    )
    const dWeight = gradientTruth((at) => layerNormTruth(x, at, bias, eps), weight, dy)
    await agree(() => layerNormBackwardWeight(matrix(dy, H), matrix(x, H), eps).weight, dWeight, 2e-5)
    const dBias = gradientTruth((at) => layerNormTruth(x, weight, at, eps), bias, dy)
    await agree(() => layerNormBackwardWeight(matrix(dy, H), matrix(x, H), eps).bias, dBias)
  })

  test.each([
    [1, 1, 11],
    [7, 6, 11],
    [5, 130, 4],
  ])('embeddingNorm of [%i,%i], table in blocks of %i rows', async (N, H, height) => {
    const [V, P, eps] = [11, 9, 1e-5]
    const [words, positions, types] = [random(V * H), random(P * H), random(2 * H)]
    const [weight, bias] = [random(H), random(H)]
    const ids = Int32Array.from({ length: N }, (_, i) => (i * 7 + 10) % V)
    const position_ids = Int32Array.from({ length: N }, (_, i) => (i * 4 + 8) % P)
    const sum = Float64Array.from({ length: N * H }, (_, i) => {
      const [n, h] = [Math.floor(i / H), i % H]
      return words[ids[n]! * H + h]! + types[h]! + positions[position_ids[n]! * H + h]!
    })
    const make = () => {
      const blocks = Array.from({ length: Math.ceil(V / height) }, (_, i) =>
        matrix(words.slice(i * height * H, (i + 1) * height * H), H),
      )
      const norm = { weight: vector(weight) as tf.Tensor1D, bias: vector(bias) as tf.Tensor1D, eps }
      return embeddingNorm(blocks, vector(ids) as tf.Tensor1D, {
        ...{ positions: matrix(positions, H), position_ids: vector(position_ids) as tf.Tensor1D },
        ...{ types: matrix(types, H), norm },
      })
    }
    await agree(make, layerNormTruth(sum, weight, bias, eps), 2e-5)
  })

  test('layerNorm of more rows than a dispatch has workgroups', async () => {
    const [N, H] = [65_600, 3]
    const [x, weight, bias] = [random(N * H), random(H), random(H)]
    await agree(
      () => layerNorm(matrix(x, H), vector(weight), vector(bias), 1e-5),
      layerNormTruth(x, weight, bias, 1e-5),
      1e-4,
    )
  })

  test.each([
    [1, 1, 1, 1],
    [2, 3, 5, 7],
    [3, 2, 4, 8],
  ])('splitHeads and mergeHeads of [%i,%i,%i,%i]', async (B, N, S, D) => {
    const x = random(B * N * S * D)
    const at = (b: number, n: number, s: number, d: number) => x[((b * S + s) * N + n) * D + d]!
    const want = Float32Array.from(x, (_, i) =>
      at(Math.floor(i / (N * S * D)), Math.floor(i / (S * D)) % N, Math.floor(i / D) % S, i % D),
    )
    expect(await values(() => splitHeads(matrix(x, N * D), B, N))).toEqual(want)
    expect(await values(() => mergeHeads(tensor4(want, [B, N, S, D])))).toEqual(x)
  })
}
