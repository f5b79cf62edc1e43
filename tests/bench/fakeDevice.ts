/**
 * A GPU that executes nothing and counts everything. tfjs's real WebGPUBackend runs on it, so the calls, uploads and
 * buffer sizes are those of a real device at any model size, in seconds; results are zeros and times mean nothing.
 */

/** Totals since the device was made, or between two snapshots. */
export interface Counts {
  dispatches: number
  passes: number
  submits: number
  createBuffer: number
  /** Bytes written from the host into storage or staging buffers; uniforms of a dispatch are counted apart. */
  uploadBytes: number
  uploads: number
  uniformBytes: number
  /** Storage bytes bound to dispatches: an upper bound of memory traffic. */
  boundBytes: number
  readbacks: number
  pipelines: number
}

const usageFlags = {
  MAP_READ: 1,
  MAP_WRITE: 2,
  COPY_SRC: 4,
  COPY_DST: 8,
  INDEX: 16,
  VERTEX: 32,
  UNIFORM: 64,
  STORAGE: 128,
  INDIRECT: 256,
  QUERY_RESOLVE: 512,
}

const none: Counts = {
  dispatches: 0,
  passes: 0,
  submits: 0,
  createBuffer: 0,
  uploadBytes: 0,
  uploads: 0,
  uniformBytes: 0,
  boundBytes: 0,
  readbacks: 0,
  pipelines: 0,
}

/** `after - before`, field by field. */
export function difference(after: Counts, before: Counts): Counts {
  const out = { ...none }
  for (const key of Object.keys(none) as (keyof Counts)[]) out[key] = after[key] - before[key]
  return out
}

/** tfjs binds its result, which a program may write, as 0 and what is only read behind it. */
interface FakeBinding {
  buffer: FakeBuffer
  offset?: number
  size?: number
}

class FakeBuffer {
  mapState: GPUBufferMapState
  destroyed = false
  private mapped: ArrayBuffer | null = null
  private writing: boolean

  constructor(
    private readonly gpu: FakeGpu,
    readonly size: number,
    readonly usage: number,
    mappedAtCreation: boolean,
  ) {
    this.mapState = mappedAtCreation ? 'mapped' : 'unmapped'
    this.writing = mappedAtCreation
  }

  getMappedRange(offset = 0, size = this.size - offset): ArrayBuffer {
    const range = new ArrayBuffer(size)
    if (this.writing) this.mapped = range
    return range
  }

  unmap(): void {
    if (this.writing) this.gpu.countWrite(this.mapped ?? new ArrayBuffer(this.size), this.usage)
    this.mapped = null
    this.writing = false
    this.mapState = 'unmapped'
  }

  mapAsync(mode: number): Promise<void> {
    if (mode === 1) this.gpu.counts.readbacks++
    this.mapState = 'mapped'
    return Promise.resolve()
  }

  destroy(): void {
    if (!this.destroyed) this.gpu.bytes -= this.size
    this.destroyed = true
  }
}

/** The device, the adapter and `navigator.gpu` in one; `openBackend('webgpu', { gpu })` takes it as it is. */
export class FakeGpu {
  readonly counts: Counts = { ...none }
  /** Bytes of live buffers, tfjs's pool of free ones included, and their highest value since `resetPeak`. */
  bytes = 0
  peakBytes = 0
  /** Sees the bytes of every upload, uniforms left out. */
  onUpload: (bytes: Uint8Array) => void = () => {}

  readonly limits = {
    maxBufferSize: 4 * 2 ** 30,
    maxStorageBufferBindingSize: 2 ** 31 - 4,
    maxStorageBuffersPerShaderStage: 10,
    maxComputeWorkgroupStorageSize: 32768,
    maxComputeInvocationsPerWorkgroup: 1024,
    maxComputeWorkgroupSizeX: 1024,
    maxComputeWorkgroupSizeY: 1024,
    maxComputeWorkgroupSizeZ: 64,
    maxComputeWorkgroupsPerDimension: 65535,
  }
  readonly features = new Set<string>()
  readonly info = { vendor: 'fake', architecture: 'counts', device: '', description: 'executes nothing' }
  readonly adapterInfo = this.info
  readonly lost = new Promise<never>(() => {})
  readonly wgslLanguageFeatures = new Set<string>()

  requestAdapter = async () => this
  requestDevice = async () => this
  addEventListener = () => {}
  pushErrorScope = () => {}
  popErrorScope = async () => null
  destroy = () => {}
  getPreferredCanvasFormat = () => 'bgra8unorm'

