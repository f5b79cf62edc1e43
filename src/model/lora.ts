/** A frozen linear layer with an optional low-rank update (Hu et al. 2021; `LoRALinear` of `adapters`). */
import * as tf from '@tensorflow/tfjs-core'
import { addScaled, scale } from '../kernels/addScaled.ts'
import { linear, linearBackwardInput, linearBackwardWeight } from '../kernels/linear.ts'
import type { LoRA } from './adapters.ts'
import type { Views } from './params.ts'
import { drop, type Noise } from './pass.ts'
import type { Linear } from './roberta.ts'

/** x [N,in] -> x·Wᵀ + b + s·dropout(x)·Aᵀ·Bᵀ [N,out]. */
export function loraLinear(
  x: tf.Tensor2D,
  { weight, bias }: Linear,
  lora: LoRA | undefined,
  noise: Noise | null,
): tf.Tensor2D {
  if (!lora) return linear(x, weight, bias)
  return tf.tidy(() => {
    const down = linear(drop(noise, x, lora.dropout, lora.site), lora.lora_A, null) // [N,R]
    return addScaled(linear(x, weight, bias), linear(down, lora.lora_B, null), lora.scaling)
  })
}

/** dy [N,out] -> the update's gradients, kept in `grads`; with `needInput` also dx [N,in]. */
export function loraLinearBackward(
  dy: tf.Tensor2D,
  x: tf.Tensor2D,
  { weight }: Linear,
  lora: LoRA | undefined,
  noise: Noise | null,
  needInput: boolean,
  grads: Views,
): tf.Tensor2D | undefined {
  return tf.tidy(() => {
    const dx = needInput ? linearBackwardInput(dy, weight) : undefined
    if (!lora) return dx
    const { path, lora_A, lora_B, scaling, dropout, site } = lora
    const dropped = drop(noise, x, dropout, site)
    const down = linear(dropped, lora_A, null) // [N,R], cheaper made again than kept
    const dDown = scale(linearBackwardInput(dy, lora_B), scaling) // [N,R]
    grads.set(`${path}.lora_A`, tf.keep(linearBackwardWeight(dDown, dropped))) // [R,in]
    grads.set(`${path}.lora_B`, tf.keep(scale(linearBackwardWeight(dy, down), scaling))) // [out,R]
    return dx && addScaled(dx, drop(noise, linearBackwardInput(dDown, lora_A), dropout, site), 1)
  })
}
