/**
 * Rows added up by id, the way back of a gather: tfjs's own has no kernel on wasm and adds in any order on WebGPU. Here
 * the first of equal ids adds up all of them in their order, so that a run repeats bit for bit.
 */
import * as tf from '@tensorflow/tfjs-core'
import { runElements, runsOwn, type Kernel } from './program.ts'

/**
 * x [M,H], ids int32 [M], each in [0, rows) -> [rows,H]: the sum of the rows of x with that id; nothing for
 * `padding_idx`, where -1 is no id.
 */
export function segmentSum(x: tf.Tensor2D, ids: tf.Tensor1D, rows: number, padding_idx = -1): tf.Tensor2D {
  const [M, H] = x.shape
  if (!runsOwn('embedding')) {
    return tf.tidy(() => {
      const at = tf.expandDims(ids, 1)
      const real = tf.cast(tf.notEqual(at, tf.scalar(padding_idx, 'int32')), 'float32')
      return tf.scatterND(at, tf.mul(x, real), [rows, H]) as tf.Tensor2D
    })
  }
  const sums = tf.fill<tf.Rank.R2>([rows, H], 0)
  return M === 0
    ? sums
    : runElements(kernel, [x, ids], { size: M * H, M, H, rows, padding_idx }, [rows, H], M * H, sums)
}

const kernel: Kernel = {
  name: 'segmentSum',
  inputs: ['x', 'ids'],
  uniforms: { size: 'int32', M: 'int32', H: 'int32', rows: 'int32', padding_idx: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let own = index / uniforms.H;
  let column = index % uniforms.H;
  let id = ids[own];
  if ((id < 0) | (id >= uniforms.rows) | (id == uniforms.padding_idx)) { return; }
  for (var m = 0; m < own; m++) { if (ids[m] == id) { return; } }
  var total = 0.0;
  for (var m = own; m < uniforms.M; m++) { if (ids[m] == id) { total += x[m * uniforms.H + column]; } }
  result[id * uniforms.H + column] = total;
}`,
}
