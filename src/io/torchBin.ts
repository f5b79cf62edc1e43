/**
 * PyTorch's `.bin` files of named tensors, without PyTorch: written as the zip of raw storages and a pickle that
 * `torch.load(weights_only=True)` accepts; read in that form and in the one before torch 1.6. Reading executes nothing.
 */
import type { HostTensor, TensorMap } from '../config.ts'
import { bfloat16ToFloat32, float16ToFloat32 } from './float16.ts'
import { checkTensor } from './safetensors.ts'
import { formatBytes } from './storage.ts'
import { isTensor, unpickle, type PickledTensor, type StorageType, type Value } from './unpickle.ts'
import { isZip, readZip, writeZip } from './zip.ts'

const elementBytes: Record<StorageType, number> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  float64: 8,
  int64: 8,
}

/** Many tensors may share one storage, so a small file can claim a large result. */
const maxResultBytes = 1 << 30

/** First object of a file before torch 1.6. */
const legacyMagic = 0x1950a86a20f9469cfc6cn

/**
 * `torch.save(dict(tensors))`: float32, contiguous. Names that hold the very same array share one storage, as aliases
 * of one parameter do in torch; every other tensor has its own.
 */
export function writeTorchBin(tensors: TensorMap): Uint8Array<ArrayBuffer> {
  const pickle = new PickleWriter()
  const storages: [string, Uint8Array][] = []
  const keys = new Map<Float32Array, string>()
  for (const [name, tensor] of tensors) {
    checkTensor(name, tensor)
    const known = keys.get(tensor.data)
    const key = known ?? String(storages.length)
    pickle.tensor(name, key, tensor)
    if (known !== undefined) continue
    keys.set(tensor.data, key)
    const { buffer, byteOffset, byteLength } = tensor.data
    storages.push([`archive/data/${key}`, new Uint8Array(buffer, byteOffset, byteLength)])
  }
  const text = new TextEncoder()
  const files: [string, Uint8Array][] = [
    ['archive/data.pkl', pickle.finish()],
    ['archive/byteorder', text.encode('little')],
    ...storages,
    ['archive/version', text.encode('3\n')],
  ]
  return writeZip(new Map(files), 0)
}

/** Protocol 2 without memo: one dict of key to `_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`. */
class PickleWriter {
  readonly #parts: Uint8Array[] = [Uint8Array.of(0x80, 2, 0x7d, 0x28)]

  tensor(name: string, key: string, { shape, data }: HostTensor): void {
    this.#string(name)
    this.#global('torch._utils', '_rebuild_tensor_v2')
    this.#bytes(0x28, 0x28)
    this.#string('storage')
    this.#global('torch', 'FloatStorage')
    this.#string(key)
    this.#string('cpu')
    this.#int(data.length)
    this.#bytes(0x74, 0x51)
    this.#int(0)
    this.#tuple(shape)
    this.#tuple(contiguousStride(shape))
    this.#bytes(0x89)
    this.#global('collections', 'OrderedDict')
    this.#bytes(0x29, 0x52, 0x74, 0x52)
  }

  finish(): Uint8Array {
    this.#bytes(0x75, 0x2e)
    const out = new Uint8Array(this.#parts.reduce((sum, part) => sum + part.length, 0))
    let position = 0
    for (const part of this.#parts) {
      out.set(part, position)
      position += part.length
    }
    return out
  }

  #bytes(...bytes: number[]): void {
    this.#parts.push(Uint8Array.from(bytes))
  }

  #string(text: string): void {
    const bytes = new TextEncoder().encode(text)
    this.#bytes(0x58, ...littleEndian(bytes.length, 4))
    this.#parts.push(bytes)
  }

  #global(module: string, name: string): void {
    this.#parts.push(new TextEncoder().encode(`c${module}\n${name}\n`))
  }

  #int(value: number): void {
    if (value < 256) this.#bytes(0x4b, value)
    else if (value < 65536) this.#bytes(0x4d, ...littleEndian(value, 2))
    else this.#bytes(0x4a, ...littleEndian(value, 4))
  }

  #tuple(values: number[]): void {
    if (values.length === 0) return this.#bytes(0x29)
    if (values.length > 3) this.#bytes(0x28)
    for (const value of values) this.#int(value)
    this.#bytes(values.length > 3 ? 0x74 : 0x84 + values.length)
  }
}

