/** The rows of the first tokens, which a head reads, and their way back, each in one dispatch. */
import * as tf from '@tensorflow/tfjs-core'
import { runElements, runsOwn, type Kernel } from './program.ts'

/** x [B·S,H] -> [B,H]: row 0 of each text. */
export function firstToken(x: tf.Tensor2D, B: number): tf.Tensor2D {
  const [rows, H] = x.shape
  const S = rows / B
  if (runsOwn('firstToken')) return runElements(forwardKernel, [x], { size: B * H, H, S }, [B, H], B * H)
  return tf.tidy(() => tf.slice(tf.reshape<tf.Rank.R2>(x, [B, S * H]), [0, 0], [B, H]))
}

/** dy [B,H] -> [B·S,H]: zero but for row 0 of each text. */
export function firstTokenBackward(dy: tf.Tensor2D, S: number): tf.Tensor2D {
  const [B, H] = dy.shape
  const size = B * S * H
  if (runsOwn('firstToken')) return runElements(backwardKernel, [dy], { size, H, S }, [B * S, H], size)
  const after: [number, number][] = [
    [0, 0],
    [0, (S - 1) * H],
  ]
  return tf.tidy(() => tf.reshape(tf.pad(dy, after), [B * S, H]))
}

const forwardKernel: Kernel = {
  name: 'firstToken',
  inputs: ['x'],
  uniforms: { size: 'int32', H: 'int32', S: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  result[index] = x[index / uniforms.H * uniforms.S * uniforms.H + index % uniforms.H];
}`,
}

const backwardKernel: Kernel = {
  ...forwardKernel,
  name: 'firstTokenBackward',
  inputs: ['dy'],
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let row = index / uniforms.H;
  if (row % uniforms.S == 0) { result[index] = dy[row / uniforms.S * uniforms.H + index % uniforms.H]; }
  else { result[index] = 0.0; }
}`,
}
