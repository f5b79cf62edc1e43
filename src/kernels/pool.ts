/**
 * Memory as tfjs's pool of GPU buffers holds it. The pool keeps every buffer it ever made, by exact size, and gives none
 * back before the commands that used it are submitted; a run over ten padded lengths would hold ten runs' worth. Here
 * sizes come in classes, so that batches of other lengths share buffers; a freed buffer is there for the very next
 * program, which the queue's order makes safe; and a new buffer is made only after those that lay free longest were
 * destroyed, so that all together stay near the most that was ever in use at once.
 */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'

/** Bytes of free buffers that may be kept beyond the most that was ever in use at once. */
const slack = 128 << 20

/** What tfjs's BufferManager keeps; private in its types only. */
interface BufferManager {
  freeBuffers: Map<string, GPUBuffer[]>
  numFreeBuffers: number
  numBytesUsed: number
  numBytesAllocated: number
  acquireBuffer(size: number, usage: number, mappedAtCreation?: boolean, reuse?: boolean): GPUBuffer
  releaseBuffer(buffer: GPUBuffer, reuse?: boolean): void
}

interface Internals {
  bufferManager: BufferManager
  commandQueueOwnedIds: Pick<WeakSet<object>, 'add' | 'has'>
  commandEncoder: GPUCommandEncoder | null
  endComputePassEncoder(): void
}

/** Makes the backend's pool reuse early and evict; call once for each backend, before it runs anything. */
export function boundPool(backend: WebGPUBackend): void {
  const inside = backend as unknown as Internals
  const pool = inside.bufferManager
  const acquire = pool.acquireBuffer.bind(pool)
  const release = pool.releaseBuffer.bind(pool)
  /** Free buffers, the one that was freed longest ago first. */
  const free = new Set<GPUBuffer>()
  let mostUsed = 0

  reuseBeforeSubmit(inside)
  pool.acquireBuffer = (exact, usage, mappedAtCreation = false, reuse = true) => {
    const size = usage & GPUBufferUsage.STORAGE ? sizeClass(exact) : exact
    mostUsed = Math.max(mostUsed, pool.numBytesUsed + size)
    const hit = reuse && (pool.freeBuffers.get(key(size, usage))?.length ?? 0) > 0
    if (!hit && pool.numBytesAllocated + size > mostUsed + slack) {
      // A buffer must live until the commands that use it are submitted.
      inside.endComputePassEncoder()
      if (inside.commandEncoder) backend.submitQueue()
      evict(pool, free, mostUsed + slack - size)
    }
    const buffer = acquire(size, usage, mappedAtCreation, reuse)
    free.delete(buffer)
    return buffer
  }
  pool.releaseBuffer = (buffer, reuse = true) => {
    release(buffer, reuse)
    if (reuse) free.add(buffer)
  }
}

/**
 * tfjs frees no tensor that an unsubmitted command uses, lest a write from the host overtake that command. Uploads of
 * tensors go through the queue in order, though, and uniforms are held back apart from this, so nothing overtakes.
 */
function reuseBeforeSubmit(backend: Internals): void {
  const none: Internals['commandQueueOwnedIds'] = { add: () => new WeakSet(), has: () => false }
  Object.defineProperty(backend, 'commandQueueOwnedIds', { get: () => none, set: () => {} })
}

/** The bytes that a buffer of `size` really gets: sixteen classes between a size and its double. */
export function sizeClass(size: number): number {
  const step = Math.max(256, 2 ** (Math.floor(Math.log2(Math.max(size, 1))) - 4))
  return Math.ceil(size / step) * step
}

/** Destroys free buffers until at most `bytes` are allocated. */
function evict(pool: BufferManager, free: Set<GPUBuffer>, bytes: number): void {
  for (const buffer of free) {
    if (pool.numBytesAllocated <= bytes) return
    const alike = pool.freeBuffers.get(key(buffer.size, buffer.usage)) ?? []
    const at = alike.indexOf(buffer)
    free.delete(buffer)
    if (at < 0) continue
    alike.splice(at, 1)
    pool.numFreeBuffers--
    pool.numBytesAllocated -= buffer.size
    buffer.destroy()
  }
}

/** As tfjs's BufferManager names a kind of buffer. */
function key(size: number, usage: number): string {
  return `${size}_${usage}`
}