function littleEndian(value: number, width: number): number[] {
  return Array.from({ length: width }, (_, i) => Math.floor(value / 256 ** i) & 255)
}

function contiguousStride(shape: number[]): number[] {
  const stride = new Array<number>(shape.length).fill(1)
  for (let i = shape.length - 2; i >= 0; i--) stride[i] = stride[i + 1]! * Math.max(shape[i + 1]!, 1)
  return stride
}

/**
 * A dict of tensors as float32, from a zip or an older file. Names of one view of one storage get the very same tensor,
 * once in memory. Throws one sentence for anything damaged, and for a pickle that names anything but tensors.
 */
export function readTorchBin(bytes: Uint8Array): TensorMap {
  const { root, storageBytes } = isZip(bytes) ? readArchive(bytes) : readLegacy(bytes)
  if (!(root instanceof Map))
    throw new Error('The torch file holds no dict of tensors, so it is not an adapter.')
  const tensors: TensorMap = new Map()
  const read = new Map<string, HostTensor>()
  let total = 0
  for (const [name, value] of root) {
    if (typeof name !== 'string' || !isTensor(value))
      throw new Error(
        `The torch file holds something else than named tensors under ${JSON.stringify(String(name))}.`,
      )
    const { storage, offset, shape, stride } = value
    const view = [storage.key, storage.type, storage.elements, offset, shape, stride].join('|')
    const known = read.get(view)
    if (known) {
      tensors.set(name, known)
      continue
    }
    total += 4 * Math.max(sizeOf(value), spanOf(value))
    if (total > maxResultBytes)
      throw new Error(
        `The torch file would unpack to more than ${formatBytes(maxResultBytes)}: it was refused.`,
      )
    const tensor = materialise(name, value, storageBytes(value.storage.key))
    read.set(view, tensor)
    tensors.set(name, tensor)
  }
  return tensors
}

function sizeOf({ shape }: PickledTensor): number {
  return shape.reduce((product, dim) => product * dim, 1)
}

/** Elements from the first to the last of a view, those between that it skips included. */
function spanOf({ shape, stride }: PickledTensor): number {
  return shape.includes(0) ? 0 : shape.reduce((sum, dim, i) => sum + (dim - 1) * stride[i]!, 1)
}

interface Archive {
  root: Value
  storageBytes(key: string): Uint8Array
}

function readArchive(bytes: Uint8Array): Archive {
  const files = readZip(bytes)
  const pickle = [...files.keys()].find((name) => /(^|\/)data\.pkl$/.test(name))
  if (pickle === undefined) throw new Error('This zip is not a torch file: it holds no data.pkl.')
  const folder = pickle.slice(0, -'data.pkl'.length)
  const order = files.get(`${folder}byteorder`)
  if (order && new TextDecoder().decode(order).trim() !== 'little')
    throw new Error('The torch file was written on a big-endian machine; save it again on an ordinary one.')
  return {
    root: unpickle(files.get(pickle)!).value,
    storageBytes: (key) => {
      const data = files.get(`${folder}data/${key}`)
      if (!data) throw new Error(`The torch file is damaged: it lacks the storage ${key}; get it again.`)
      return data
    },
  }
}

