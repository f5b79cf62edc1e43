/**
 * Opens the tfjs backend that everything runs on and says what it is. The WebGPU device is made here and handed to
 * tfjs, because tfjs's own never raises the storage-buffer count, asks for no optional feature and has no handler for
 * a lost device. Backend packages are imported lazily: a tab on WebGPU never loads the wasm one. The only file that
 * touches tfjs's registry and flags.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'
import { allowAsking, extensions, type Extension } from './dialect.ts'
import { needsSoftwareVariants } from './limits.ts'
import { boundPool } from './pool.ts'
import { allowViews } from './views.ts'

export type BackendKind = 'webgpu' | 'wasm' | 'cpu'

/** What runs the numbers, as the page shows it and a run keeps it. Strings are empty where the browser hides them. */
export interface DeviceReport {
  backend: BackendKind
  vendor: string
  architecture: string
  description: string
  /** A software adapter: right, but slow. */
  is_fallback: boolean
  features: string[]
  limits: {
    maxBufferSize: number
    maxStorageBufferBindingSize: number
    maxStorageBuffersPerShaderStage: number
    maxComputeWorkgroupStorageSize: number
    maxComputeInvocationsPerWorkgroup: number
  }
  /** Its speeds say nothing about a GPU's: wasm, cpu or a software adapter. */
  slow: boolean
}

export interface BackendOptions {
  powerPreference?: GPUPowerPreference
  /** Where adapters come from; a browser's own by default. Node passes Dawn's. */
  gpu?: GPU
  /** Folder URL of the wasm backend's `.wasm` files, with its slash. */
  wasmPath?: string
  /** Which WGSL variants run where there are two; by default those for the adapter's kind. */
  variants?: 'gpu' | 'software'
  /** Optional features to ask for where the adapter has them; by default all that some program can use. */
  features?: readonly GPUFeatureName[]
  /** The device is gone: nothing on it can be used again. */
  onLost?(message: string): void
  /** The device refused a command; results since then may be wrong. */
  onError?(message: string): void
}

/** No WebGPU adapter: the browser has none, or gives none to this page. */
export class NoGpuError extends Error {
  override readonly name = 'NoGpuError'
}

const wantedFeatures: readonly GPUFeatureName[] = [...Object.values(extensions), 'timestamp-query']

const wantedLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
] as const

let opened: DeviceReport | null = null
let forSoftware = false

/**
 * Opens `kind`, makes it tfjs's current backend and returns what it is. A second call replaces the first backend and
 * every tensor on it. Throws NoGpuError when there is no WebGPU adapter.
 */
export async function openBackend(kind: BackendKind, options: BackendOptions = {}): Promise<DeviceReport> {
  opened = kind === 'webgpu' ? await openWebGpu(options) : await openHost(kind, options)
  if (!(await tf.setBackend(kind)))
    throw new Error(`The ${kind} backend did not start in this browser; try another one.`)
  await tf.ready()
  if (kind === 'webgpu') {
    boundPool(webgpuBackend())
    allowViews(webgpuBackend())
  }
  const fewThreads = kind === 'webgpu' && needsSoftwareVariants(opened.limits)
  forSoftware = options.variants ? options.variants === 'software' : opened.is_fallback || fewThreads
  return opened
}

/** What `openBackend` returned last. Throws before the first call. */
export function openedDevice(): DeviceReport {
  if (!opened) throw new Error('No backend is open yet: call openBackend first.')
  return opened
}

/** Which WGSL variants the open device runs where there are two, if they are right there; see `wayOf`. */
export function deviceVariants(): 'gpu' | 'software' {
  return forSoftware ? 'software' : 'gpu'
}

/** Whether the open device has an extension of WGSL. */
export function deviceHas(name: Extension): boolean {
  return openedDevice().features.includes(extensions[name])
}

/** Bytes of GPU buffers allocated by tfjs, its pool included; on wasm and cpu, bytes held by tensors. */
export function gpuBytes(): number {
  if (tf.getBackend() === 'webgpu') return webgpuBackend().memory().numBytesAllocatedInGPU
  return tf.memory().numBytes
}

/**
 * A tensor of `data` that lives on the device: on webgpu no copy of it stays on the host, so `data` may be reused at
 * once; elsewhere the tensor may keep `data` itself, so it must not be written to again.
 */