  readonly queue = {
    submit: () => void this.counts.submits++,
    writeBuffer: (
      buffer: FakeBuffer,
      _at: number,
      data: ArrayBufferView | ArrayBuffer,
      from = 0,
      size?: number,
    ) => {
      const each =
        ArrayBuffer.isView(data) && 'BYTES_PER_ELEMENT' in data ? Number(data.BYTES_PER_ELEMENT) : 1
      const [memory, start] = ArrayBuffer.isView(data) ? [data.buffer, data.byteOffset] : [data, 0]
      const bytes = size === undefined ? data.byteLength - from * each : size * each
      this.countWrite(memory, buffer.usage, start + from * each, bytes)
    },
    onSubmittedWorkDone: async () => {},
  }

  constructor() {
    // What tfjs expects of a browser and Node lacks.
    const globals = {
      GPUBuffer: FakeBuffer,
      GPUTexture: class {},
      GPUExternalTexture: class {},
      GPUBufferUsage: usageFlags,
      GPUMapMode: { READ: 1, WRITE: 2 },
    }
    for (const [name, value] of Object.entries(globals)) {
      if (!(name in globalThis)) Object.defineProperty(globalThis, name, { value, configurable: true })
    }
  }

  countWrite(memory: ArrayBufferLike, usage: number, start = 0, size = memory.byteLength): void {
    if (usage & usageFlags.UNIFORM) {
      this.counts.uniformBytes += size
    } else {
      this.counts.uploads++
      this.counts.uploadBytes += size
      this.onUpload(new Uint8Array(memory, start, size))
    }
  }

  resetPeak(): void {
    this.peakBytes = this.bytes
  }

  createBuffer({ size, usage, mappedAtCreation = false }: GPUBufferDescriptor): FakeBuffer {
    if (size > this.limits.maxBufferSize) throw new Error(`A buffer of ${size} bytes is over maxBufferSize.`)
    this.counts.createBuffer++
    this.bytes += size
    this.peakBytes = Math.max(this.peakBytes, this.bytes)
    return new FakeBuffer(this, size, usage, mappedAtCreation)
  }

  createShaderModule = (descriptor: { code: string }) => ({
    ...descriptor,
    getCompilationInfo: async () => ({ messages: [] }),
  })

  createComputePipeline = () => {
    this.counts.pipelines++
    return { getBindGroupLayout: () => ({}) }
  }

  createComputePipelineAsync = async () => this.createComputePipeline()
  createBindGroupLayout = () => ({})
  createPipelineLayout = () => ({})

  /** The bytes that a bind group gives a shader, kept until it is dispatched. */
  createBindGroup({ entries }: { entries: Iterable<GPUBindGroupEntry> }): { storageBytes: number } {
    let storageBytes = 0
    let written: FakeBuffer | null = null
    for (const { binding, resource } of entries) {
      const { buffer, offset = 0, size } = resource as unknown as FakeBinding
      if (!(buffer.usage & usageFlags.STORAGE)) continue
      if (buffer.destroyed) throw new Error('A dispatch uses a buffer that was destroyed.')
      if (binding === 0) written = buffer
      else if (buffer === written) throw new Error('A dispatch reads the buffer that it writes.')
      const bytes = size ?? buffer.size - offset
      if (offset % 256 !== 0 || offset + bytes > buffer.size)
        throw new Error(`A binding of ${bytes} bytes at ${offset} does not fit a buffer of ${buffer.size}.`)
      if (bytes > this.limits.maxStorageBufferBindingSize)
        throw new Error(`A binding of ${bytes} bytes is over the limit.`)
      storageBytes += bytes
    }
    return { storageBytes }
  }

  createCommandEncoder = () => ({
    beginComputePass: () => {
      this.counts.passes++
      let bound = 0
      return {
        setPipeline: () => {},
        setBindGroup: (_index: number, group: { storageBytes: number }) => void (bound = group.storageBytes),
        dispatchWorkgroups: (x: number, y = 1, z = 1) => {
          if (Math.max(x, y, z) > this.limits.maxComputeWorkgroupsPerDimension)
            throw new Error(`A dispatch of ${x}×${y}×${z} workgroups is over the limit.`)
          this.counts.dispatches++
          this.counts.boundBytes += bound
        },
        end: () => {},
      }
    },
    copyBufferToBuffer: () => {},
    clearBuffer: () => {},
    finish: () => ({}),
  })
}
