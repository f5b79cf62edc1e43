/**
 * Gates: one number for each text, the mean over its tokens of a sigmoid (UniPELT, Mao et al. 2022), by which the rows of
 * the text are multiplied. A dispatch each, and one for each gradient.
 */
import * as tf from '@tensorflow/tfjs-core'
import { activationBackward } from './activations.ts'
import { runElements, runsOwn, type Kernel } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'

/** x [B·S,k] -> the mean of sigmoid(x) over the S rows of each text: [B,1,k]. */
export function meanSigmoid(x: tf.Tensor2D, B: number): tf.Tensor3D {
  const [N, k] = x.shape
  const S = N / B
  if (runsOwn('gate')) return runRows(meanKernel, [x], { k }, [B, 1, k], { rows: B * k, width: S })
  return tf.tidy(() => tf.mean<tf.Tensor3D>(tf.reshape(tf.sigmoid(x), [B, S, k]), 1, true))
}

/** dy [B,1,k], x [B·S,k] -> dx. */
export function meanSigmoidBackward(dy: tf.Tensor3D, x: tf.Tensor2D): tf.Tensor2D {
  const [N, k] = x.shape
  const [B] = dy.shape
  const S = N / B
  if (runsOwn('gate')) return runElements(meanBackwardKernel, [dy, x], { size: N * k, k, S }, [N, k], N * k)
  return tf.tidy(() => {
    const share = tf.tile(tf.div(dy, S), [1, S, 1])
    return activationBackward('sigmoid', tf.reshape(share, x.shape) as tf.Tensor2D, x)
  })
}

/** x [B·S,M], gate [B,1,1] -> x, of which the rows of each text are multiplied by its gate. */
export function timesGate(x: tf.Tensor2D, gate: tf.Tensor3D): tf.Tensor2D {
  const [B] = gate.shape
  const text = x.size / B
  if (runsOwn('gate')) return runElements(timesKernel, [x, gate], { size: x.size, text }, x.shape, x.size)
  return tf.tidy(() => tf.reshape(tf.mul(tf.reshape(x, [B, text, 1]), gate), x.shape))
}

/** dy and x [B·S,M] of `timesGate` -> the gradient of its gates, [B,1,1]. */
export function timesGateBackward(dy: tf.Tensor2D, x: tf.Tensor2D, B: number): tf.Tensor3D {
  const width = x.size / B
  if (runsOwn('gate')) return runRows(dotKernel, [dy, x], {}, [B, 1, 1], { rows: B, width })
  return tf.tidy(() => tf.reshape(tf.sum(tf.reshape(tf.mul(dy, x), [B, width]), 1), [B, 1, 1]))
}

const meanKernel: RowKernel = {
  family: 'gate',
  name: 'gateMean',
  inputs: ['x'],
  uniforms: { k: 'int32' },
  code: `
  let first = row / uniforms.k * width * uniforms.k + row % uniforms.k;
  var sum = 0.0;
  for (var s = lane; s < width; s += LANES) { sum += 1.0 / (1.0 + exp(clamp(-x[first + s * uniforms.k], -80.0, 80.0))); }
  let all = sumRow(sum);
  if (live) {
    if (lane == 0) { result[row] = all / f32(width); }
  }`,
}

const meanBackwardKernel: Kernel = {
  name: 'gateMeanBackward',
  inputs: ['dy', 'x'],
  uniforms: { size: 'int32', k: 'int32', S: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let b = index / uniforms.k / uniforms.S;
  let open = 1.0 / (1.0 + exp(clamp(-x[index], -80.0, 80.0)));
  result[index] = dy[b * uniforms.k + index % uniforms.k] / f32(uniforms.S) * open * (1.0 - open);
}`,
}

const timesKernel: Kernel = {
  name: 'gateTimes',
  inputs: ['x', 'gate'],
  uniforms: { size: 'int32', text: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  result[index] = x[index] * gate[index / uniforms.text];
}`,
}

const dotKernel: RowKernel = {
  family: 'gate',
  name: 'gateTimesBackward',
  inputs: ['dy', 'x'],
  uniforms: {},
  code: `
  var sum = 0.0;
  for (var i = lane; i < width; i += LANES) { sum += dy[start + i] * x[start + i]; }
  let all = sumRow(sum);
  if (live) {
    if (lane == 0) { result[row] = all; }
  }`,
}
