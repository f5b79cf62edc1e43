/**
 * Sums in a fixed order, so that a run repeats bit for bit on one device, and without the known-bad path: tf.addN of
 * eight or more tensors returns garbage on webgpu. The WGSL program adds up columns in chunks of rows and is run again
 * over the partial sums, which needs neither barriers nor atomics.
 */
import * as tf from '@tensorflow/tfjs-core'
import { addScaled } from './addScaled.ts'
import { onGpu, runElements, type Kernel } from './program.ts'

/** x [N,M] -> [M], summed over rows. */
export function columnSum(x: tf.Tensor2D): tf.Tensor1D {
  return onGpu() ? foldColumns(x, x.shape[1], false) : tf.sum(x, 0)
}

/** Sum of all elements. */
export function sum(x: tf.Tensor): tf.Scalar {
  return onGpu() ? foldAll(x, false) : sumOnHost(x)
}

/** Sum of all elements squared. */
export function sumOfSquares(x: tf.Tensor): tf.Scalar {
  return onGpu() ? foldAll(x, true) : tf.tidy(() => sumOnHost(tf.square(x)))
}

/** In two stages: wasm adds up one after another in float32, which over 70,000 values costs the fifth digit. */
function sumOnHost(x: tf.Tensor): tf.Scalar {
  const rows = Math.floor(x.size / chunk)
  if (rows < 2) return tf.sum(x)
  return tf.tidy(() => {
    const flat = tf.reshape(x, [-1])
    const body = tf.sum(tf.sum(tf.reshape(tf.slice(flat, 0, rows * chunk), [rows, chunk]), 1))
    const rest = rows * chunk
    return rest === x.size ? (body as tf.Scalar) : tf.add<tf.Scalar>(body, tf.sum(tf.slice(flat, rest)))
  })
}

/** Sum of tensors of one shape, added two at a time. Throws on an empty list. */
export function addTensors<T extends tf.Tensor>(tensors: T[]): T {
  const [first, ...rest] = tensors
  if (!first) throw new Error('addTensors got no tensor to add.')
  return tf.tidy(() => rest.reduce<T>((total, x) => addScaled(total, x, 1), tf.clone(first)))
}

/** Rows that one invocation adds up. */
const chunk = 64

/** x, seen as rows of `width` columns with a last row that may be short -> [width]. */
function foldColumns(x: tf.Tensor, width: number, squared: boolean): tf.Tensor1D {
  return tf.tidy(() => {
    let partial = x
    do {
      const chunks = Math.ceil(partial.size / width / chunk)
      const kernel = squared && partial === x ? squareKernel : sumKernel
      const uniforms = { size: partial.size, width, chunks }
      partial = runElements(kernel, [partial], uniforms, [chunks * width], chunks * width)
    } while (partial.size > width)
    return partial as tf.Tensor1D
  })
}

function foldAll(x: tf.Tensor, squared: boolean): tf.Scalar {
  return tf.tidy(() => {
    if (x.size === 0) return tf.scalar(0)
    const row = x.size > chunk ? foldColumns(x, Math.min(1024, Math.ceil(x.size / chunk)), squared) : x
    return tf.reshape<tf.Rank.R0>(foldColumns(row, 1, squared && row === x), [])
  })
}

const fold = (term: string) => `
fn main(index : i32) {
  if (index >= uniforms.chunks * uniforms.width) { return; }
  let first = index / uniforms.width * ${chunk} * uniforms.width + index % uniforms.width;
  let end = min(first + ${chunk} * uniforms.width, uniforms.size);
  var total = 0.0;
  for (var i = first; i < end; i += uniforms.width) { let value = x[i]; total += ${term}; }
  result[index] = total;
}`

const sumKernel: Kernel = {
  name: `sum chunk ${chunk}`,
  inputs: ['x'],
  uniforms: { size: 'int32', width: 'int32', chunks: 'int32' },
  workgroupSize: 64,
  code: fold('value'),
}

const squareKernel: Kernel = {
  ...sumKernel,
  name: `sumOfSquares chunk ${chunk}`,
  code: fold('value * value'),
}
