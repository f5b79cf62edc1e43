/** Copies a tensor into the memory of another. */
import type * as tf from '@tensorflow/tfjs-core'
import { webgpuBackend } from './backend.ts'
import { runElements, runsOwn, type Kernel } from './program.ts'
import { whereOf } from './views.ts'

/** Writes x over `target`, which has as many elements; nothing to do where both are the same memory. WebGPU only. */
export function copyInto(target: tf.Tensor, x: tf.Tensor): void {
  if (target.size !== x.size)
    throw new Error(`[${x.shape}] cannot be copied into [${target.shape}]: the sizes must be equal.`)
  if (target.dataId === x.dataId) return
  if (runsOwn('copy')) runElements(kernel, [x], { size: x.size }, x.shape, x.size, target)
  else copyBuffer(target, x)
}

/** What tfjs keeps of a backend for itself in its types alone. */
interface Internals {
  ensureCommandEncoderReady(): void
  endComputePassEncoder(): void
  commandEncoder: GPUCommandEncoder
}

/** The same by a command of WebGPU's own, in which no shader takes part. */
function copyBuffer(target: tf.Tensor, x: tf.Tensor): void {
  const backend = webgpuBackend()
  const place = (tensor: tf.Tensor): [GPUBuffer, number] => {
    backend.uploadToGPU(tensor.dataId)
    return [backend.tensorMap.get(tensor.dataId).resource as GPUBuffer, 4 * (whereOf(tensor)?.offset ?? 0)]
  }
  const [from, to] = [place(x), place(target)]
  const inside = backend as unknown as Internals
  inside.ensureCommandEncoderReady()
  inside.endComputePassEncoder()
  inside.commandEncoder.copyBufferToBuffer(...from, ...to, 4 * x.size)
  backend.submitQueue()
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
