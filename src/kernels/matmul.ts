/**
 * Matrix products, plain and batched, exact on every shape. Real GPUs run tfjs's packed program, which the flag set in
 * backend.ts forces (tfjs's split-K is wrong with transposeB); software adapters run matmulTiled; on wasm transposes are
 * made first, because its fast routine takes none and the other one is over ten times slower.
 */
import * as tf from '@tensorflow/tfjs-core'
import { softwareVariants } from './backend.ts'
import { matmulTiled, type MatmulSizes } from './matmulTiled.ts'
import { onGpu } from './program.ts'

/**
 * a [...,M,K] (or [...,K,M] with transposeA), b [...,K,N] (or [...,N,K] with transposeB) -> [...,M,N].
 * Throws when ranks, leading dimensions or inner dimensions differ.
 */
export function matmul<T extends tf.Tensor>(a: T, b: T, transposeA = false, transposeB = false): T {
  const sizes = matmulSizes(a, b, transposeA, transposeB)
  if (onGpu() && softwareVariants()) {
    return matmulTiled(a, b, transposeA, transposeB, sizes, [...a.shape.slice(0, -2), sizes.M, sizes.N])
  }
  if (tf.getBackend() !== 'wasm' || a.rank > 2) return tf.matMul(a, b, transposeA, transposeB)
  return tf.tidy(() => tf.matMul<T>(transposeA ? tf.transpose(a) : a, transposeB ? tf.transpose(b) : b))
}

/** x [N,K] · weightᵀ [K,M] + bias [M] -> [N,M] */
export function matmulBias(x: tf.Tensor2D, weight: tf.Tensor2D, bias: tf.Tensor1D): tf.Tensor2D {
  const sizes = matmulSizes(x, weight, false, true)
  if (onGpu() && softwareVariants()) {
    return matmulTiled(x, weight, false, true, sizes, [sizes.M, sizes.N], bias)
  }
  if (onGpu()) return tf.fused.matMul({ a: x, b: weight, transposeB: true, bias }) as tf.Tensor2D
  return tf.tidy(() => tf.add<tf.Tensor2D>(matmul(x, weight, false, true), bias))
}

function matmulSizes(a: tf.Tensor, b: tf.Tensor, transposeA: boolean, transposeB: boolean): MatmulSizes {
  const [aRows = 0, aColumns = 0] = a.shape.slice(-2)
  const [bRows = 0, bColumns = 0] = b.shape.slice(-2)
  const [M, K] = transposeA ? [aColumns, aRows] : [aRows, aColumns]
  const [inner, N] = transposeB ? [bColumns, bRows] : [bRows, bColumns]
  const leading = a.shape.slice(0, -2)
  if (a.rank < 2 || K !== inner || !tf.util.arraysEqual(leading, b.shape.slice(0, -2))) {
    const [left, right] = [`[${a.shape}]${transposeA ? 'ᵀ' : ''}`, `[${b.shape}]${transposeB ? 'ᵀ' : ''}`]
    throw new Error(`matmul cannot multiply ${left} by ${right}: inner and leading dimensions must agree.`)
  }
  return { batch: tf.util.sizeFromShape(leading), M, N, K }
}
