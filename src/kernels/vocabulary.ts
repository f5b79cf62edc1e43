/**
 * Cross-entropy over a vocabulary that is met block by block, so that no tensor ever holds the logits of all words: a
 * row's four sums are taken of each block, merged, and turned into its loss; the gradient of a block is made when its
 * logits are computed again.
 */
import * as tf from '@tensorflow/tfjs-core'
import { runElements, runsOwn, type Kernel } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'

/** Four numbers for each row [R,4]: the largest logit m, Σ exp(logit - m), the label's logit, Σ logit. */
export type RowSums = tf.Tensor2D

/**
 * logits [R,C] of the words from `first` on, labels int32 [R] among all words -> the rows' sums over this block; the
 * label's logit is 0 where the label is in another block.
 */
export function rowSums(logits: tf.Tensor2D, labels: tf.Tensor1D, first: number): RowSums {
  const [rows, width] = logits.shape
  if (runsOwn('vocabulary'))
    return runRows(sumsKernel, [logits, labels], { first }, [rows, 4], { rows, width })
  return tf.tidy(() => {
    const top = tf.max<tf.Tensor2D>(logits, 1, true)
    const mass = tf.sum<tf.Tensor2D>(tf.exp(tf.sub(logits, top)), 1, true)
    const own = tf.sum<tf.Tensor2D>(tf.mul(logits, hits(labels, first, width)), 1, true)
    return tf.concat2d([top, mass, own, tf.sum<tf.Tensor2D>(logits, 1, true)], 1)
  })
}

/** The sums over two blocks together. */
export function mergeSums(a: RowSums, b: RowSums): RowSums {
  return tf.tidy(() => {
    const [topA, massA, ownA, sumA] = tf.split(a, 4, 1)
    const [topB, massB, ownB, sumB] = tf.split(b, 4, 1)
    const top = tf.maximum(topA!, topB!)
    const part = (mass: tf.Tensor, own: tf.Tensor) => tf.mul(mass, tf.exp(tf.sub(own, top)))
    return tf.concat(
      [top, tf.add(part(massA!, topA!), part(massB!, topB!)), tf.add(ownA!, ownB!), tf.add(sumA!, sumB!)],
      1,
    ) as RowSums
  })
}

/** Sums over all `size` words -> log Σ exp and LabelSmoother's loss of each row, [R] each. */
export function rowLosses(
  sums: RowSums,
  size: number,
  label_smoothing: number,
): { logTotal: tf.Tensor1D; losses: tf.Tensor1D } {
  return tf.tidy(() => {
    const [top, mass, own, sum] = tf.unstack(sums, 1) as tf.Tensor1D[]
    const logTotal = tf.add<tf.Tensor1D>(top!, tf.log(mass!))
    const wanted = tf.add(tf.mul(own!, 1 - label_smoothing), tf.mul(sum!, label_smoothing / size))
    return { logTotal, losses: tf.sub<tf.Tensor1D>(logTotal, wanted) }
  })
}

/** Whether each row's label has the largest logit of all: float32 0 or 1 [R]. */
export function rowHits(sums: RowSums): tf.Tensor1D {
  return tf.tidy(() => {
    const [top, , own] = tf.unstack(sums, 1) as tf.Tensor1D[]
    return tf.cast(tf.greaterEqual(own!, top!), 'float32')
  })
}

/** What the gradient of one block needs besides its logits. */
export interface BlockGradient {
  /** [R], from `rowLosses`. */
  logTotal: tf.Tensor1D
  labels: tf.Tensor1D
  /** The block's first word, and the size of the whole vocabulary. */
  first: number
  size: number
  label_smoothing: number
  /** Of each row in the mean. */
  weight: number
}

/** logits [R,C] of one block -> the gradient of Σ weight·loss with respect to them. */
export function vocabularyGradient(logits: tf.Tensor2D, args: BlockGradient): tf.Tensor2D {
  const { logTotal, labels, first, size, label_smoothing, weight } = args
  const [rows, width] = logits.shape
  const spread = label_smoothing / size
  if (runsOwn('vocabulary')) {
    const uniforms = { size: rows * width, width, first, spread, own: 1 - label_smoothing, weight }
    return runElements(gradientKernel, [logits, labels, logTotal], uniforms, logits.shape, rows * width)
  }
  return tf.tidy(() => {
    const wanted = tf.add(tf.mul(hits(labels, first, width), 1 - label_smoothing), spread)
    const p = tf.exp(tf.sub(logits, tf.expandDims(logTotal, 1)))
    return tf.mul<tf.Tensor2D>(tf.sub(p, wanted), weight)
  })
}

/** float32 [R,C]: 1 at each row's label, where it lies in the block. */
function hits(labels: tf.Tensor1D, first: number, width: number): tf.Tensor2D {
  const local = tf.sub(tf.expandDims(labels, 1), tf.scalar(first, 'int32'))
  return tf.cast(tf.equal(local, tf.expandDims(tf.range(0, width, 1, 'int32'), 0)), 'float32')
}

const sumsKernel: RowKernel = {
  family: 'vocabulary',
  name: 'vocabulary sums',
  inputs: ['logits', 'labels'],
  uniforms: { first: 'int32' },
  code: `
  var most = -3.4e38;
  var plain = 0.0;
  for (var c = lane; c < width; c += LANES) {
    let value = logits[start + c];
    most = max(most, value);
    plain += value;
  }
  let top = maxRow(most);
  let total = sumRow(plain);
  var mass = 0.0;
  for (var c = lane; c < width; c += LANES) { mass += exp(logits[start + c] - top); }
  let all = sumRow(mass);
  if (live && lane == 0) {
    let label = labels[row] - uniforms.first;
    var own = 0.0;
    if (label >= 0 && label < width) { own = logits[start + label]; }
    result[row * 4] = top;
    result[row * 4 + 1] = all;
    result[row * 4 + 2] = own;
    result[row * 4 + 3] = total;
  }`,
}

const gradientKernel: Kernel = {
  name: 'vocabulary gradient',
  inputs: ['logits', 'labels', 'logTotal'],
  uniforms: {
    size: 'int32',
    width: 'int32',
    first: 'int32',
    spread: 'float32',
    own: 'float32',
    weight: 'float32',
  },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let row = index / uniforms.width;
  let label = labels[row] - uniforms.first;
  let wanted = uniforms.spread + select(0.0, uniforms.own, index % uniforms.width == label);
  result[index] = uniforms.weight * (exp(logits[index] - logTotal[row]) - wanted);
}`,
}
