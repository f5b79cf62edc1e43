/**
 * The pull of AdapterFusion's value matrices towards the identity, 0.01·‖I - V‖² (`AdapterTrainer.training_step`). The
 * library adds its gradient after a step, so that it counts in the next one; the logged loss never has it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { addScaled } from '../kernels/addScaled.ts'
import { fusionRegularisation, isFusionValue, regularisesFusion } from '../methods/fusion.ts'
import type { Model } from '../model/model.ts'
import { flatOf } from '../model/params.ts'

/** gradient [n] with the pull of what the step before left; the gradient itself where no fusion trains. */
export function withFusionPull({ setup, layout, current }: Model, gradient: tf.Tensor1D): tf.Tensor1D {
  if (setup.train.fusions.length === 0 || !regularisesFusion(setup.active)) return gradient
  return tf.tidy(() => {
    const values = layout.slots.filter(({ key }) => isFusionValue(key))
    const pull = values.map(({ key, shape: [H = 0] }): [string, tf.Tensor] => {
      const identity = tf.cast(tf.oneHot(tf.range(0, H, 1, 'int32'), H), 'float32')
      return [key, tf.sub(current.views.get(key)!, identity)]
    })
    return addScaled(gradient, flatOf(layout, new Map(pull)), 2 * fusionRegularisation)
  })
}
