/**
 * The safetensors format: a JSON header of names, dtypes, shapes and offsets, then raw little-endian bytes without gap
 * or overlap. Reading is by tensor through Blob.slice, so that a file never has to be in memory; the header is checked
 * whole before the first tensor is read.
 */
import type { HostTensor, TensorMap } from '../config.ts'
import { bfloat16ToFloat32, float16ToFloat32 } from './float16.ts'
import { duplicateKey } from './json.ts'
import { formatBytes } from './storage.ts'

const dtypeBytes: Record<string, number> = {
  F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U64: 8, U32: 4, U16: 2, U8: 1, BOOL: 1,
  F8_E4M3: 1, F8_E5M2: 1, F8_E8M0: 1, C64: 8,
} // prettier-ignore

/** The format's own limit: a longer header is an attack or not a header. */
const maxHeaderBytes = 100_000_000

/** Bytes converted at a time, so that a half-precision tensor is never in memory twice over. */
const pieceBytes = 16 << 20

interface Entry {
  dtype: string
  shape: number[]
  /** First byte within the file, and the one after the last. */
  begin: number
  end: number
  blob: Blob
}

/** An open file, or several shards as one: names and shapes are known, values are read on demand. */
export interface SafetensorsFile {
  /** In the order of their bytes. */
  names(): string[]
  shape(name: string): number[]
  /** The dtype on disk, such as `F16`. */
  dtype(name: string): string
  /** All values as float32. Throws for dtypes other than F32, F16 and BF16. */
  read(name: string): Promise<Float32Array<ArrayBuffer>>
  /** The values in order, at most `maxElements` at a time; each chunk is the caller's to keep or drop. */
  readChunks(name: string, maxElements: number): AsyncGenerator<Float32Array<ArrayBuffer>>
  metadata: Record<string, string>
  /** Size of the files. */
  bytes: number
}

/** Reads and checks the header of a file or of every shard. Throws one sentence that says what is wrong. */
export async function openSafetensors(weights: Blob | Blob[]): Promise<SafetensorsFile> {
  const blobs = Array.isArray(weights) ? weights : [weights]
  const entries = new Map<string, Entry>()
  const metadata: Record<string, string> = {}
  for (const blob of blobs) {
    const header = parseHeader(await readHeader(blob), blob)
    for (const [name, entry] of header.entries) {
      if (entries.has(name))
        throw new Error(`The tensor ${name} is in two shards of the weights; download them again.`)
      entries.set(name, entry)
    }
    Object.assign(metadata, header.metadata)
  }
  const entryOf = (name: string): Entry => {
    const entry = entries.get(name)
    if (!entry) throw new Error(`The safetensors file has no tensor ${name}.`)
    return entry
  }
  return {
    names: () => [...entries.keys()],
    shape: (name) => [...entryOf(name).shape],
    dtype: (name) => entryOf(name).dtype,
    read: async (name) => readAll(name, entryOf(name)),
    readChunks: (name, maxElements) => readPieces(name, entryOf(name), maxElements),
    metadata,
    bytes: blobs.reduce((sum, blob) => sum + blob.size, 0),
  }
}

/** A whole small file (an adapter, a checkpoint) as float32 tensors. */
export async function readSafetensors(bytes: Uint8Array<ArrayBuffer>): Promise<TensorMap> {
  const file = await openSafetensors(new Blob([bytes]))
  const tensors: TensorMap = new Map()
  for (const name of file.names()) tensors.set(name, { shape: file.shape(name), data: await file.read(name) })
  return tensors
}

