/**
 * The parts of RobertaSelfAttention that are not matrix products: heads apart and together, and the masked softmax
 * with its backward. The mask is finite, as in torch: a row whose keys are all masked is uniform, not NaN.
 */
import * as tf from '@tensorflow/tfjs-core'
import { onGpu, runElements, type Kernel } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'

/** What a masked score becomes: far below any score, and still finite after the maximum is subtracted. */
const masked = -1e30

/** x [B*S,N*D] -> [B,N,S,D] */
export function splitHeads(x: tf.Tensor2D, B: number, N: number): tf.Tensor4D {
  const [rows, H] = x.shape
  const [S, D] = [rows / B, H / N]
  if (onGpu()) return swapMiddle(x, [B, S, N, D], [B, N, S, D])
  return tf.tidy(() => tf.transpose<tf.Tensor4D>(tf.reshape(x, [B, S, N, D]), [0, 2, 1, 3]))
}

/** x [B,N,S,D] -> [B*S,N*D] */
export function mergeHeads(x: tf.Tensor4D): tf.Tensor2D {
  const [B, N, S, D] = x.shape
  if (onGpu()) return swapMiddle(x, x.shape, [B * S, N * D])
  return tf.tidy(() => tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [B * S, N * D]))
}

/**
 * softmax(scores * scale) over the keys that the mask keeps.
 * scores [B,N,S,T], attention_mask [B,T] or, one row for each query, [B*S,T] (int32 or float32, 0 is masked)
 * -> [B,N,S,T]
 */
export function maskedSoftmax(scores: tf.Tensor4D, attention_mask: tf.Tensor2D, scale: number): tf.Tensor4D {
  const [B, N, S, T] = scores.shape
  if (onGpu()) {
    const queries = attention_mask.shape[0] === B ? 1 : S
    const uniforms = { scale, perItem: N * S, queries }
    return runRows(softmaxKernel, [scores, attention_mask], uniforms, scores.shape, {
      rows: B * N * S,
      width: T,
    })
  }
  return tf.tidy(() => {
    const queries = attention_mask.shape[0] / B
    const kept = tf.cast(tf.reshape(attention_mask, [B, 1, queries, T]), 'bool')
    return tf.softmax(tf.where<tf.Tensor4D>(kept, tf.mul(scores, scale), masked))
  })
}

/** dp, p [B,N,S,T] -> dscores = scale * p * (dp - sum(p * dp)) */
export function softmaxBackward(dp: tf.Tensor4D, p: tf.Tensor4D, scale: number): tf.Tensor4D {
  const width = p.shape[3]
  if (onGpu()) return runRows(backwardKernel, [dp, p], { scale }, p.shape, { rows: p.size / width, width })
  return tf.tidy(() => tf.mul(scale, tf.mul(p, tf.sub(dp, tf.sum(tf.mul(p, dp), -1, true)))))
}

/** x of sizes [b,i,j,d] -> the same elements in order [b,j,i,d], as a tensor of `shape`. */
function swapMiddle<T extends tf.Tensor>(x: tf.Tensor, sizes: number[], shape: number[]): T {
  const [, I = 1, J = 1, D = 1] = sizes
  const wide = D % 4 === 0
  const size = wide ? x.size / 4 : x.size
  return runElements(wide ? swapKernel4 : swapKernel, [x], { size, I, J, D: wide ? D / 4 : D }, shape, size)
}

const swapKernel: Kernel = {
  name: 'swapMiddle',
  inputs: ['x'],
  uniforms: { size: 'int32', I: 'int32', J: 'int32', D: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let d = index % uniforms.D;
  let i = index / uniforms.D % uniforms.I;
  let j = index / uniforms.D / uniforms.I % uniforms.J;
  let b = index / uniforms.D / uniforms.I / uniforms.J;
  result[index] = x[((b * uniforms.I + i) * uniforms.J + j) * uniforms.D + d];
}`,
}

const swapKernel4: Kernel = { ...swapKernel, name: 'swapMiddle vec4', components: 4 }

const softmaxKernel: RowKernel = {
  name: 'maskedSoftmax',
  inputs: ['scores', 'mask'],
  uniforms: { scale: 'float32', perItem: 'int32', queries: 'int32' },
  code: `
  let keys = (row / uniforms.perItem * uniforms.queries + row % uniforms.queries) * width;
  var most = ${masked};
  for (var t = lane; t < width; t += LANES) {
    if (mask[keys + t] != 0) { most = max(most, scores[start + t] * uniforms.scale); }
  }
  let top = maxRow(most);
  var total = 0.0;
  for (var t = lane; t < width; t += LANES) {
    let score = select(${masked}, scores[start + t] * uniforms.scale, mask[keys + t] != 0);
    total += exp(score - top);
  }
  let norm = 1.0 / sumRow(total);
  if (live) {
    for (var t = lane; t < width; t += LANES) {
      let score = select(${masked}, scores[start + t] * uniforms.scale, mask[keys + t] != 0);
      result[start + t] = exp(score - top) * norm;
    }
  }`,
}

const backwardKernel: RowKernel = {
  name: 'softmaxBackward',
  inputs: ['dp', 'p'],
  uniforms: { scale: 'float32' },
  code: `
  var total = 0.0;
  for (var t = lane; t < width; t += LANES) { total += p[start + t] * dp[start + t]; }
  let mean = sumRow(total);
  if (live) {
    for (var t = lane; t < width; t += LANES) {
      result[start + t] = uniforms.scale * p[start + t] * (dp[start + t] - mean);
    }
  }`,
}
