/** What the kernel tests share: random input, and results read back with nothing left over. */
import * as tf from '@tensorflow/tfjs-core'
import { expect } from 'vitest'
import { uploadTensor } from '../../src/kernels/backend.ts'
import { TorchGenerator } from '../../src/random.ts'
import { worstError, type Numbers } from './truth.ts'

const rng = new TorchGenerator(7)

/** n numbers, uniform in [-1, 1). */
export function random(n: number): Float32Array {
  return rng.uniform(n, -1, 1)
}

/** The values of what `make` returns; everything else it made is freed. */
export async function values(make: () => tf.Tensor): Promise<Float32Array> {
  const tensor = tf.tidy(make)
  const data = (await tensor.data()) as Float32Array
  tensor.dispose()
  return data
}

/** Expects the result of `make` within `limit` of the truth, relative to its largest value. */
export async function agree(make: () => tf.Tensor, want: Numbers, limit = 1e-5): Promise<void> {
  expect(worstError(await values(make), want)).toBeLessThan(limit)
}

export const vector = (data: Float32Array | Int32Array) => uploadTensor<tf.Rank.R1>(data, [data.length])
export const matrix = (data: Float32Array | Int32Array, columns: number) =>
  uploadTensor<tf.Rank.R2>(data, [data.length / columns, columns])
export const tensor4 = (data: Float32Array, shape: [number, number, number, number]) =>
  uploadTensor<tf.Rank.R4>(data, shape)
