/**
 * torch.nn.Linear, forward and backward: `y = x Wᵀ + b` with `weight` [M,K] as checkpoints store it. Each gradient is a
 * function of its own, so that a frozen weight never costs one.
 */
import type * as tf from '@tensorflow/tfjs-core'
import { matmul, matmulBias } from './matmul.ts'
import { columnSum } from './sum.ts'

/** x [N,K], weight [M,K], bias [M] -> [N,M] */
export function linear(x: tf.Tensor2D, weight: tf.Tensor2D, bias: tf.Tensor1D | null): tf.Tensor2D {
  return bias ? matmulBias(x, weight, bias) : matmul(x, weight, false, true)
}

/** dy [N,M], weight [M,K] -> dx [N,K] */
export function linearBackwardInput(dy: tf.Tensor2D, weight: tf.Tensor2D): tf.Tensor2D {
  return matmul(dy, weight)
}

/** dy [N,M], x [N,K] -> dweight [M,K] */
export function linearBackwardWeight(dy: tf.Tensor2D, x: tf.Tensor2D): tf.Tensor2D {
  return matmul(dy, x, true, false)
}

/** dy [N,M] -> dbias [M] */
export function linearBackwardBias(dy: tf.Tensor2D): tf.Tensor1D {
  return columnSum(dy)
}
