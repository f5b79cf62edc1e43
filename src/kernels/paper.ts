/**
 * A GPU on paper: tfjs's own backend with our pool and views on a device that holds nothing and runs nothing. Work that
 * is done on it allocates, binds and compiles as it would on the open device, in milliseconds and without its memory; so
 * what a training step will take, and which programs it will run, is known before it runs.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'
import { openedDevice, webgpuBackend } from './backend.ts'
import { boundPool } from './pool.ts'
import { allowViews, viewOf, whereOf } from './views.ts'

/** A program as the device would compile it. */
export interface PaperPipeline {
  label: string
  code: string
}

/** What has happened on paper so far. */
export interface Paper {
  /** The most bytes of buffers since `resetPeak`, the pool's free ones included. */
  readonly peak: number
  /** Bytes of buffers that are in use at the moment. */
  readonly used: number
  /** Bytes of the largest part of a buffer that a program has seen. */
  readonly largest: number
  /** Programs that ran, by the key that tfjs keeps them under. */
  programs(): Map<string, PaperPipeline>
  /** From here on `peak` counts anew. */
  resetPeak(): void
  /** As if so many bytes had been read back once. */
  read(bytes: number): void
}

interface Internals {
  pipelineCache: Record<string, PaperPipeline>
  bufferManager: {
    numBytesUsed: number
    acquireBuffer(size: number, usage: number): GPUBuffer
    releaseBuffer(buffer: GPUBuffer): void
  }
}

/** Where tfjs keeps its backends, private in its types only. */
interface Engine {
  registry: Record<string, tf.KernelBackend>
  backendInstance: tf.KernelBackend
}

/** Shaders are written out once for each device. */
const written = new WeakMap<GPUDevice, Record<string, PaperPipeline>>()

/**
 * Does `work` on paper, as it would go on the open device, which must be webgpu. It must free the tensors it makes, may
 * use none from outside, and must not wait for anything.
 */
export function onPaper<T>(work: (paper: Paper) => T): T {
  const real = webgpuBackend()
  const device = new PaperDevice(real.device)
  const { vendor, architecture } = openedDevice()
  const Backend = real.constructor as typeof WebGPUBackend
  const backend = new Backend(device as unknown as GPUDevice, { vendor, architecture } as GPUAdapterInfo)
  const inside = backend as unknown as Internals
  const pipelines = written.get(real.device) ?? {}
  written.set(real.device, pipelines)
  inside.pipelineCache = pipelines
  boundPool(backend)
  allowViews(backend)
  const engine = tf.engine() as unknown as Engine
  const instate = (one: tf.KernelBackend) => {
    engine.registry.webgpu = one
    engine.backendInstance = one
  }
  instate(backend)
  try {
    return tf.tidy(() => work(paperOf(device, inside)) as tf.TensorContainer) as T
  } finally {
    instate(real)
  }
}

function paperOf(device: PaperDevice, { bufferManager: pool, pipelineCache }: Internals): Paper {
  return {
    get peak() {
      return device.peak
    },
    get used() {
      return pool.numBytesUsed
    },
    get largest() {
      return device.largest
    },
    programs: () => new Map(Object.entries(pipelineCache).filter(([, program]) => device.ran.has(program))),
    resetPeak: () => void (device.peak = device.bytes),
    read: (bytes) => {
      const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ
      pool.releaseBuffer(pool.acquireBuffer(bytes, usage))
    },
  }
}

/** A tensor without values, whose memory is taken all the same. */
export function blankTensor<T extends tf.Tensor>(shape: number[], dtype: tf.DataType = 'float32'): T {
  const backend = webgpuBackend()
  const info = backend.makeTensorInfo(shape, dtype)
  backend.uploadToGPU(info.dataId)
  return tf.engine().makeTensorFromTensorInfo(info) as T
}

/** For tensors of the open device: a function that makes blank ones like them, those of one memory in one memory. */
export function blanksOf(): <T extends tf.Tensor>(tensor: T) => T {
  const flats = new Map<object, tf.Tensor>()
  return <T extends tf.Tensor>(tensor: T) => {
    const { shape, dtype } = tensor
    const place = whereOf(tensor)
    if (!place) return blankTensor<T>(shape, dtype)
    const { flat, offset } = place
    const own = flats.get(flat.dataId) ?? blankTensor(flat.shape, dtype)
    flats.set(flat.dataId, own)
    return viewOf<T>(own, offset, shape)
  }
}

/** What tfjs and our pool ask of a device. */
class PaperDevice {
  bytes = 0
  peak = 0
  largest = 0
  readonly ran = new Set<PaperPipeline>()
  readonly limits: GPUSupportedLimits
  readonly features: GPUSupportedFeatures
  readonly queue = { submit: () => {}, writeBuffer: () => {}, onSubmittedWorkDone: async () => {} }

  constructor({ limits, features }: GPUDevice) {
    this.limits = limits
    this.features = features
  }

  /** tfjs asks of a buffer whether it is one: its prototype is the browser's. */
  createBuffer({ size, usage, mappedAtCreation = false }: GPUBufferDescriptor): GPUBuffer {
    this.bytes += size
    this.peak = Math.max(this.peak, this.bytes)
    const state = { mapped: mappedAtCreation, destroyed: false }
    return Object.create(GPUBuffer.prototype, {
      size: { value: size },
      usage: { value: usage },
      mapState: { get: () => (state.mapped ? 'mapped' : 'unmapped') },
      getMappedRange: { value: () => new ArrayBuffer(size) },
      unmap: { value: () => void (state.mapped = false) },
      destroy: {
        value: () => {
          if (!state.destroyed) this.bytes -= size
          state.destroyed = true
        },
      },
    }) as GPUBuffer
  }

  createShaderModule = (descriptor: GPUShaderModuleDescriptor) => descriptor

  createComputePipeline = ({ compute, label = '' }: GPUComputePipelineDescriptor) => {
    const { code } = compute.module as unknown as GPUShaderModuleDescriptor
    return { label, code, getBindGroupLayout: () => ({}) }
  }

  createBindGroup = ({ entries }: GPUBindGroupDescriptor) => {
    for (const { resource } of entries) {
      const { buffer, size } = resource as GPUBufferBinding
      this.largest = Math.max(this.largest, size ?? buffer.size)
    }
    return {}
  }

  createCommandEncoder = () => ({
    beginComputePass: () => ({
      setPipeline: (pipeline: PaperPipeline) => void this.ran.add(pipeline),
      setBindGroup: () => {},
      dispatchWorkgroups: () => {},
      end: () => {},
    }),
    copyBufferToBuffer: () => {},
    clearBuffer: () => {},
    finish: () => ({}),
  })
}
