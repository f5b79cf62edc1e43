/**
 * torch.nn.CrossEntropyLoss (mean) with its gradient in one call, and Hugging Face's LabelSmoother:
 * `(1-ε) nll + ε mean over classes of -log p`. On a GPU each example is one invocation: classes are few.
 */
import * as tf from '@tensorflow/tfjs-core'
import { onGpu, runElements, type Kernel } from './program.ts'
import { sum } from './sum.ts'

/** logits [B,C], labels int32 [B] -> mean loss and its gradient dLogits [B,C]. Labels must be in [0, C). */
export function crossEntropy(
  logits: tf.Tensor2D,
  labels: tf.Tensor1D,
  label_smoothing = 0,
): { loss: tf.Scalar; dLogits: tf.Tensor2D } {
  const B = logits.shape[0]
  return tf.tidy(() => {
    if (onGpu()) {
      return {
        loss: sum(runLoss(logits, labels, label_smoothing, 1 / B)),
        dLogits: runRowwise<tf.Tensor2D>(
          gradientKernel,
          logits,
          labels,
          label_smoothing,
          1 / B,
          logits.shape,
        ),
      }
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

function runLoss(
  logits: tf.Tensor2D,
  labels: tf.Tensor1D,
  label_smoothing: number,
  weight: number,
): tf.Tensor1D {
  return runRowwise(lossKernel, logits, labels, label_smoothing, weight, [logits.shape[0]])
}

function runRowwise<T extends tf.Tensor>(
  kernel: Kernel,
  logits: tf.Tensor2D,
  labels: tf.Tensor1D,
  label_smoothing: number,
  weight: number,
  shape: number[],
): T {
  const [B, C] = logits.shape
  return runElements(kernel, [logits, labels], { B, C, label_smoothing, weight }, shape, B)
}

const logSumExp = `
  if (index >= uniforms.B) { return; }
  let C = uniforms.C;
  let start = index * C;
  var top = logits[start];
  for (var c = 1; c < C; c++) { top = max(top, logits[start + c]); }
  var total = 0.0;
  for (var c = 0; c < C; c++) { total += exp(logits[start + c] - top); }
  let logTotal = log(total);
  let spread = uniforms.label_smoothing / f32(C);`

const lossKernel: Kernel = {
  name: 'crossEntropy loss',
  inputs: ['logits', 'labels'],
  uniforms: { B: 'int32', C: 'int32', label_smoothing: 'float32', weight: 'float32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {${logSumExp}
  var spreadLoss = 0.0;
  for (var c = 0; c < C; c++) { spreadLoss += logTotal - (logits[start + c] - top); }
  let nll = logTotal - (logits[start + labels[index]] - top);
  result[index] = uniforms.weight * ((1.0 - uniforms.label_smoothing) * nll + spread * spreadLoss);
}`,
}

const gradientKernel: Kernel = {
  ...lossKernel,
  name: 'crossEntropy gradient',
  code: `
fn main(index : i32) {${logSumExp}
  for (var c = 0; c < C; c++) {
    let wanted = spread + select(0.0, 1.0 - uniforms.label_smoothing, c == labels[index]);
    result[start + c] = uniforms.weight * (exp(logits[start + c] - top) / total - wanted);
  }
}`,
}
