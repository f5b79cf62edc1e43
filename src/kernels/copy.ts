/** Copies a tensor into the memory of another. */
import type * as tf from '@tensorflow/tfjs-core'
import { runElements, type Kernel } from './program.ts'

/** Writes x over `target`, which has as many elements; nothing to do where both are the same memory. WebGPU only. */
export function copyInto(target: tf.Tensor, x: tf.Tensor): void {
  if (target.size !== x.size)
    throw new Error(`[${x.shape}] cannot be copied into [${target.shape}]: the sizes must be equal.`)
  if (target.dataId !== x.dataId) runElements(kernel, [x], { size: x.size }, x.shape, x.size, target)
}

const kernel: Kernel = {
  name: 'copy',
  inputs: ['x'],
  uniforms: { size: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index < uniforms.size) { result[index] = x[index]; }
}`,
}
