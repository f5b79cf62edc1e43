/**
 * Tensors that are a part of another one's memory. tfjs knows no such thing: its slice copies, and a kernel of ours has
 * one result. With views the trained parameters lie in one flat vector and cost nothing to take apart, gradients are
 * written where the optimiser reads them, and a kernel with several results packs them into one tensor. A view keeps
 * the memory it lies in alive. On wasm and cpu a view is a copy.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'
import { uploadTensor, webgpuBackend } from './backend.ts'
import { onGpu } from './program.ts'

/** Elements that the start of a view must be a multiple of: WebGPU binds memory in steps of 256 bytes. */
export const alignment = 64

/** Where a view lies: `offset` elements into `flat`, which is no view. */
export interface Place {
  flat: tf.TensorInfo
  offset: number
}

const places = new WeakMap<object, Place>()

/** n elements, rounded up to where the next view may start. */
export function aligned(n: number): number {
  return Math.ceil(n / alignment) * alignment
}

/**
 * Elements `offset` … of `flat` as a tensor of `shape`, with `flat`'s dtype; the caller disposes it. Throws when it would
 * start between two multiples of `alignment` or reach beyond the end.
 */
export function viewOf<T extends tf.Tensor>(flat: tf.Tensor, offset: number, shape: number[]): T {
  const size = tf.util.sizeFromShape(shape)
  if (offset % alignment !== 0 || offset + size > flat.size)
    throw new Error(`A view of ${size} elements cannot start at ${offset} of ${flat.size}.`)
  if (!onGpu()) return tf.tidy(() => tf.reshape(tf.slice(tf.reshape(flat, [-1]), offset, size), shape) as T)
  const backend = webgpuBackend()
  const parent = places.get(flat.dataId)
  const root = parent?.flat ?? { dataId: flat.dataId, shape: [flat.size], dtype: flat.dtype }
  backend.uploadToGPU(root.dataId)
  backend.incRef(root.dataId)
  const info = backend.makeTensorInfo(shape, flat.dtype)
  const data = backend.tensorMap.get(info.dataId)
  data.resource = backend.tensorMap.get(root.dataId).resource!
  data.external = true
  places.set(info.dataId, { flat: root, offset: (parent?.offset ?? 0) + offset })
  return tf.engine().makeTensorFromTensorInfo(info) as T
}

/** Where a view lies; null for any other tensor, and on wasm and cpu. */
export function whereOf({ dataId }: tf.TensorInfo): Place | null {
  return places.get(dataId) ?? null
}

/**
 * Tensors that lie side by side in one memory, as one flat tensor that the caller disposes; null when they do not. On
 * wasm and cpu they never do.
 */
export function joined(views: tf.Tensor[]): tf.Tensor1D | null {
  const first = views[0] && whereOf(views[0])
  if (!first) return null
  let end = first.offset
  for (const view of views) {
    const place = whereOf(view)
    if (!place || place.flat.dataId !== first.flat.dataId || place.offset !== end) return null
    end += view.size
  }
  const info = { ...first.flat }
  const backend = webgpuBackend()
  backend.incRef(info.dataId)
  const whole = tf.engine().makeTensorFromTensorInfo(info)
  const result = viewOf<tf.Tensor1D>(whole, first.offset, [end - first.offset])
  whole.dispose()
  return result
}

/**
 * Tensors of one dtype in one memory and one upload, in their order; the caller disposes each. `joined` finds those whose
 * sizes are multiples of `alignment`. On wasm and cpu each lies by itself.
 */
export function uploadTogether(parts: { data: Float32Array | Int32Array; shape: number[] }[]): tf.Tensor[] {
  const first = parts[0]?.data
  if (!first || !onGpu()) return parts.map(({ data, shape }) => uploadTensor(data, shape))
  const length = parts.reduce((total, { data }) => total + aligned(data.length), 0)
  const all = first instanceof Int32Array ? new Int32Array(length) : new Float32Array(length)
  let end = 0
  const offsets = parts.map(({ data }) => {
    const offset = end
    all.set(data, offset)
    end += aligned(data.length)
    return offset
  })
  const flat = uploadTensor(all, [length])
  const views = parts.map(({ shape }, i) => viewOf(flat, offsets[i]!, shape))
  flat.dispose()
  return views
}

/** What tfjs keeps of a backend for itself in its types alone. */
interface Internals {
  tensorToBinding(tensor: tf.TensorInfo): GPUBufferBinding
  releaseResource(dataId: tf.DataId): void
  ensureCommandEncoderReady(): void
  endComputePassEncoder(): void
  commandEncoder: GPUCommandEncoder
  bufferManager: {
    acquireBuffer(size: number, usage: number): GPUBuffer
    releaseBuffer(buffer: GPUBuffer): void
  }
}

/**
 * Teaches a backend that a tensor's memory is a part of a buffer: what a program sees, what is read back and what is
 * freed. Call once for each backend, before it runs anything.
 */
export function allowViews(backend: WebGPUBackend): void {
  const inside = backend as unknown as Internals
  const bytes = (dataId: tf.DataId) => 4 * tf.util.sizeFromShape(backend.tensorMap.get(dataId).shape)
  const start = (dataId: tf.DataId) => 4 * (places.get(dataId)?.offset ?? 0)

  inside.tensorToBinding = ({ dataId }) => {
    const buffer = backend.tensorMap.get(dataId).resource as GPUBuffer
    return { buffer, offset: start(dataId), size: Math.max(4, bytes(dataId)) }
  }

  const release = inside.releaseResource.bind(backend)
  inside.releaseResource = (dataId) => {
    release(dataId)
    const root = places.get(dataId)?.flat.dataId
    if (root && backend.disposeData(root)) tf.engine().removeDataId(root, backend)
    places.delete(dataId)
  }

  const read = backend.read.bind(backend)
  backend.read = async (dataId) => {
    const data = backend.tensorMap.get(dataId)
    if (data.values || !data.resource) return read(dataId)
    const [from, size] = [start(dataId), bytes(dataId)]
    const staging = inside.bufferManager.acquireBuffer(
      size,
      GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    )
    inside.ensureCommandEncoderReady()
    inside.endComputePassEncoder()
    inside.commandEncoder.copyBufferToBuffer(data.resource as GPUBuffer, from, staging, 0, size)
    backend.submitQueue()
    await staging.mapAsync(GPUMapMode.READ)
    const values = staging.getMappedRange().slice(0)
    staging.unmap()
    inside.bufferManager.releaseBuffer(staging)
    // Not kept, as tfjs would: a program may write this memory through another tensor that sees it.
    return tf.util.convertBackendValuesAndArrayBuffer(values, data.dtype) as Float32Array
  }
}
