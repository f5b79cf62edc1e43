/**
 * Bounds tfjs's pool of free GPU buffers. The pool keeps every buffer it ever made, by exact size, so a run over ten
 * padded lengths would hold ten runs' worth of memory. Here a new buffer is made only after the buffers that lay free
 * longest were destroyed, so that all buffers together stay near the most that was ever in use at once.
 */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'

/** Room for free buffers, as a multiple of the largest number of bytes in use at once. */
const slack = 1.1

/** What tfjs's BufferManager keeps; private in its types only. */
interface BufferManager {
  freeBuffers: Map<string, GPUBuffer[]>
  numFreeBuffers: number
  numBytesUsed: number
  numBytesAllocated: number
  acquireBuffer(size: number, usage: number, mappedAtCreation?: boolean, reuse?: boolean): GPUBuffer
  releaseBuffer(buffer: GPUBuffer, reuse?: boolean): void
}

/** Makes the backend's pool evict; call once for each backend, before it runs anything. */
export function boundPool(backend: WebGPUBackend): void {
  const pool = (backend as unknown as { bufferManager: BufferManager }).bufferManager
  const acquire = pool.acquireBuffer.bind(pool)
  const release = pool.releaseBuffer.bind(pool)
  /** Free buffers, the one that was freed longest ago first. */
  const free = new Set<GPUBuffer>()
  let mostUsed = 0

  pool.acquireBuffer = (size, usage, mappedAtCreation = false, reuse = true) => {
    mostUsed = Math.max(mostUsed, pool.numBytesUsed + size)
    const hit = reuse && (pool.freeBuffers.get(key(size, usage))?.length ?? 0) > 0
    if (!hit) evict(pool, free, slack * mostUsed - size)
    const buffer = acquire(size, usage, mappedAtCreation, reuse)
    free.delete(buffer)
    return buffer
  }
  pool.releaseBuffer = (buffer, reuse = true) => {
    release(buffer, reuse)
    if (reuse) free.add(buffer)
  }
}

/** Destroys free buffers until at most `bytes` are allocated. tfjs frees none that an unsubmitted command still uses. */
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
