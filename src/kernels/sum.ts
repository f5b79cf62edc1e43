/**
 * Sums in a fixed order, so that a run repeats bit for bit on one device, and without the known-bad path: tf.addN of
 * eight or more tensors returns garbage on webgpu. Columns are added up in chunks of rows, again and again over the
 * partial sums, which needs neither barriers nor atomics; a sum of everything takes two dispatches at most.
 */
import * as tf from '@tensorflow/tfjs-core'
import { addScaled } from './addScaled.ts'
import { runElements, runsOwn, type Kernel } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'

/** x [N,M] -> [M], summed over rows; `output`: memory of M elements that our kernel writes it into. */
export function columnSum(x: tf.Tensor2D, output: tf.Tensor | null = null): tf.Tensor1D {
  return runsOwn('sum') ? foldColumns(x, x.shape[1], output) : tf.sum(x, 0)
}

/** x summed over the axes that broadcasting stretched from `shape`. */
export function sumTo(x: tf.Tensor, shape: number[]): tf.Tensor {
  const missing = x.rank - shape.length
  if (shape.length === 1 && x.rank === 2 && shape[0] === x.shape[1]) return columnSum(x as tf.Tensor2D)
  const axes = x.shape.map((_, i) => i).filter((i) => i < missing || shape[i - missing] !== x.shape[i])
  return axes.length === 0 ? x : tf.reshape(tf.sum(x, axes), shape)
}

/** Sum of all elements. */
export function sum(x: tf.Tensor): tf.Scalar {
  return runsOwn('sum') ? foldAll(x, false) : sumOnHost(x)
}

/** Sum of all elements squared. */
export function sumOfSquares(x: tf.Tensor): tf.Scalar {
  return runsOwn('sum') ? foldAll(x, true) : tf.tidy(() => sumOnHost(tf.square(x)))
}

/** The square root of `sumOfSquares`, as a scalar. */
export function l2Norm(x: tf.Tensor): tf.Scalar {
  return tf.tidy(() => tf.sqrt(sumOfSquares(x)))
}

/** `sumOfSquares` in at most 256 parts, which have yet to be added up; by one dispatch of ours. */
export function squaresInParts(x: tf.Tensor): tf.Tensor1D {
  if (!runsOwn('sum')) return tf.tidy(() => tf.reshape<tf.Rank.R1>(sumOfSquares(x), [1]))
  return foldRows(x, true, Math.min(256, Math.ceil(x.size / rowLength)))
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

/** Values that are added one after another before they join the rest, and rows that one invocation adds up. */
const chunk = 64

/** x, seen as rows of `width` columns -> [width]. */
function foldColumns(x: tf.Tensor, width: number, output: tf.Tensor | null): tf.Tensor1D {
  return tf.tidy(() => {
    let partial = x
    do {
      const chunks = Math.ceil(partial.size / width / chunk)
      const target = chunks === 1 && output ? output : undefined
      const uniforms = { size: partial.size, width, chunks }
      partial = runElements(columnKernel, [partial], uniforms, [chunks * width], chunks * width, target)
    } while (partial.size > width)
    return partial as tf.Tensor1D
  })
}

/** Values of one row in the first of the two dispatches of `foldAll`, unless that makes more than `mostRows`. */
const rowLength = 2048
const mostRows = 4096

function foldAll(x: tf.Tensor, squared: boolean): tf.Scalar {
  return tf.tidy(() => {
    if (x.size === 0) return tf.scalar(0)
    const rows = Math.min(mostRows, Math.ceil(x.size / rowLength))
    const total = rows === 1 ? foldRows(x, squared, 1) : foldRows(foldRows(x, squared, rows), false, 1)
    return tf.reshape<tf.Rank.R0>(total, [])
  })
}

/** x, cut into so many rows, each added up: [rows]. */
function foldRows(x: tf.Tensor, squared: boolean, rows: number): tf.Tensor1D {
  const width = Math.ceil(x.size / rows)
  return runRows(foldKernel(squared), [x], { size: x.size }, [rows], { rows, width })
}

const columnKernel: Kernel = {
  name: `columnSum chunk ${chunk}`,
  inputs: ['x'],
  uniforms: { size: 'int32', width: 'int32', chunks: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.chunks * uniforms.width) { return; }
  let first = index / uniforms.width * ${chunk} * uniforms.width + index % uniforms.width;
  let end = min(first + ${chunk} * uniforms.width, uniforms.size);
  var total = 0.0;
  for (var i = first; i < end; i += uniforms.width) { total += x[i]; }
  result[index] = total;
}`,
}

/** Each row summed up into one value. */
const foldKernel = (squared: boolean): RowKernel => ({
  family: 'sum',
  name: `sum${squared ? ' of squares' : ''}`,
  inputs: ['x'],
  uniforms: { size: 'int32' },
  code: `
  let end = min(start + width, uniforms.size);
  let stride = ${chunk} * LANES;
  var total = 0.0;
  for (var first = start + lane; first < end; first += stride) {
    let last = min(first + stride, end);
    var part = 0.0;
    for (var i = first; i < last; i += LANES) { let value = x[i]; part += ${squared ? 'value * value' : 'value'}; }
    total += part;
  }
  let all = sumRow(total);
  if (live && lane == 0) { result[row] = all; }`,
})
