/**
 * Classification head of `adapters` (heads/base.py, two layers): dropout, Linear, tanh, dropout, Linear, on the last
 * hidden state of token 0 (`<s>`).
 */
import * as tf from '@tensorflow/tfjs-core'
import type { HeadConfig, RobertaConfig } from '../config.ts'
import { activation, activationBackward } from '../kernels/activations.ts'
import { linear, linearBackwardBias, linearBackwardInput, linearBackwardWeight } from '../kernels/linear.ts'
import type { Views } from './params.ts'
import { drop, sites, type Pass } from './pass.ts'
import type { Linear } from './roberta.ts'

/** The head's tensors, as `heads.{name}.1` and `heads.{name}.4`. */
export interface Head {
  path: string
  dense: Linear // [H,H]
  out_proj: Linear // [C,H]
  dropout: number
}

/** What the backward pass needs: `<s>` after dropout and the tanh's pre-activation, both [B,H]. */
export type SavedHead = {
  dropped: tf.Tensor2D
  pre: tf.Tensor2D
}

/** The head's current tensors. Its dropout is its own, else the model's classifier_dropout, else hidden_dropout_prob. */
export function attachHead(config: RobertaConfig, head: HeadConfig, name: string, views: Views): Head {
  const path = `heads.${name}`
  const part = (index: number): Linear => {
    const weight = views.get(`${path}.${index}.weight`)
    const bias = views.get(`${path}.${index}.bias`)
    if (!weight || !bias) throw new Error(`The head tensors ${path}.${index}.* were never loaded.`)
    return { weight: weight as tf.Tensor2D, bias: bias as tf.Tensor1D }
  }
  const dropout = head.dropout_prob ?? config.classifier_dropout ?? config.hidden_dropout_prob
  return { path, dense: part(1), out_proj: part(4), dropout }
}

/** x [B·S,H] -> logits [B,C]. The caller disposes both results. */
export function forwardHead(
  { batch: { B, S }, noise }: Pass,
  { dense, out_proj, dropout }: Head,
  x: tf.Tensor2D,
): { logits: tf.Tensor2D; saved: SavedHead } {
  return tf.tidy(() => {
    const H = x.shape[1]
    const first = tf.slice(tf.reshape(x, [B, S * H]), [0, 0], [B, H]) as tf.Tensor2D // [B,H]
    const dropped = drop(noise, first, dropout, sites.headInput)
    const pre = linear(dropped, dense.weight, dense.bias) // [B,H]
    const hidden = drop(noise, activation('tanh', pre), dropout, sites.headHidden)
    return { logits: linear(hidden, out_proj.weight, out_proj.bias), saved: { dropped, pre } }
  })
}

/** dLogits [B,C] -> gradients kept in `grads`; with `needInput` also dX [B·S,H], zero but for token 0. */
export function backwardHead(
  { batch: { B, S }, noise }: Pass,
  { path, dense, out_proj, dropout }: Head,
  dLogits: tf.Tensor2D,
  { dropped, pre }: SavedHead,
  needInput: boolean,
  grads: Views,
): tf.Tensor2D | undefined {
  return tf.tidy(() => {
    const H = dropped.shape[1]
    const hidden = drop(noise, activation('tanh', pre), dropout, sites.headHidden)
    grads.set(`${path}.4.weight`, tf.keep(linearBackwardWeight(dLogits, hidden)))
    grads.set(`${path}.4.bias`, tf.keep(linearBackwardBias(dLogits)))
    const dHidden = drop(noise, linearBackwardInput(dLogits, out_proj.weight), dropout, sites.headHidden)
    const dPre = activationBackward('tanh', dHidden, pre)
    grads.set(`${path}.1.weight`, tf.keep(linearBackwardWeight(dPre, dropped)))
    grads.set(`${path}.1.bias`, tf.keep(linearBackwardBias(dPre)))
    if (!needInput) return
    const dFirst = drop(noise, linearBackwardInput(dPre, dense.weight), dropout, sites.headInput) // [B,H]
    return tf.reshape(
      tf.pad(dFirst, [
        [0, 0],
        [0, (S - 1) * H],
      ]),
      [B * S, H],
    ) as tf.Tensor2D
  })
}
