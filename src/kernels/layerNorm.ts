/**
 * torch.nn.LayerNorm over the last dimension. The backward recomputes mean and deviation from x, so the forward keeps
 * nothing; the gradients of weight and bias are apart, since they are usually frozen. Each WGSL program makes two
 * passes for the moments (mean, then squared distances from it), as the difference of sums would lose digits.
 */
import * as tf from '@tensorflow/tfjs-core'
import { runsOwn } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'
import { columnSum } from './sum.ts'

/** x [N,H], weight [H], bias [H] -> [N,H] */
export function layerNorm(x: tf.Tensor2D, weight: tf.Tensor1D, bias: tf.Tensor1D, eps: number): tf.Tensor2D {
  if (runsOwn('layerNorm')) return runRows(forwardKernel, [x, weight, bias], { eps }, x.shape, sizes(x))
  return tf.tidy(() => tf.add<tf.Tensor2D>(tf.mul(normalised(x, eps).xhat, weight), bias))
}

/** dy [N,H], x [N,H], weight [H] -> dx [N,H], and `residual` [N,H] added: the gradient that goes past the norm. */
export function layerNormBackward(
  dy: tf.Tensor2D,
  x: tf.Tensor2D,
  weight: tf.Tensor1D,
  eps: number,
  residual: tf.Tensor2D | null = null,
): tf.Tensor2D {
  if (runsOwn('layerNorm')) {
    const inputs = [dy, x, weight, ...(residual ? [residual] : [])]
    return runRows(backwardKernel(residual !== null), inputs, { eps }, x.shape, sizes(x))
  }
  return tf.tidy(() => {
    const { xhat, rstd } = normalised(x, eps)
    const g = tf.mul<tf.Tensor2D>(dy, weight)
    const along = tf.mul(xhat, tf.mean(tf.mul(g, xhat), 1, true))
    const dx = tf.mul<tf.Tensor2D>(rstd, tf.sub(tf.sub(g, tf.mean(g, 1, true)), along))
    return residual ? tf.add<tf.Tensor2D>(dx, residual) : dx
  })
}

/** dy [N,H], x [N,H] -> gradients of weight and bias, [H] each; `outputs`: slots to write them into, see columnSum. */
export function layerNormBackwardWeight(
  dy: tf.Tensor2D,
  x: tf.Tensor2D,
  eps: number,
  outputs: { weight: tf.Tensor | null; bias: tf.Tensor | null } = { weight: null, bias: null },
): { weight: tf.Tensor1D; bias: tf.Tensor1D } {
  return tf.tidy(() => {
    const scaled = runsOwn('layerNorm')
      ? runRows<tf.Tensor2D>(weightKernel, [dy, x], { eps }, x.shape, sizes(x))
      : tf.mul<tf.Tensor2D>(dy, normalised(x, eps).xhat)
    return { weight: columnSum(scaled, outputs.weight), bias: columnSum(dy, outputs.bias) }
  })
}

function sizes({ shape }: tf.Tensor2D): { rows: number; width: number } {
  return { rows: shape[0], width: shape[1] }
}

/** (x - mean) / sqrt(var + eps) and 1 / sqrt(var + eps), with the biased variance. */
function normalised(x: tf.Tensor2D, eps: number): { xhat: tf.Tensor2D; rstd: tf.Tensor2D } {
  const centred = tf.sub<tf.Tensor2D>(x, tf.mean(x, 1, true))
  const rstd = tf.rsqrt<tf.Tensor2D>(tf.add(tf.mean(tf.square(centred), 1, true), eps))
  return { xhat: tf.mul(centred, rstd), rstd }
}

/** WGSL of a RowKernel for `mean` and `rstd` of a row whose element h is `x`. */
export const moments = (x: string) => `
  var total = 0.0;
  for (var h = lane; h < width; h += LANES) { total += ${x}; }
  let mean = sumRow(total) / f32(width);
  var squares = 0.0;
  for (var h = lane; h < width; h += LANES) { let d = ${x} - mean; squares += d * d; }
  let rstd = 1.0 / sqrt(sumRow(squares) / f32(width) + uniforms.eps);`

const forwardKernel: RowKernel = {
  family: 'layerNorm',
  name: 'layerNorm',
  inputs: ['x', 'weight', 'bias'],
  uniforms: { eps: 'float32' },
  code: `${moments('x[start + h]')}
  if (live) {
    for (var h = lane; h < width; h += LANES) {
      result[start + h] = (x[start + h] - mean) * rstd * weight[h] + bias[h];
    }
  }`,
}

const backwardKernel = (adds: boolean): RowKernel => ({
  family: 'layerNorm',
  name: `layerNormBackward${adds ? ' + residual' : ''}`,
  inputs: ['dy', 'x', 'weight', ...(adds ? ['residual'] : [])],
  uniforms: { eps: 'float32' },
  code: `${moments('x[start + h]')}
  var gTotal = 0.0;
  var gxTotal = 0.0;
  for (var h = lane; h < width; h += LANES) {
    let g = dy[start + h] * weight[h];
    gTotal += g;
    gxTotal += g * (x[start + h] - mean) * rstd;
  }
  let gMean = sumRow(gTotal) / f32(width);
  let gxMean = sumRow(gxTotal) / f32(width);
  if (live) {
    for (var h = lane; h < width; h += LANES) {
      let xhat = (x[start + h] - mean) * rstd;
      let dx = rstd * (dy[start + h] * weight[h] - gMean - xhat * gxMean);
      result[start + h] = ${adds ? 'dx + residual[start + h]' : 'dx'};
    }
  }`,
})

const weightKernel: RowKernel = {
  family: 'layerNorm',
  name: 'layerNormBackwardWeight',
  inputs: ['dy', 'x'],
  uniforms: { eps: 'float32' },
  code: `${moments('x[start + h]')}
  if (live) {
    for (var h = lane; h < width; h += LANES) {
      result[start + h] = dy[start + h] * (x[start + h] - mean) * rstd;
    }
  }`,
}
