/**
 * gz and zip around data files. Sizes are bounded while unpacking, not after: a bomb costs at most the limits below.
 * Nothing is written anywhere, yet a zip with paths that climb is refused, because nobody makes one by accident.
 */
import { Gunzip, unzipSync, type UnzipFileInfo } from 'fflate'
import { MAX_FILE_BYTES, startsWith } from './bytes.ts'

/** Unpacked bytes of one archive in all. */
const MAX_UNPACKED_BYTES = 2 * MAX_FILE_BYTES

/** Unpacked bytes for each packed one; text packs three to twenty-fold. Small outputs are not judged. */
const MAX_RATIO = 200
const RATIO_FREE_BYTES = 16 * 2 ** 20

/** Data files in one archive: a folder with one file for each text is not a table. */
const MAX_ENTRIES = 64

export interface DataFile {
  name: string
  bytes: Uint8Array
  warnings: string[]
}

const dataName = /\.(csv|tsv|tab|txt|data|json|jsonl|ndjson|parquet|pos|neg)$/i

/** A file as it is, or the files inside it when it is a gz or a zip. */
export function unpack(name: string, bytes: Uint8Array): DataFile[] {
  if (isGzip(bytes)) return [gunzip(name, bytes)]
  if (isZip(bytes)) return unzip(name, bytes)
  return [{ name, bytes, warnings: [] }]
}

/** True for gz and zip. */
export const isArchive = (bytes: Uint8Array) => isGzip(bytes) || isZip(bytes)

const isGzip = (bytes: Uint8Array) => startsWith(bytes, [0x1f, 0x8b])
const isZip = (bytes: Uint8Array) => startsWith(bytes, 'PK\x03\x04') || startsWith(bytes, 'PK\x05\x06')

function gunzip(name: string, bytes: Uint8Array): DataFile {
  const chunks: Uint8Array[] = []
  let total = 0
  const stream = new Gunzip((chunk) => {
    total += chunk.length
    refuseBomb(name, bytes.length, total)
    chunks.push(chunk)
  })
  const step = 65_536
  try {
    for (let i = 0; i < bytes.length; i += step) {
      stream.push(bytes.subarray(i, i + step), i + step >= bytes.length)
    }
  } catch (error) {
    if (error instanceof Bomb) throw error
    throw new Error(`${name} is a damaged or cut-off gz file; fetch or pack it again`, { cause: error })
  }
  const out = new Uint8Array(total)
  let at = 0
  for (const chunk of chunks) {
    out.set(chunk, at)
    at += chunk.length
  }
  checkTrailer(name, bytes, out)
  const inner = name.replace(/\.gz$/i, '')
  if (isGzip(out) || isZip(out)) throw nested(inner, name)
  return { name: inner, bytes: out, warnings: [] }
}

/** The last eight bytes: CRC-32 and length of the last member, which is the whole in nearly every file. */
function checkTrailer(name: string, packed: Uint8Array, out: Uint8Array): void {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength)
  const size = packed.length >= 18 ? view.getUint32(packed.length - 4, true) : -1
  const crc = packed.length >= 18 ? view.getUint32(packed.length - 8, true) : -1
  const lastMember = size <= out.length && size >= 0 ? out.subarray(out.length - size) : null
  if (!lastMember || crc32(lastMember) !== crc) {
    throw new Error(`${name} is a damaged or cut-off gz file; fetch or pack it again`)
  }
}

interface Entry {
  name: string
  /** Place in the central directory. */
  index: number
}

