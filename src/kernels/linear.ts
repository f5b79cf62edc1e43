/**
 * torch.nn.Linear, forward and backward: `y = x Wᵀ + b` with `weight` [M,K] as checkpoints store it, or in half precision
 * [M,K/2] (see half.ts). Each gradient is a function of its own, so that a frozen weight never costs one.
 */
import type * as tf from '@tensorflow/tfjs-core'
import { activation, type Activation } from './activations.ts'
import { emptyTensor } from './backend.ts'
import { matmul, type Manner } from './matmul.ts'
import { runsOwn } from './program.ts'
import { columnSum } from './sum.ts'

/** x [N,K], weight [M,K], bias [M] -> [N,M]; `manner` as in matmul.ts, on x Wᵀ + b. */
export function linear(
  x: tf.Tensor2D,
  weight: tf.Tensor2D,
  bias: tf.Tensor1D | null,
  manner: Omit<Manner, 'bias'> = {},
): tf.Tensor2D {
  return matmul(x, weight, false, true, { ...manner, bias })
}

/**
 * h = act(u) of u = x Wᵀ + b, [N,M]; u comes with it, from the same program, where it is `kept`. The caller
 * disposes both.
 */
export function linearActivated(
  name: Activation,
  x: tf.Tensor2D,
  weight: tf.Tensor2D,
  bias: tf.Tensor1D | null,
  kept: boolean,
  inHalf = false,
): { u: tf.Tensor2D | null; h: tf.Tensor2D } {
  if (kept && !runsOwn('matmul')) {
    const u = linear(x, weight, bias, { inHalf })
    return { u, h: activation(name, u) }
  }
  const pre = kept ? emptyTensor<tf.Rank.R2>([x.shape[0], weight.shape[0]]) : null
  return { u: pre, h: linear(x, weight, bias, { activation: { name, pre }, inHalf }) }
}

/** dy [N,M], weight [M,K] -> dx [N,K]; `manner` as in matmul.ts, on dx. */
export function linearBackwardInput(dy: tf.Tensor2D, weight: tf.Tensor2D, manner: Manner = {}): tf.Tensor2D {
  return matmul(dy, weight, false, false, manner)
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