/** float32 safetensors bytes, tensors in map order; the header is padded to 8 bytes as the library does. */
export function writeSafetensors(
  tensors: TensorMap,
  metadata?: Record<string, string>,
): Uint8Array<ArrayBuffer> {
  const lines: string[] = metadata ? [`"__metadata__":${JSON.stringify(metadata)}`] : []
  let offset = 0
  for (const [name, tensor] of tensors) {
    if (name === '__metadata__')
      throw new Error('A tensor cannot be named __metadata__: safetensors reserves it.')
    checkTensor(name, tensor)
    const entry = {
      dtype: 'F32',
      shape: tensor.shape,
      data_offsets: [offset, offset + 4 * tensor.data.length],
    }
    lines.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`)
    offset += 4 * tensor.data.length
  }
  const header = new TextEncoder().encode(`{${lines.join(',')}}`)
  const headerBytes = Math.ceil(header.length / 8) * 8
  const out = new Uint8Array(8 + headerBytes + offset)
  new DataView(out.buffer).setBigUint64(0, BigInt(headerBytes), true)
  out.fill(0x20, 8, 8 + headerBytes).set(header, 8)
  let position = 8 + headerBytes
  for (const { data } of tensors.values()) {
    out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position)
    position += data.byteLength
  }
  return out
}

/** Throws unless the tensor holds as many values as its shape says. */
export function checkTensor(name: string, { shape, data }: HostTensor): void {
  const size = shape.reduce((product, dim) => product * dim, 1)
  if (size !== data.length)
    throw new Error(
      `The tensor ${name} has shape [${shape}], which is ${size} values, but holds ${data.length}.`,
    )
}

async function readHeader(blob: Blob): Promise<string> {
  if (blob.size < 8)
    throw new Error(
      `This is not a safetensors file: it has ${blob.size} bytes, and the header alone needs more.`,
    )
  const length = new DataView(await blob.slice(0, 8).arrayBuffer()).getBigUint64(0, true)
  const first =
    length > 0n && blob.size > 8 ? new Uint8Array(await blob.slice(8, 9).arrayBuffer())[0] : undefined
  if (first !== 0x7b)
    throw new Error('This is not a safetensors file: no JSON header follows its first 8 bytes.')
  if (length > BigInt(maxHeaderBytes))
    throw new Error(`This is not a safetensors file: it claims a header of ${length} bytes.`)
  if (8n + length > BigInt(blob.size))
    throw new Error(
      `The safetensors file is truncated: its header needs ${8n + length} bytes and the file has ${blob.size}; get it again.`,
    )
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(
      await blob.slice(8, 8 + Number(length)).arrayBuffer(),
    )
  } catch (cause) {
    throw new Error('The safetensors header is not UTF-8 text: the file is damaged; get it again.', { cause })
  }
}

function parseHeader(
  text: string,
  blob: Blob,
): { entries: Map<string, Entry>; metadata: Record<string, string> } {
  const header = parseHeaderJson(text)
  const duplicate = duplicateKey(text)
  if (duplicate !== null)
    throw new Error(`The safetensors header names ${duplicate} twice, so the file cannot be trusted.`)
  const { __metadata__: metadata = {}, ...tensors } = header
  if (!isRecord(metadata) || !Object.values(metadata).every((value) => typeof value === 'string'))
    throw new Error('The __metadata__ of the safetensors header is not a map of strings.')
  const start = 8 + new TextEncoder().encode(text).length
  const list = Object.entries(tensors).map(([name, value]): [string, Entry] => [
    name,
    parseEntry(name, value, start, blob),
  ])
  list.sort(([a, x], [b, y]) => x.begin - y.begin || x.end - y.end || (a < b ? -1 : 1))
  checkLayout(list, start, blob.size)
  return { entries: new Map(list), metadata: metadata as Record<string, string> }
}

function parseHeaderJson(text: string): Record<string, unknown> {
  let header: unknown
  try {
    header = JSON.parse(text)
  } catch (cause) {
    throw new Error('The safetensors header is not valid JSON: the file is damaged; get it again.', { cause })
  }
  if (!isRecord(header)) throw new Error('The safetensors header is not a JSON object.')
  return header
}

function parseEntry(name: string, value: unknown, start: number, blob: Blob): Entry {
  const fail = (what: string) => new Error(`The tensor ${name} in the safetensors header ${what}.`)
  if (!isRecord(value)) throw fail('is not described by an object')
  const { dtype, shape, data_offsets: offsets } = value
  const width = typeof dtype === 'string' && Object.hasOwn(dtypeBytes, dtype) ? dtypeBytes[dtype] : undefined
  if (width === undefined) throw fail(`has the unknown dtype ${JSON.stringify(dtype)}`)
  if (!isSizes(shape)) throw fail(`has the impossible shape ${JSON.stringify(shape)}`)
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!)
    throw fail(`has the impossible data_offsets ${JSON.stringify(offsets)}`)
  const [begin, end] = offsets as [number, number]
  const needed = shape.reduce((product, dim) => product * dim, 1) * width
  if (needed !== end - begin)
    throw fail(
      `is ${String(dtype)} [${shape}], which is ${needed} bytes, but its data_offsets hold ${end - begin}`,
    )
  return { dtype: String(dtype), shape, begin: start + begin, end: start + end, blob }
}

/** Entries sorted by offset must tile the rest of the file: no overlap, no gap, nothing missing, nothing extra. */
function checkLayout(list: [string, Entry][], start: number, size: number): void {
  let position = start
  let previous = 'the header'
  for (const [name, { begin, end }] of list) {
    if (begin < position)
      throw new Error(
        `The tensors ${previous} and ${name} overlap in the safetensors file, so it cannot be trusted.`,
      )
    if (begin > position)
      throw new Error(
        `The safetensors file has ${begin - position} bytes between ${previous} and ${name} that no tensor owns.`,
      )
    position = end
    previous = name
  }
  if (position > size)
    throw new Error(
      `The safetensors file is truncated: ${position - size} of its ${position} bytes (${formatBytes(position - size)}) are missing; get it again.`,
    )
  if (position < size)
    throw new Error(
      `The safetensors file is ${size - position} bytes longer than its header says, so it cannot be trusted.`,
    )
}

async function readAll(name: string, entry: Entry): Promise<Float32Array<ArrayBuffer>> {
  const size = entry.shape.reduce((product, dim) => product * dim, 1)
  if (entry.end - entry.begin <= pieceBytes) return decode(name, entry, entry.begin, entry.end)
  const out = new Float32Array(size)
  let offset = 0
  for await (const piece of readPieces(name, entry, pieceBytes / 4)) {
    out.set(piece, offset)
    offset += piece.length
  }
  return out
}

async function* readPieces(
  name: string,
  entry: Entry,
  maxElements: number,
): AsyncGenerator<Float32Array<ArrayBuffer>> {
  if (!Number.isInteger(maxElements) || maxElements < 1)
    throw new Error(`Tensors are read at least one value at a time, not ${maxElements}.`)
  const step = maxElements * dtypeBytes[entry.dtype]!
  for (let begin = entry.begin; begin < entry.end; begin += step)
    yield decode(name, entry, begin, Math.min(begin + step, entry.end))
}

async function decode(
  name: string,
  { dtype, blob }: Entry,
  begin: number,
  end: number,
): Promise<Float32Array<ArrayBuffer>> {
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16')
    throw new Error(`The tensor ${name} is ${dtype}; weights are read from F32, F16 or BF16.`)
  const buffer = await blob.slice(begin, end).arrayBuffer()
  if (buffer.byteLength !== end - begin)
    throw new Error(
      `The tensor ${name} could not be read whole: the file changed or went away; open it again.`,
    )
  if (dtype === 'F32') return new Float32Array(buffer)
  return dtype === 'F16'
    ? float16ToFloat32(new Uint16Array(buffer))
    : bfloat16ToFloat32(new Uint16Array(buffer))
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0)
}
