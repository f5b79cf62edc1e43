/** LayerNorm, attention softmax and the order of heads, forward and backward. */
import { expect, test } from 'vitest'
import { maskedSoftmax, mergeHeads, softmaxBackward, splitHeads } from '../../src/kernels/attention.ts'
import { layerNorm, layerNormBackward, layerNormBackwardWeight } from '../../src/kernels/layerNorm.ts'
import { agree, matrix, random, tensor4, values, vector } from './harness.ts'
import { gradientTruth, layerNormTruth, maskedSoftmaxTruth, worstError, type Numbers } from './truth.ts'

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
    const dWeight = gradientTruth((at) => layerNormTruth(x, at, bias, eps), weight, dy)
    await agree(() => layerNormBackwardWeight(matrix(dy, H), matrix(x, H), eps).weight, dWeight, 2e-5)
    const dBias = gradientTruth((at) => layerNormTruth(x, weight, at, eps), bias, dy)
    await agree(() => layerNormBackwardWeight(matrix(dy, H), matrix(x, H), eps).bias, dBias)
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
    [3, 2, 3, 33],
    [2, 2, 3, 65],
  ])('maskedSoftmax of [%i,%i,%i,%i], forward and backward', async (B, N, S, T) => {
    const scale = 0.7
    const [scores, dp] = [random(B * N * S * T).map((value) => 8 * value), random(B * N * S * T)]
    // One kept key in four is masked; the last item keeps none.
    const mask = Int32Array.from({ length: B * T }, (_, i) =>
      B > 1 && i >= (B - 1) * T ? 0 : i % 4 === 3 ? 0 : 1,
    )
    const truth = (at: Numbers) => maskedSoftmaxTruth(at, mask, T, N * S, scale)
    for (const kept of [mask, Float32Array.from(mask)]) {
      await agree(() => maskedSoftmax(tensor4(scores, [B, N, S, T]), matrix(kept, T), scale), truth(scores))
    }
    const p = Float32Array.from(truth(scores))
    const want = gradientTruth(truth, scores, dp)
    const masked = (i: number) => mask[Math.floor(i / (N * S * T)) * T + (i % T)] === 0
    const got = await values(() =>
      softmaxBackward(tensor4(dp, [B, N, S, T]), tensor4(p, [B, N, S, T]), scale),
    )
    // Where nothing is kept the forward does not depend on the scores at all.
    const live = (i: number) => B === 1 || i < (B - 1) * N * S * T
    expect(
      worstError(
        got.filter((_, i) => live(i) && !masked(i)),
        want.filter((_, i) => live(i) && !masked(i)),
      ),
    ).toBeLessThan(1e-5)
  })

  test('maskedSoftmax of more rows than a dispatch has workgroups', async () => {
    const [S, T] = [65_600, 2]
    const scores = random(S * T)
    const make = () => maskedSoftmax(tensor4(scores, [1, 1, S, T]), matrix(Int32Array.of(1, 1), 2), 1)
    await agree(make, maskedSoftmaxTruth(scores, [1, 1], T, S, 1))
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