/** Before torch 1.6: pickles of magic, version, system, root and storage keys; then a count and the bytes of each. */
function readLegacy(bytes: Uint8Array): Archive {
  // Pickles start with PROTO, or with GLOBAL in the oldest protocol, which is then named and refused.
  if (bytes[0] !== 0x80 && bytes[0] !== 0x63)
    throw new Error('This is not a torch weights file: it is neither a zip nor a pickle; get it again.')
  const magic = unpickle(bytes)
  if (magic.value !== legacyMagic)
    throw new Error(
      'This is not a torch weights file: it neither is a zip nor starts as older ones do. Nothing in it was executed.',
    )
  const version = unpickle(bytes, magic.end)
  const system = unpickle(bytes, version.end)
  if (system.value instanceof Map && system.value.get('little_endian') === false)
    throw new Error('The torch file was written on a big-endian machine; save it again on an ordinary one.')
  const root = unpickle(bytes, system.end)
  const keys = unpickle(bytes, root.end)
  if (!Array.isArray(keys.value))
    throw new Error('The torch file is damaged: it does not list its storages; get it again.')
  const storages = legacyStorages(bytes, keys.end, keys.value, root.value)
  return {
    root: root.value,
    storageBytes: (key) => {
      const data = storages.get(key)
      if (!data) throw new Error(`The torch file is damaged: it lacks the storage ${key}; get it again.`)
      return data
    },
  }
}

function legacyStorages(
  bytes: Uint8Array,
  start: number,
  keys: Value[],
  root: Value,
): Map<string, Uint8Array> {
  const types = new Map<Value, StorageType>()
  for (const value of root instanceof Map ? root.values() : [])
    if (isTensor(value)) types.set(value.storage.key, value.storage.type)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const storages = new Map<string, Uint8Array>()
  let position = start
  for (const key of keys) {
    const type = types.get(key)
    if (type === undefined)
      throw new Error('The torch file is damaged: a storage belongs to no tensor; get it again.')
    if (position + 8 > bytes.length)
      throw new Error('The torch file is truncated: a storage is missing; get it again.')
    const length = Number(view.getBigInt64(position, true)) * elementBytes[type]
    position += 8
    if (length < 0 || position + length > bytes.length)
      throw new Error(`The torch file is truncated: the storage ${String(key)} is cut off; get it again.`)
    storages.set(String(key), bytes.subarray(position, position + length))
    position += length
  }
  return storages
}

/** Copies a strided view out of its storage into a contiguous float32 tensor. */
function materialise(name: string, view: PickledTensor, bytes: Uint8Array): HostTensor {
  const { storage, offset, shape, stride } = view
  const width = elementBytes[storage.type]
  const size = sizeOf(view)
  const end = offset + spanOf(view)
  if (bytes.length < storage.elements * width)
    throw new Error(
      `The torch file is truncated: the storage of ${name} has ${bytes.length} of ${storage.elements * width} bytes.`,
    )
  if (size === 0) return { shape, data: new Float32Array(0) }
  if (end > storage.elements || size > storage.elements)
    throw new Error(`The torch file is damaged: the tensor ${name} reaches outside its storage.`)
  const source = toFloat32(bytes.slice(offset * width, end * width), storage.type)
  const contiguous = contiguousStride(shape)
  if (stride.every((step, i) => shape[i] === 1 || step === contiguous[i])) return { shape, data: source }
  return { shape, data: gather(source, shape, stride) }
}

/** Elements of a strided view in row-major order; `source` starts at its first one. */
function gather(source: Float32Array, shape: number[], stride: number[]): Float32Array {
  const data = new Float32Array(shape.reduce((product, dim) => product * dim, 1))
  const index = new Array<number>(shape.length).fill(0)
  for (let i = 0, at = 0; i < data.length; i++) {
    data[i] = source[at]!
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += stride[axis]!
      index[axis]! += 1
      if (index[axis]! < shape[axis]!) break
      at -= stride[axis]! * shape[axis]!
      index[axis] = 0
    }
  }
  return data
}

/** `bytes` must own its buffer, so that the typed arrays are aligned. */
function toFloat32({ buffer }: Uint8Array<ArrayBuffer>, type: StorageType): Float32Array {
  if (type === 'float32') return new Float32Array(buffer)
  if (type === 'float16') return float16ToFloat32(new Uint16Array(buffer))
  if (type === 'bfloat16') return bfloat16ToFloat32(new Uint16Array(buffer))
  if (type === 'float64') return new Float32Array(new Float64Array(buffer))
  return Float32Array.from(new BigInt64Array(buffer), Number)
}
