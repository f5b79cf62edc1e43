/** Powers of two that bring the rows of a matrix into the range of half precision. */
import type * as tf from '@tensorflow/tfjs-core'
import { runRows, type RowKernel } from './rows.ts'

/**
 * For each of `rows` rows of x, of `width` elements that lie in blocks as [width/block,rows,block], the power of two by
 * which its largest element comes between 4 and 8: [rows]. Rows of zeros, and of what is too small or too large for such
 * a power, get the nearest there is. WebGPU only.
 */
export function rowScale(x: tf.Tensor, rows: number, width: number, block: number): tf.Tensor1D {
  return runRows<tf.Tensor1D>(kernel, [x], { block }, [rows], { rows, width })
}

// Both exponents are stored with 127 added: that of the largest element and that of its scale make 254 + 2.
const kernel: RowKernel = {
  family: 'matmul',
  name: 'rowScale',
  inputs: ['x'],
  uniforms: { block: 'int32' },
  code: `
  let size = uniforms.block;
  var most = 0.0;
  for (var h = lane; h < width; h += LANES) {
    most = max(most, abs(x[(h / size * uniforms.rows + row) * size + h % size]));
  }
  let exponent = clamp(bitcast<u32>(maxRow(most)) >> 23u, 3u, 253u);
  if (live) {
    if (lane == 0) { result[row] = bitcast<f32>((256u - exponent) << 23u); }
  }`,
}
