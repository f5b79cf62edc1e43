/** Gates and what goes through them, against the same written out in double precision. */
import * as tf from '@tensorflow/tfjs-core'
import { test } from 'vitest'
import { uploadTensor } from '../../src/kernels/backend.ts'
import { meanSigmoid, meanSigmoidBackward, timesGate, timesGateBackward } from '../../src/kernels/gate.ts'
import { agree, matrix, random } from './harness.ts'

const sizes: [B: number, S: number, M: number][] = [
  [3, 7, 1],
  [2, 130, 2],
  [5, 1, 33],
  [1, 64, 768],
]

/** [B,1,k] */
const gates = (values: Float32Array, B: number) => uploadTensor<tf.Rank.R3>(values, [B, 1, values.length / B])

export function declareGates(): void {
  test.each(sizes)('the mean over tokens of a sigmoid: %i texts of %i tokens, %i gates', async (B, S, k) => {
    const x = Float32Array.from(random(B * S * k), (value, i) => (i % 9 === 4 ? 100 : 6) * value)
    const dy = random(B * k)
    const mean = (at: ArrayLike<number>) =>
      Float64Array.from({ length: B * k }, (_, i) => {
        const [b, j] = [Math.floor(i / k), i % k]
        let sum = 0
        for (let s = 0; s < S; s++) sum += 1 / (1 + Math.exp(-at[(b * S + s) * k + j]!))
        return sum / S
      })
    await agree(() => meanSigmoid(matrix(x, k), B), mean(x), 1e-6)
    const dx = Float64Array.from(x, (value, i) => {
      const open = 1 / (1 + Math.exp(-value))
      return (dy[Math.floor(i / S / k) * k + (i % k)]! / S) * open * (1 - open)
    })
    await agree(() => meanSigmoidBackward(gates(dy, B), matrix(x, k)), dx, 1e-6)
  })

  test.each(sizes)(
    'rows times the gate of their text: %i texts of %i tokens, %i columns',
    async (B, S, M) => {
      const [x, dy, gate] = [random(B * S * M), random(B * S * M), random(B)]
      const product = Float64Array.from(x, (value, i) => value * gate[Math.floor(i / S / M)]!)
      await agree(() => timesGate(matrix(x, M), gates(gate, B)), product, 1e-7)
      const sums = new Float64Array(B)
      x.forEach((value, i) => (sums[Math.floor(i / S / M)]! += value * dy[i]!))
      await agree(() => timesGateBackward(matrix(dy, M), matrix(x, M), B), sums)
    },
  )
}
