/**
 * One encoder layer (transformers `RobertaLayer`, post-LN), forward and backward by hand. Forward returns its output
 * and exactly what backward needs; frozen weights never get a gradient.
 */
import * as tf from '@tensorflow/tfjs-core'
import { activation, activationBackward, type Activation } from '../kernels/activations.ts'
import { addScaled } from '../kernels/addScaled.ts'
import { layerNorm, layerNormBackward } from '../kernels/layerNorm.ts'
import { linear, linearBackwardInput } from '../kernels/linear.ts'
import type { LayerAdapters } from './adapters.ts'
import { selfAttention, selfAttentionBackward, type SavedAttention } from './attention.ts'
import { bottleneck, bottleneckBackward, type SavedBottleneck } from './bottleneck.ts'
import { loraLinear, loraLinearBackward } from './lora.ts'
import type { Views } from './params.ts'
import { dropBase, sites, type Pass } from './pass.ts'
import type { Layer } from './roberta.ts'

/** Activations of one layer that its backward reads: both LayerNorm inputs, the FFN's input and pre-activation. */
export type SavedLayer = {
  attention: SavedAttention
  attentionSum: tf.Tensor2D // [N,H]
  y: tf.Tensor2D // [N,H]
  pre: tf.Tensor2D // [N,I]
  outputSum: tf.Tensor2D // [N,H]
  bottleneck: SavedBottleneck | undefined
}

/** x [N,H] -> next x [N,H]. The caller disposes both results. */
export function forwardLayer(
  pass: Pass,
  { attention, intermediate, output }: Layer,
  x: tf.Tensor2D,
  adapters: LayerAdapters,
): { x: tf.Tensor2D; saved: SavedLayer } {
  const { config, noise } = pass
  const { layer_norm_eps: eps, hidden_dropout_prob: rate } = config
  return tf.tidy(() => {
    const { o, saved: savedAttention } = selfAttention(pass, attention.self, x, adapters)
    const a = linear(o, attention.output.dense.weight, attention.output.dense.bias)
    const attentionSum = addScaled(dropBase(noise, a, rate, sites.attention), x, 1)
    const y = layerNorm(attentionSum, attention.output.LayerNorm.weight, attention.output.LayerNorm.bias, eps)

    const pre = loraLinear(y, intermediate.dense, adapters.intermediate, noise) // [N,I]
    const f = loraLinear(
      activation(config.hidden_act as Activation, pre),
      output.dense,
      adapters.output,
      noise,
    ) // [N,H]
    const outputSum = addScaled(dropBase(noise, f, rate, sites.output), y, 1)

    const saved = { attention: savedAttention, attentionSum, y, pre, outputSum }
    const { LayerNorm } = output
    if (!adapters.bottleneck)
      return {
        x: layerNorm(outputSum, LayerNorm.weight, LayerNorm.bias, eps),
        saved: { ...saved, bottleneck: undefined },
      }
    const adapted = bottleneck(pass, outputSum, LayerNorm, adapters.bottleneck)
    return { x: adapted.y, saved: { ...saved, bottleneck: adapted.saved } }
  })
}

/** dX of the layer's output [N,H] -> gradients kept in `grads`; with `needInput` also dX of its input. */
export function backwardLayer(
  pass: Pass,
  { attention, intermediate, output }: Layer,
  dX: tf.Tensor2D,
  saved: SavedLayer,
  adapters: LayerAdapters,
  needInput: boolean,
  grads: Views,
): tf.Tensor2D | undefined {
  const { config, noise } = pass
  const { layer_norm_eps: eps, hidden_dropout_prob: rate } = config
  const act = config.hidden_act as Activation
  const needAttention = needInput || Boolean(adapters.query ?? adapters.key ?? adapters.value)
  const needPre = needAttention || Boolean(adapters.intermediate)
  const needSum = needPre || Boolean(adapters.output)
  return tf.tidy(() => {
    const { bottleneck: adapter } = adapters
    const dOutputSum =
      adapter && saved.bottleneck
        ? bottleneckBackward(pass, dX, saved.bottleneck, output.LayerNorm, adapter, needSum, grads)
        : layerNormBackward(dX, saved.outputSum, output.LayerNorm.weight, eps)
    if (!dOutputSum) return

    const dF = dropBase(noise, dOutputSum, rate, sites.output)
    const h = adapters.output ? activation(act, saved.pre) : saved.pre // only LoRA on this matrix reads it
    const dH = loraLinearBackward(dF, h, output.dense, adapters.output, noise, needPre, grads)
    if (!dH) return
    const dPre = activationBackward(act, dH, saved.pre)
    const dFfn = loraLinearBackward(
      dPre,
      saved.y,
      intermediate.dense,
      adapters.intermediate,
      noise,
      needAttention,
      grads,
    )
    if (!dFfn) return
    const dY = addScaled(dOutputSum, dFfn, 1)

    const dAttentionSum = layerNormBackward(dY, saved.attentionSum, attention.output.LayerNorm.weight, eps)
    const dA = dropBase(noise, dAttentionSum, rate, sites.attention)
    const dO = linearBackwardInput(dA, attention.output.dense.weight)
    const dInput = selfAttentionBackward(
      pass,
      attention.self,
      dO,
      saved.attention,
      adapters,
      needInput,
      grads,
    )
    return dInput && addScaled(dInput, dAttentionSum, 1)
  })
}
