/** One optimiser step: gradients of a few micro-batches, clipped, then AdamW (transformers `Trainer`, one inner step). */
import * as tf from '@tensorflow/tfjs-core'
import type { TrainingArguments } from '../trainingArguments.ts'
import { adamw, type AdamWState } from '../kernels/adamw.ts'
import { addScaled, scale } from '../kernels/addScaled.ts'
import { uploadBatch, type HostBatch } from '../model/batch.ts'
import { lossAndGradient, setParams, type Model } from '../model/model.ts'
import type { Noise, Saving } from '../model/walk.ts'
import { stretchesOf, type Missed } from './adamwByLayer.ts'
import { withFusionPull } from './fusionPull.ts'

/** Loss and gradient norm (before clipping) stay on the device until someone reads them; the caller disposes them. */
export interface StepResult {
  state: AdamWState
  loss: tf.Scalar
  grad_norm: tf.Scalar
}

/** How the passes of a run save memory and time. */
export function savingOf(args: TrainingArguments): Saving {
  return {
    recompute: args.gradient_checkpointing,
    halves: args.half_precision_activations,
    inHalf: args.half_precision_products,
  }
}

interface Gradient {
  loss: tf.Scalar
  gradient: tf.Tensor1D
}

/**
 * Moves the model by the mean gradient of `batches`, of which parts count by their share. `call` numbers the forward
 * passes of the run, for dropout; null: no dropout at all. `missed`: steps that layers passed by so far, where
 * AdapterDrop draws them. Consumes `state`; on a GPU its tensors, which the model sees, are written in place.
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
  const { loss, gradient } = tf.tidy(() => {
    const { loss, gradient: own } = meanGradient(model, batches, args, call)
    return { loss, gradient: state.step > 0 ? withFusionPull(model, own) : own }
  })
  const { layout, setup } = model
  const rates = {
    learning_rate,
    beta1: args.adam_beta1,
    beta2: args.adam_beta2,
    eps: args.adam_epsilon,
    weight_decay: args.weight_decay,
    decayed: layout.decayed,
    max_norm: args.max_grad_norm,
  }
  const stretches = missed ? stretchesOf(layout, state.step, setup.skip_layers, missed) : undefined
  const next = adamw(state, gradient, rates, stretches)
  gradient.dispose()
  setParams(model, next.state.p)
  return { ...next, loss }
}

/**
 * Loss and gradient [n] of the micro-batches' mean, within the caller's tidy. The shares of a micro-batch's parts add up
 * to 1, so that all together count the micro-batches. No more than two gradients stand at once.
 */
function meanGradient(
  model: Model,
  batches: HostBatch[],
  args: TrainingArguments,
  call: number | null,
): Gradient {
  const whole = batches.reduce((sum, { share = 1 }) => sum + share, 0)
  return batches.reduce<Gradient | null>(
    (sum, host, i) =>
      tf.tidy(() => {
        const batch = uploadBatch(model.roberta.config, host)
        const noise: Noise | null =
          call === null ? null : { seed: args.seed, call: call + i, base: args.base_dropout }
        const { label_smoothing_factor } = args
        const { loss, gradient } = lossAndGradient(
          model,
          batch,
          noise,
          label_smoothing_factor,
          savingOf(args),
        )
        const part = (host.share ?? 1) / whole
        if (!sum) return { loss: scale(loss, part), gradient: scale(gradient, part) }
        const added = {
          loss: addScaled(sum.loss, loss, part),
          gradient: addScaled(sum.gradient, gradient, part),
        }
        tf.dispose([sum.loss, sum.gradient])
        return added
      }),
    null,
  )!
}
