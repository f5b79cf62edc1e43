/**
 * Zip archives: written by fflate, read here, because what comes in is not ours. Sizes are bounded before anything is
 * unpacked, names cannot leave the folder, every entry's CRC-32 is checked, and links, encryption and zip64 are not read.
 */
import { Inflate, zipSync, type Zippable } from 'fflate'
import { formatBytes } from './storage.ts'

/** Far above any adapter folder; a zip that claims more is a bomb or not one of ours. */
const maxUnpackedBytes = 1 << 30
const maxEntries = 4096

/** Input given to the inflater at a time: at worst 1,032 times as much comes out before its size is checked. */
const pieceBytes = 16 << 10

interface Entry {
  name: string
  compressed: boolean
  crc: number
  packed: number
  unpacked: number
  /** Where its local header starts. */
  offset: number
}

export function isZip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x50 && bytes[1] === 0x4b && (bytes[2] === 3 || bytes[2] === 5)
}

/** Stores `files` in order with a fixed date, so that the same files give the same bytes. `level` 0 compresses nothing. */
export function writeZip(files: Map<string, Uint8Array>, level: 0 | 6): Uint8Array<ArrayBuffer> {
  const entries: Zippable = {}
  for (const [name, bytes] of files) entries[name] = bytes
  return new Uint8Array(zipSync(entries, { level, mtime: new Date(1980, 0, 1) }))
}

/** All files of an archive by path. Throws one sentence for anything that is damaged, too large or unsafe. */
export function readZip(zip: Uint8Array): Map<string, Uint8Array<ArrayBuffer>> {
  const view = new DataView(zip.buffer, zip.byteOffset, zip.byteLength)
  let entries: Entry[]
  try {
    entries = readDirectory(zip, view)
  } catch (cause) {
    if (cause instanceof RangeError) throw damaged('its directory points outside the file', cause)
    throw cause
  }
  const total = entries.reduce((sum, entry) => sum + entry.unpacked, 0)
  if (total > maxUnpackedBytes)
    throw new Error(
      `The zip would unpack to ${formatBytes(total)}; more than ${formatBytes(maxUnpackedBytes)} is refused.`,
    )
  const files = new Map<string, Uint8Array<ArrayBuffer>>()
  for (const entry of entries) {
    if (entry.name.endsWith('/')) continue
    if (files.has(entry.name)) throw new Error(`The zip names ${entry.name} twice, so it cannot be trusted.`)
    files.set(entry.name, unpack(zip, view, entry))
  }
  return files
}

function readDirectory(zip: Uint8Array, view: DataView): Entry[] {
  const end = findEnd(view)
  const count = view.getUint16(end + 10, true)
  let position = view.getUint32(end + 16, true)
  if (count > maxEntries)
    throw new Error(
      `The zip has ${count} entries or more; an adapter needs a few, and over ${maxEntries} are refused.`,
    )
  const entries: Entry[] = []
  for (let i = 0; i < count; i++) {
    if (view.getUint32(position, true) !== 0x02014b50)
      throw damaged(`entry ${i + 1} of its directory is unreadable`)
    const lengths = [28, 30, 32].map((at) => view.getUint16(position + at, true)) as [number, number, number]
    const next = position + 46 + lengths[0] + lengths[1] + lengths[2]
    if (next > zip.length) throw damaged('its directory is cut off')
    const name = new TextDecoder().decode(zip.subarray(position + 46, position + 46 + lengths[0]))
    checkName(name)
    const method = view.getUint16(position + 10, true)
    if (view.getUint16(position + 8, true) & 1)
      throw new Error(`The zip entry ${name} is encrypted; unpack it first.`)
    if (method !== 0 && method !== 8)
      throw new Error(
        `The zip entry ${name} uses compression method ${method}; only stored and deflated ones are read.`,
      )
    entries.push({
      name,
      compressed: method === 8,
      crc: view.getUint32(position + 16, true),
      packed: view.getUint32(position + 20, true),
      unpacked: view.getUint32(position + 24, true),
      offset: view.getUint32(position + 42, true),
    })
    position = next
  }
  return entries
}

/** Position of the end-of-directory record, which a comment of up to 65,535 bytes may follow. */
function findEnd(view: DataView): number {
  for (let at = view.byteLength - 22; at >= Math.max(view.byteLength - 22 - 65535, 0); at--)
    if (view.getUint32(at, true) === 0x06054b50) return at
  throw damaged('it has no directory, so it was probably cut off')
}

/** Throws for a name that would leave the folder it is unpacked into. */
function checkName(name: string): void {
  const climbs = name.split(/[\\/]/).includes('..')
  if (climbs || /^[\\/]|^[a-zA-Z]:|\\|\0/.test(name) || name === '')
    throw new Error(
      `The zip holds the path ${JSON.stringify(name)}, which leads out of its folder: it was refused.`,
    )
}

function unpack(zip: Uint8Array, view: DataView, entry: Entry): Uint8Array<ArrayBuffer> {
  const { name, offset, packed, unpacked } = entry
  if (offset + 30 > zip.length || view.getUint32(offset, true) !== 0x04034b50)
    throw damaged(`the entry ${name} is not where its directory says`)
  const start = offset + 30 + view.getUint16(offset + 26, true) + view.getUint16(offset + 28, true)
  if (start + packed > zip.length) throw damaged(`the entry ${name} is cut off`)
  if (!entry.compressed && packed !== unpacked) throw damaged(`the entry ${name} has two different sizes`)
  const data = zip.subarray(start, start + packed)
  const bytes = entry.compressed ? inflate(data, entry) : new Uint8Array(data)
  if (crc32(bytes) !== entry.crc) throw damaged(`the checksum of ${name} is wrong`)
  return bytes
}

/** Inflates to exactly the size the directory names, and stops at the first byte over it. */
function inflate(data: Uint8Array, { name, unpacked }: Entry): Uint8Array<ArrayBuffer> {
  if (unpacked > data.length * 1032 + 1024) throw damaged(`the entry ${name} cannot be as large as it claims`)
  const out = new Uint8Array(unpacked)
  let filled = 0
  const stream = new Inflate((chunk) => {
    if (filled + chunk.length > unpacked)
      throw new Error(
        `The zip entry ${name} unpacks to more than the ${formatBytes(unpacked)} it claims: it was refused.`,
      )
    out.set(chunk, filled)
    filled += chunk.length
  })
  for (let at = 0; at < data.length; at += pieceBytes) pushPiece(stream, data, at, name)
  if (filled !== unpacked) throw damaged(`the entry ${name} is shorter than it claims`)
  return out
}

function pushPiece(stream: Inflate, data: Uint8Array, at: number, name: string): void {
  try {
    stream.push(data.subarray(at, at + pieceBytes), at + pieceBytes >= data.length)
  } catch (cause) {
    if (cause instanceof Error && cause.message.startsWith('The zip entry')) throw cause
    throw damaged(`the entry ${name} does not decompress`, cause)
  }
}

function damaged(what: string, cause?: unknown): Error {
  return new Error(`The zip is damaged: ${what}; get it again.`, { cause })
}

let crcTable: Uint32Array | null = null

/** CRC-32 as zip and gzip use it (polynomial 0xEDB88320). */
function crc32(bytes: Uint8Array): number {
  crcTable ??= Uint32Array.from({ length: 256 }, (_, n) => {
    let c = n
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1
    return c
  })
  let crc = 0xffffffff
  for (let i = 0; i < bytes.length; i++) crc = crcTable[(crc ^ bytes[i]!) & 255]! ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}
