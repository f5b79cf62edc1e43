/**
 * Sequential bottleneck (Pfeiffer et al. 2020; `Adapter` of `adapters` with SeqBnConfig) with the sub-layer's own
 * frozen LayerNorm, which it uses twice: y = LN( up(relu(down(LN(h + u)))) + h + u ).
 */
import * as tf from '@tensorflow/tfjs-core'
import { activation, activationBackward } from '../kernels/activations.ts'
import { addScaled } from '../kernels/addScaled.ts'
import { layerNorm, layerNormBackward } from '../kernels/layerNorm.ts'
import { linear, linearBackwardBias, linearBackwardInput, linearBackwardWeight } from '../kernels/linear.ts'
import type { Bottleneck } from './adapters.ts'
import type { Views } from './params.ts'
import { drop, sites, type Pass } from './pass.ts'
import type { LayerNorm } from './roberta.ts'

/** What the backward pass needs: both LayerNorm inputs [N,H], the bottleneck's input [N,H] and pre-activation [N,R]. */
export type SavedBottleneck = {
  sum: tf.Tensor2D
  input: tf.Tensor2D
  pre: tf.Tensor2D
  out: tf.Tensor2D
}

/** sum = h + u [N,H] (h the sub-layer's output, u its residual) -> y [N,H]. */
export function bottleneck(
  { config, noise }: Pass,
  sum: tf.Tensor2D,
  { weight, bias }: LayerNorm,
  { down, up, dropout }: Bottleneck,
): { y: tf.Tensor2D; saved: SavedBottleneck } {
  const input = layerNorm(sum, weight, bias, config.layer_norm_eps)
  const pre = linear(input, down.weight, down.bias) // [N,R]
  const raised = linear(activation('relu', pre), up.weight, up.bias) // [N,H]
  const out = addScaled(drop(noise, raised, dropout, sites.adapter), sum, 1)
  return { y: layerNorm(out, weight, bias, config.layer_norm_eps), saved: { sum, input, pre, out } }
}

/** dy [N,H] -> gradients kept in `grads`; with `needInput` also d(h + u) [N,H], which flows to both. */
export function bottleneckBackward(
  { config, noise }: Pass,
  dy: tf.Tensor2D,
  { sum, input, pre, out }: SavedBottleneck,
  { weight }: LayerNorm,
  { path, down, up, dropout }: Bottleneck,
  needInput: boolean,
  grads: Views,
): tf.Tensor2D | undefined {
  const eps = config.layer_norm_eps
  const dOut = layerNormBackward(dy, out, weight, eps) // [N,H]
  const dRaised = drop(noise, dOut, dropout, sites.adapter)
  const dPre = activationBackward('relu', linearBackwardInput(dRaised, up.weight), pre) // [N,R]
  grads.set(`${path}.adapter_up.weight`, tf.keep(linearBackwardWeight(dRaised, activation('relu', pre))))
  grads.set(`${path}.adapter_up.bias`, tf.keep(linearBackwardBias(dRaised)))
  grads.set(`${path}.adapter_down.0.weight`, tf.keep(linearBackwardWeight(dPre, input)))
  grads.set(`${path}.adapter_down.0.bias`, tf.keep(linearBackwardBias(dPre)))
  if (!needInput) return
  return addScaled(dOut, layerNormBackward(linearBackwardInput(dPre, down.weight), sum, weight, eps), 1)
}
