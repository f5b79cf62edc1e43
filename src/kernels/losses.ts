/**
 * torch's losses of real-valued targets, each with its gradient in one call. Sums go through kernels/sum.ts, in a fixed
 * order on every backend.
 */
import * as tf from '@tensorflow/tfjs-core'
import { sum } from './sum.ts'

/** A mean loss and its gradient with respect to what it was computed from. */
export interface Loss<T extends tf.Tensor> {
  loss: tf.Scalar
  gradient: T
}

/** torch.nn.BCEWithLogitsLoss (mean): logits and labels (0 to 1) float32 of one shape. */
export function binaryCrossEntropy<T extends tf.Tensor>(logits: T, labels: T): Loss<T> {
  return tf.tidy(() => {
    const tail = tf.log1p(tf.exp(tf.neg(tf.abs(logits))))
    const each = tf.add(tf.sub(tf.relu(logits), tf.mul(logits, labels)), tail)
    return {
      loss: tf.div<tf.Scalar>(sum(each), logits.size),
      gradient: tf.div<T>(tf.sub(tf.sigmoid(logits), labels), logits.size),
    }
  })
}

/** torch.nn.MSELoss (mean): predictions and labels float32 of one shape. */
export function meanSquaredError<T extends tf.Tensor>(predictions: T, labels: T): Loss<T> {
  return tf.tidy(() => {
    const difference = tf.sub<T>(predictions, labels)
    return {
      loss: tf.div<tf.Scalar>(sum(tf.square(difference)), predictions.size),
      gradient: tf.mul<T>(difference, 2 / predictions.size),
    }
  })
}
