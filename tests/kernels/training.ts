/** Loss, optimiser, the trap checks and uploads. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { adamw, adamwState } from '../../src/kernels/adamw.ts'
import { uploadTensor, uploadTensorInChunks } from '../../src/kernels/backend.ts'
import { crossEntropy } from '../../src/kernels/crossEntropy.ts'
import { checkTraps } from '../../src/kernels/traps.ts'
import { agree, matrix, random, values, vector } from './harness.ts'
import { adamwTruth, gradientTruth, lossTruth, worstError, type Numbers } from './truth.ts'

export function declareTraining(): void {
  test.each([
    [1, 2, 0],
    [7, 3, 0.1],
    [33, 17, 0.2],
  ])('crossEntropy of [%i,%i] with label smoothing %f', async (B, C, label_smoothing) => {
    const logits = random(B * C).map((value) => 20 * value)
    const labels = Int32Array.from({ length: B }, (_, b) => (b * 5) % C)
    const mean = (at: Numbers) => [lossTruth(at, labels, C, label_smoothing).reduce((x, y) => x + y) / B]
    await agree(() => crossEntropy(matrix(logits, C), vector(labels), label_smoothing).loss, mean(logits))
    const want = gradientTruth(mean, logits, [1])
    await agree(() => crossEntropy(matrix(logits, C), vector(labels), label_smoothing).dLogits, want, 1e-6)
  })

  test.each([0, 5, 33])('adamw over 6 steps, %i of 33 elements decayed', async (decayed) => {
    const args = { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, decayed }
    const start = random(33)
    let truth = { p: [...start], m: Array<number>(33).fill(0), v: Array<number>(33).fill(0) }
    let state = adamwState(vector(start))
    for (let t = 1; t <= 6; t++) {
      const g = random(33).map((value, i) => value * 10 ** ((i % 7) - 5))
      const gradient = vector(g)
      state = adamw(state, gradient, args)
      gradient.dispose()
      truth = adamwTruth(truth, g, t, args)
    }
    expect(state.step).toBe(6)
    for (const name of ['p', 'm', 'v'] as const) {
      expect(worstError(await state[name].data(), truth[name])).toBeLessThan(1e-6)
      state[name].dispose()
    }
  })

  test('checkTraps finds nothing wrong', async () => {
    expect((await checkTraps()).filter(({ ok }) => !ok)).toEqual([])
  })

  test('uploads whole and in chunks, and refuses pieces that do not fit', async () => {
    const data = random(5 * 7)
    expect(await values(() => matrix(data, 7))).toEqual(data)
    expect(await values(() => vector(Int32Array.of(3, -1)))).toEqual(Int32Array.of(3, -1))
    const pieces = async function* (count: number) {
      for (let i = 0; i < count; i++) yield data.slice(i * 7, i * 7 + 7)
    }
    const whole = await uploadTensorInChunks<tf.Rank.R2>([5, 7], pieces(5))
    expect(await values(() => whole)).toEqual(data)
    await expect(uploadTensorInChunks([5, 7], pieces(4))).rejects.toThrow('end after 28 of 35')
    await expect(uploadTensorInChunks([4, 7], pieces(5))).rejects.toThrow('exceed')
    expect(() => uploadTensor(data, [5, 8])).toThrow('35 values for the shape [5, 8]')
  })
}
