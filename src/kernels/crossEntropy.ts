/**
 * torch.nn.CrossEntropyLoss (mean) with its gradient in one call, and Hugging Face's LabelSmoother:
 * `(1-ε) nll + ε mean over classes of -log p`. On a GPU one dispatch writes both into one packed tensor: examples and
 * classes are few, and its lanes share the examples.
 */
import * as tf from '@tensorflow/tfjs-core'
import { runsOwn } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'
import { aligned, viewOf } from './views.ts'

/** logits [B,C], labels int32 [B] -> mean loss and its gradient dLogits [B,C]. Labels must be in [0, C). */
export function crossEntropy(
  logits: tf.Tensor2D,
  labels: tf.Tensor1D,
  label_smoothing = 0,
): { loss: tf.Scalar; dLogits: tf.Tensor2D } {
  const [B, C] = logits.shape
  return tf.tidy(() => {
    if (runsOwn('crossEntropy')) {
      const lossAt = aligned(B * C)
      const sizes = { rows: 1, width: B }
      const packed = runRows(kernel, [logits, labels], { C, lossAt, label_smoothing }, [lossAt + 1], sizes)
      return { loss: viewOf<tf.Scalar>(packed, lossAt, []), dLogits: viewOf<tf.Tensor2D>(packed, 0, [B, C]) }
    }
    const wanted = targets(logits, labels, label_smoothing)
    const logp = tf.logSoftmax(logits)
    const loss = tf.div<tf.Scalar>(tf.sum(tf.mul(wanted, logp)), -B)
    return { loss, dLogits: tf.div<tf.Tensor2D>(tf.sub(tf.exp(logp), wanted), B) }
  })
}

/** [B,C]: 1-ε on the label, ε/C spread over all classes. */
function targets(logits: tf.Tensor2D, labels: tf.Tensor1D, label_smoothing: number): tf.Tensor2D {
  const C = logits.shape[1]
  const oneHot = tf.cast(tf.oneHot(labels, C), 'float32') as tf.Tensor2D
  return tf.add(tf.mul(oneHot, 1 - label_smoothing), label_smoothing / C)
}

/** One row of B examples: [dLogits | loss], the loss at `lossAt`. */
const kernel: RowKernel = {
  family: 'crossEntropy',
  name: 'crossEntropy',
  inputs: ['logits', 'labels'],
  uniforms: { C: 'int32', lossAt: 'int32', label_smoothing: 'float32' },
  code: `
  let C = uniforms.C;
  let spread = uniforms.label_smoothing / f32(C);
  let kept = 1.0 - uniforms.label_smoothing;
  let share = 1.0 / f32(width);
  var losses = 0.0;
  for (var b = lane; b < width; b += LANES) {
    let first = b * C;
    var top = logits[first];
    for (var c = 1; c < C; c++) { top = max(top, logits[first + c]); }
    var total = 0.0;
    for (var c = 0; c < C; c++) { total += exp(logits[first + c] - top); }
    let logTotal = log(total);
    let label = labels[b];
    var spreadLoss = 0.0;
    for (var c = 0; c < C; c++) {
      let distance = logits[first + c] - top;
      spreadLoss += logTotal - distance;
      let wanted = spread + select(0.0, kept, c == label);
      if (live) { result[first + c] = share * (exp(distance) / total - wanted); }
    }
    losses += kept * (logTotal - (logits[first + label] - top)) + spread * spreadLoss;
  }
  let loss = share * sumRow(losses);
  if (live && lane == 0) { result[uniforms.lossAt] = loss; }`,
}