export function uploadTensor<R extends tf.Rank>(
  data: Float32Array | Int32Array,
  shape: tf.ShapeMap[R],
): tf.Tensor<R> {
  const dtype = data instanceof Int32Array ? 'int32' : 'float32'
  const size = tf.util.sizeFromShape(shape)
  if (size !== data.length)
    throw new Error(`uploadTensor got ${data.length} values for the shape [${shape.join(', ')}].`)
  if (tf.getBackend() !== 'webgpu' || size === 0) return tf.tensor(data, shape, dtype)
  const target = emptyOnGpu(shape, dtype)
  writeChunk(target.buffer, data, 0)
  return tf.engine().makeTensorFromTensorInfo(target.info) as tf.Tensor<R>
}

/**
 * The same from pieces in row-major order, which on webgpu go to the device as they come: a 154 MB table never exists
 * on the host as a whole. Throws when the pieces do not fill `shape` exactly.
 */
export async function uploadTensorInChunks<R extends tf.Rank>(
  shape: tf.ShapeMap[R],
  chunks: AsyncIterable<Float32Array | Int32Array>,
  dtype: 'float32' | 'int32' = 'float32',
): Promise<tf.Tensor<R>> {
  const size = tf.util.sizeFromShape(shape)
  const target = tf.getBackend() === 'webgpu' && size > 0 ? emptyOnGpu(shape, dtype) : null
  const host = target ? null : dtype === 'int32' ? new Int32Array(size) : new Float32Array(size)
  let filled = 0
  try {
    for await (const chunk of chunks) {
      if (filled + chunk.length > size)
        throw new Error(`The pieces of a tensor [${shape.join(', ')}] exceed its ${size} values.`)
      if (target) writeChunk(target.buffer, chunk, filled)
      else host?.set(chunk, filled)
      filled += chunk.length
    }
    if (filled < size)
      throw new Error(`The pieces of a tensor [${shape.join(', ')}] end after ${filled} of ${size} values.`)
  } catch (error) {
    if (target) webgpuBackend().disposeData(target.info.dataId)
    throw error
  }
  return target
    ? (tf.engine().makeTensorFromTensorInfo(target.info) as tf.Tensor<R>)
    : tf.tensor(host ?? [], shape, dtype)
}

/** 16 MB at a time: the browser holds a copy of each piece on its way to the GPU. */
const pieceLength = 4 << 20

function writeChunk(buffer: GPUBuffer, data: Float32Array | Int32Array, start: number): void {
  const { queue } = webgpuBackend()
  for (let i = 0; i < data.length; i += pieceLength) {
    const piece = data.subarray(i, i + pieceLength)
    queue.writeBuffer(buffer, (start + i) * 4, piece.buffer, piece.byteOffset, piece.byteLength)
  }
}

function emptyOnGpu(shape: number[], dtype: 'float32' | 'int32'): { info: tf.TensorInfo; buffer: GPUBuffer } {
  const backend = webgpuBackend()
  const info = backend.makeTensorInfo(shape, dtype)
  backend.uploadToGPU(info.dataId)
  submitPending(backend)
  return { info, buffer: backend.tensorMap.get(info.dataId).resource as GPUBuffer }
}

/** A float32 tensor of `shape` that has no values until a program writes them. WebGPU only. */
export function emptyTensor<R extends tf.Rank>(shape: tf.ShapeMap[R]): tf.Tensor<R> {
  return tf
    .engine()
    .makeTensorFromTensorInfo(webgpuBackend().makeTensorInfo(shape, 'float32')) as tf.Tensor<R>
}

/** A write to a buffer overtakes commands that are not submitted yet, and they may still use what it was before. */
function submitPending(backend: WebGPUBackend): void {
  const inside = backend as unknown as { commandEncoder: object | null; endComputePassEncoder(): void }
  inside.endComputePassEncoder()
  if (inside.commandEncoder) backend.submitQueue()
}

/**
 * Does `work` without running anything on the GPU: its programs begin to be compiled, each a promise where tfjs keeps its
 * pipelines. What it makes has no values. WebGPU only.
 */
export function compilingOnly(work: () => void): void {
  tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', true)
  try {
    work()
  } finally {
    tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', false)
  }
}

/** tfjs's current backend, which must be webgpu. */
export function webgpuBackend(): WebGPUBackend {
  return tf.backend() as WebGPUBackend
}