function unzip(name: string, bytes: Uint8Array): DataFile[] {
  const wanted: Entry[] = []
  const skipped: string[] = []
  let total = 0
  let seen = 0
  const choose = (file: UnzipFileInfo): boolean => {
    const index = seen++
    refuseClimbing(name, file.name)
    if (file.name === '[Content_Types].xml') {
      throw new Error(`${name} is a Word, Excel or PowerPoint document; save its table as CSV and give that`)
    }
    if (/\.(zip|tar|tgz|7z|rar)$/i.test(file.name)) throw nested(file.name, name)
    const data = dataName.test(file.name.replace(/\.gz$/i, '')) && !/(^|\/)(__MACOSX\/|\.)/.test(file.name)
    if (!data) {
      if (!file.name.endsWith('/')) skipped.push(file.name)
      return false
    }
    total += file.originalSize
    refuseBomb(name, bytes.length, total)
    wanted.push({ name: file.name, index })
    if (wanted.length > MAX_ENTRIES) {
      throw new Error(`${name} holds more than ${MAX_ENTRIES} data files; put the texts into one table`)
    }
    return true
  }
  let files: Record<string, Uint8Array>
  try {
    files = unzipSync(bytes, { filter: choose })
  } catch (error) {
    if (error instanceof Error && error.message.includes(name)) throw error
    throw new Error(`${name} is a damaged, cut-off or encrypted zip; unpack it yourself or pack it again`, {
      cause: error,
    })
  }
  return opened(name, bytes, wanted, new Map(Object.entries(files)), skipped)
}

/** Chosen entries, checked against their checksums; a gz inside is unpacked under the same limits. */
function opened(
  name: string,
  bytes: Uint8Array,
  wanted: Entry[],
  files: Map<string, Uint8Array>,
  skipped: string[],
): DataFile[] {
  if (wanted.length === 0) {
    const held = skipped.length ? `only ${skipped.slice(0, 3).join(', ')}` : 'no files'
    throw new Error(
      `${name} holds no data file (${held}); it should hold CSV, TSV, JSON, Parquet or text files`,
    )
  }
  const sums = checksums(bytes)
  const left = skipped.filter((entry) => !/(^|\/)(__MACOSX\/|\.)/.test(entry))
  const warnings = left.length
    ? [`left out of ${name}: ${left.slice(0, 3).join(', ')}${left.length > 3 ? ', …' : ''}`]
    : []
  let total = 0
  return wanted.map((entry, i) => {
    const out = files.get(entry.name)
    const sum = sums[entry.index]
    if (!out || (sum !== undefined && crc32(out) !== sum)) {
      throw new Error(`${entry.name} in ${name} is damaged or encrypted: its checksum does not fit`)
    }
    const file = isGzip(out) ? gunzip(entry.name, out) : { name: entry.name, bytes: out, warnings: [] }
    if (isZip(file.bytes)) throw nested(file.name, name)
    total += file.bytes.length
    refuseBomb(name, bytes.length, total)
    return { ...file, warnings: i === 0 ? warnings : [] }
  })
}

/** CRC-32 of every entry from the central directory, which fflate reads but does not report. */
function checksums(bytes: Uint8Array): number[] {
  const sums: number[] = []
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let end = bytes.length - 22
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--
  if (end < 0) return sums
  let at = view.getUint32(end + 16, true)
  while (at + 46 <= bytes.length && view.getUint32(at, true) === 0x02014b50) {
    sums.push(view.getUint32(at + 16, true))
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) =>
      view.getUint16(at + field, true),
    )
    at += 46 + nameLength! + extraLength! + commentLength!
  }
  return sums
}

class Bomb extends Error {}

function refuseBomb(name: string, packed: number, unpacked: number): void {
  const mb = Math.round(unpacked / 2 ** 20)
  if (unpacked > MAX_UNPACKED_BYTES) {
    throw new Bomb(
      `${name} unpacks to more than ${MAX_UNPACKED_BYTES / 2 ** 20} MB; give smaller or fewer files`,
    )
  }
  if (unpacked > RATIO_FREE_BYTES && unpacked > MAX_RATIO * packed) {
    throw new Bomb(
      `${name} unpacks ${Math.round(unpacked / packed)}-fold, to ${mb} MB or more, as a zip bomb does; it is refused`,
    )
  }
}

function refuseClimbing(name: string, entry: string): void {
  const parts = entry.split(/[/\\]/)
  if (parts.includes('..') || /^([/\\]|[a-z]:)/i.test(entry) || entry.includes('\0')) {
    throw new Error(`${name} holds the path "${entry}", which leads out of its folder; such a zip is refused`)
  }
}

function nested(inner: string, outer: string): Error {
  return new Error(`${inner} inside ${outer} is an archive itself; unpack it and give its files`)
}

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1
  return c
})

function crc32(bytes: Uint8Array): number {
  let c = 0xffffffff
  for (const byte of bytes) c = crcTable[(c ^ byte) & 255]! ^ (c >>> 8)
  return ~c >>> 0
}
