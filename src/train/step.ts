/** One optimiser step: gradients of a few micro-batches, clipped, then AdamW (transformers `Trainer`, one inner step). */
import * as tf from '@tensorflow/tfjs-core'
import type { TrainingArguments } from '../trainingArguments.ts'
import { adamw, type AdamWState } from '../kernels/adamw.ts'
import { addScaled, scale } from '../kernels/addScaled.ts'
import { clipByGlobalNorm, globalNorm } from '../kernels/clip.ts'
import { uploadBatch, type HostBatch } from '../model/batch.ts'
import { lossAndGradient, setParams, type Model } from '../model/model.ts'
import type { Noise } from '../model/walk.ts'
import { adamwByLayer, type Missed } from './adamwByLayer.ts'
import { withFusionPull } from './fusionPull.ts'

/** Loss and gradient norm (before clipping) stay on the device until someone reads them; the caller disposes them. */
export interface StepResult {
  state: AdamWState
  loss: tf.Scalar
  grad_norm: tf.Scalar
}

/**
 * Moves the model by the mean gradient of `batches`. `call` numbers the forward passes of the run, for dropout; null:
 * no dropout at all. `missed`: steps that layers passed by so far, where AdapterDrop draws them. Consumes `state`.
 */
export function optimiserStep(
  model: Model,
  state: AdamWState,
  batches: HostBatch[],
  args: TrainingArguments,
  learning_rate: number,
  call: number | null,
  missed: Missed | null = null,
): StepResult {
  const { loss, g, norm } = tf.tidy(() => {
    const { loss, gradient: own } = meanGradient(model, batches, args, call)
    const gradient = state.step > 0 ? withFusionPull(model, own) : own
    if (args.max_grad_norm <= 0) return { loss, g: gradient, norm: globalNorm(gradient) }
    return { loss, ...clipByGlobalNorm(gradient, args.max_grad_norm) }
  })
  const { layout, setup } = model
  const rates = {
    learning_rate,
    beta1: args.adam_beta1,
    beta2: args.adam_beta2,
    eps: args.adam_epsilon,
    weight_decay: args.weight_decay,
  }
  const next = missed
    ? adamwByLayer(state, g, layout, rates, setup.skip_layers, missed)
    : adamw(state, g, { ...rates, decayed: layout.decayed })
  g.dispose()
  setParams(model, next.p)
  return { state: next, loss, grad_norm: norm }
}

/** Loss and gradient [n] of the micro-batches' mean, within the caller's tidy. */
function meanGradient(
  model: Model,
  batches: HostBatch[],
  args: TrainingArguments,
  call: number | null,
): { loss: tf.Scalar; gradient: tf.Tensor1D } {
  const part = 1 / batches.length
  return batches
    .map((host, i) => {
      const batch = uploadBatch(model.roberta.config, host)
      const noise: Noise | null =
        call === null ? null : { seed: args.seed, call: call + i, base: args.base_dropout }
      const { loss, gradient } = lossAndGradient(model, batch, noise, args.label_smoothing_factor)
      return { loss: scale(loss, part), gradient: scale(gradient, part) }
    })
    .reduce((sum, one) => ({
      loss: addScaled(sum.loss, one.loss, 1),
      gradient: addScaled(sum.gradient, one.gradient, 1),
    }))
}