async function openHost(kind: 'wasm' | 'cpu', { wasmPath }: BackendOptions): Promise<DeviceReport> {
  if (kind === 'wasm') {
    const wasm = await import('@tensorflow/tfjs-backend-wasm')
    if (wasmPath && !tf.findBackend('wasm')) wasm.setWasmPaths(wasmPath)
  } else {
    await import('@tensorflow/tfjs-backend-cpu')
  }
  return {
    backend: kind,
    vendor: '',
    architecture: '',
    description: kind === 'wasm' ? 'WebAssembly on the CPU' : 'JavaScript on the CPU',
    is_fallback: false,
    features: [],
    limits: {
      maxBufferSize: Number.MAX_SAFE_INTEGER,
      maxStorageBufferBindingSize: Number.MAX_SAFE_INTEGER,
      maxStorageBuffersPerShaderStage: 0,
      maxComputeWorkgroupStorageSize: 0,
      maxComputeInvocationsPerWorkgroup: 0,
    },
    slow: true,
  }
}

async function openWebGpu(options: BackendOptions): Promise<DeviceReport> {
  const adapter = await requestAdapter(options)
  const device = await requestDevice(adapter, options.features ?? wantedFeatures)
  allowAsking(device)
  const description = [adapter.info.vendor, adapter.info.architecture, adapter.info.description]
    .filter(Boolean)
    .join(' ')
  const name = description || 'the GPU'
  void device.lost.then(({ reason, message }) => {
    if (reason !== 'destroyed')
      options.onLost?.(`The GPU device was lost (${name}): ${message || 'no reason was given'}`)
  })
  device.addEventListener('uncapturederror', (event) => {
    options.onError?.(`The GPU refused a command (${name}): ${event.error.message}`)
  })

  const { WebGPUBackend } = await import('@tensorflow/tfjs-backend-webgpu')
  replaceBackend()
  tf.registerBackend('webgpu', () => new WebGPUBackend(device, adapter.info), 3)
  // Always the packed matmul: split-K, tfjs's choice for few tiles and K >= 2000, ignores transposeB.
  tf.env().set('WEBGPU_MATMUL_PROGRAM_TYPE', 3)
  // Small tensors take the same shaders as large ones, so that a result does not depend on where an input was.
  tf.env().set('WEBGPU_CPU_FORWARD', false)
  return describe(adapter, device)
}

/** Frees what was opened before, and takes tfjs's own factory, which would make a device of its own, out of the way. */
function replaceBackend(): void {
  const previous = tf.getBackend() === 'webgpu' ? webgpuBackend() : null
  if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu')
  previous?.device.destroy()
}

async function requestAdapter({ gpu, powerPreference }: BackendOptions): Promise<GPUAdapter> {
  if (gpu) provideGpu(gpu)
  const source = gpu ?? globalThis.navigator?.gpu
  if (!source) throw new NoGpuError('This browser has no WebGPU.')
  const adapter = await source.requestAdapter({ powerPreference: powerPreference ?? 'high-performance' })
  if (!adapter)
    throw new NoGpuError(
      'This browser has WebGPU but offers no adapter: the GPU may be blocked or its driver too old.',
    )
  return adapter
}

/** tfjs refuses to make a backend without `navigator.gpu`, which Node does not have. */
function provideGpu(gpu: GPU): void {
  if (globalThis.navigator?.gpu) return
  Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true })
}

async function requestDevice(adapter: GPUAdapter, features: readonly GPUFeatureName[]): Promise<GPUDevice> {
  const requiredLimits: Record<string, number> = {}
  for (const limit of wantedLimits) requiredLimits[limit] = adapter.limits[limit]
  return adapter.requestDevice({
    requiredFeatures: features.filter((feature) => adapter.features.has(feature)),
    requiredLimits,
  })
}

function describe({ info }: GPUAdapter, { features, limits }: GPUDevice): DeviceReport {
  const names = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`
  const is_fallback = info.isFallbackAdapter || /swiftshader|llvmpipe|software|basic render/i.test(names)
  return {
    backend: 'webgpu',
    vendor: info.vendor,
    architecture: info.architecture,
    description: info.description,
    is_fallback,
    features: [...features].sort(),
    limits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    },
    slow: is_fallback,
  }
}
