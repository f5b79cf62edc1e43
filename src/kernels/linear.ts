/**
 * torch.nn.Linear, forward and backward: `y = x Wᵀ + b` with `weight` [M,K] as checkpoints store it, or in half precision
 * [M,K/2] (see half.ts). Each gradient is a function of its own, so that a frozen weight never costs one.
 */
import type * as tf from '@tensorflow/tfjs-core'
import { matmul, type Epilogue } from './matmul.ts'
import { columnSum } from './sum.ts'

/** x [N,K], weight [M,K], bias [M] -> [N,M]; `epilogue` as in matmul.ts, on x Wᵀ + b. */
export function linear(
  x: tf.Tensor2D,
  weight: tf.Tensor2D,
  bias: tf.Tensor1D | null,
  epilogue: Omit<Epilogue, 'bias'> = {},
): tf.Tensor2D {
  return matmul(x, weight, false, true, { ...epilogue, bias })
}

/** dy [N,M], weight [M,K] -> dx [N,K]; `epilogue` as in matmul.ts, on dx. */
export function linearBackwardInput(
  dy: tf.Tensor2D,
  weight: tf.Tensor2D,
  epilogue: Epilogue = {},
): tf.Tensor2D {
  return matmul(dy, weight, false, false, epilogue)
}

/** dy [N,M], x [N,K] -> dweight [M,K], in `output` where that is given (on webgpu). */
export function linearBackwardWeight(
  dy: tf.Tensor2D,
  x: tf.Tensor2D,
  output: tf.Tensor | null = null,
): tf.Tensor2D {
  return matmul(dy, x, true, false, { output })
}

/** dy [N,M] -> dbias [M], in `output` where that is given (on webgpu). */
export function linearBackwardBias(dy: tf.Tensor2D, output: tf.Tensor | null = null): tf.Tensor1D {
  return columnSum(dy, output)
}
