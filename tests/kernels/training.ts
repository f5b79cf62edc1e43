/** Losses, the trap checks and uploads. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { uploadTensor, uploadTensorInChunks } from '../../src/kernels/backend.ts'
import { crossEntropy } from '../../src/kernels/crossEntropy.ts'
import { binaryCrossEntropy, meanSquaredError } from '../../src/kernels/losses.ts'
import { segmentSum } from '../../src/kernels/segmentSum.ts'
import { checkTraps } from '../../src/kernels/traps.ts'
import { mergeSums, rowHits, rowLosses, rowSums, vocabularyGradient } from '../../src/kernels/vocabulary.ts'
import { agree, matrix, random, values, vector } from './harness.ts'
import { gradientTruth, lossTruth, type Numbers } from './truth.ts'

export function declareTraining(): void {
  test.each([
    [1, 2, 0],
    [7, 3, 0.1],
    [33, 17, 0.2],
    [130, 2, 0],
  ])('crossEntropy of [%i,%i] with label smoothing %f', async (B, C, label_smoothing) => {
    const logits = random(B * C).map((value) => 20 * value)
    const labels = Int32Array.from({ length: B }, (_, b) => (b * 5) % C)
    const mean = (at: Numbers) => [lossTruth(at, labels, C, label_smoothing).reduce((x, y) => x + y) / B]
    await agree(() => crossEntropy(matrix(logits, C), vector(labels), label_smoothing).loss, mean(logits))
    const want = gradientTruth(mean, logits, [1])
    await agree(() => crossEntropy(matrix(logits, C), vector(labels), label_smoothing).dLogits, want, 1e-6)
  })

  test('binaryCrossEntropy and meanSquaredError, small and large logits', async () => {
    const x = Float32Array.from([...random(40).map((value) => 5 * value), -60, 60, 25, 0])
    const y = x.map((_, i) => (i % 3 === 0 ? 1 : 0))
    const mean = (each: (value: number, label: number) => number) => (at: Numbers) => [
      Array.from(at, (value, i) => each(value, y[i]!)).reduce((a, b) => a + b) / at.length,
    ]
    const bce = mean((v, label) => Math.max(v, 0) - v * label + Math.log1p(Math.exp(-Math.abs(v))))
    const mse = mean((v, label) => (v - label) ** 2)
    for (const [loss, truth] of [
      [binaryCrossEntropy, bce],
      [meanSquaredError, mse],
    ] as const) {
      await agree(() => loss(vector(x), vector(y)).loss, truth(x))
      await agree(() => loss(vector(x), vector(y)).gradient, gradientTruth(truth, x, [1]), 1e-6)
    }
  })

  test.each([
    [5, 7, 3, 0],
    [9, 130, 64, 0.1],
  ])('vocabulary loss of [%i,%i] in two blocks from word %i, smoothing %f', async (R, V, cut, smoothing) => {
    const logits = random(R * V).map((value) => 20 * value)
    const labels = Int32Array.from({ length: R }, (_, r) => (r * 31) % V)
    const block = (from: number, to: number) => tf.slice(matrix(logits, V), [0, from], [R, to - from])
    const sums = () =>
      mergeSums(
        rowSums(block(0, cut), vector(labels) as tf.Tensor1D, 0),
        rowSums(block(cut, V), vector(labels) as tf.Tensor1D, cut),
      )
    await agree(() => rowLosses(sums(), V, smoothing).losses, lossTruth(logits, labels, V, smoothing))
    const mean = (at: Numbers) => [lossTruth(at, labels, V, smoothing).reduce((x, y) => x + y) / R]
    await agree(
      () => {
        const { logTotal } = rowLosses(sums(), V, smoothing)
        const args = { logTotal, labels: vector(labels), size: V, label_smoothing: smoothing, weight: 1 / R }
        const parts = [
          vocabularyGradient(block(0, cut), { ...args, first: 0 }),
          vocabularyGradient(block(cut, V), { ...args, first: cut }),
        ]
        return tf.concat(parts, 1)
      },
      gradientTruth(mean, logits, [1]),
      1e-6,
    )
    const best = Array.from({ length: R }, (_, r) => {
      const row = [...logits.subarray(r * V, (r + 1) * V)]
      return row.indexOf(Math.max(...row)) === labels[r] ? 1 : 0
    })
    expect([...(await values(() => rowHits(sums())))]).toEqual(best)
  })

  test('segmentSum of ids that repeat, with padding and without', async () => {
    const [M, H, rows] = [70, 5, 11]
    const x = random(M * H)
    const ids = Int32Array.from({ length: M }, (_, m) => (m * m) % 7)
    const want = new Float64Array(rows * H)
    x.forEach((value, i) => (want[ids[Math.floor(i / H)]! * H + (i % H)]! += value))
    await agree(() => segmentSum(matrix(x, H), vector(ids), rows), want)
    const padding_idx = 4
    want.fill(0, padding_idx * H, (padding_idx + 1) * H)
    await agree(() => segmentSum(matrix(x, H), vector(ids), rows, padding_idx), want)
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
