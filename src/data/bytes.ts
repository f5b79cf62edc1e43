/**
 * Bytes to text: is this text at all, in which encoding, and is it of a size that can be parsed. All checks that
 * guard memory happen here, on bytes, before any parser runs.
 */

/** Largest file, packed or not. Tens of thousands of long reviews are a tenth of it. */
export const MAX_FILE_BYTES = 256 * 2 ** 20

/** Longest line. A model reads 512 tokens, about 2,000 letters. */
export const MAX_LINE_BYTES = 4 * 2 ** 20

export const MAX_ROWS = 1_000_000

export interface Decoded {
  text: string
  encoding: string
  warnings: string[]
}

/** First bytes of files that are surely not a table, and what to call them. */
const magic: [number[] | string, string][] = [
  [[0x89, 0x50, 0x4e, 0x47], 'a PNG image'],
  [[0xff, 0xd8, 0xff], 'a JPEG image'],
  ['GIF8', 'a GIF image'],
  ['%PDF', 'a PDF'],
  ['MZ', 'a Windows program'],
  [[0x7f, 0x45, 0x4c, 0x46], 'a Linux program'],
  [[0xcf, 0xfa, 0xed, 0xfe], 'a macOS program'],
  [[0, 0x61, 0x73, 0x6d], 'a WebAssembly program'],
  [[0xd0, 0xcf, 0x11, 0xe0], 'an old Word or Excel document'],
  ['SQLite format 3', 'an SQLite database'],
  ['7z\xbc\xaf', 'a 7z archive'],
  ['Rar!', 'a RAR archive'],
  ['BZh', 'a bzip2 archive'],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a], 'an xz archive'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'a zstd archive'],
  ['ARROW1', 'an Arrow file'],
  ['Obj\x01', 'an Avro file'],
  ['RIFF', 'a sound or video file'],
  ['ID3', 'a sound file'],
  [[0x80, 0x02], 'a Python pickle'],
  [[0x80, 0x04, 0x95], 'a Python pickle'],
]

/** True if `bytes` begin with these, given as numbers or as Latin-1 text. */
export function startsWith(bytes: Uint8Array, start: number[] | string): boolean {
  const wanted = typeof start === 'string' ? Array.from(start, (c) => c.charCodeAt(0)) : start
  return bytes.length >= wanted.length && wanted.every((byte, i) => bytes[i] === byte)
}

/** Refuses what its first bytes say is an image, a program, another archive. A signature of letters alone could be text. */
export function refuseBinary(name: string, bytes: Uint8Array): void {
  const known = magic.find(([start]) => startsWith(bytes, start))
  const letters = typeof known?.[0] === 'string' && known[0] !== '%PDF'
  const tar = startsWith(bytes.subarray(257), 'ustar') ? 'a tar archive' : undefined
  const kind = letters && !bytes.subarray(0, 4096).includes(0) ? undefined : (known?.[1] ?? tar)
  if (kind) throw new Error(`${name} is ${kind}, not a table of texts; ${ACCEPTED}`)
}

export const ACCEPTED = 'give CSV, TSV, JSON, JSON Lines, Parquet or plain text, or a zip or gz of them'

/**
 * Refuses a line longer than MAX_LINE_BYTES and more than MAX_ROWS lines, looking at bytes only. `what` begins the
 * sentence: the file's name.
 */
export function checkLines(name: string, bytes: Uint8Array): void {
  const end = bytes.includes(10) ? 10 : 13
  let line = 1
  for (let start = 0; start < bytes.length; line++) {
    let next = bytes.indexOf(end, start)
    if (next < 0) next = bytes.length
    if (next - start > MAX_LINE_BYTES) throw longLine(name, line, bytes.length > next ? next - start : null)
    start = next + 1
  }
  if (line > 2 * MAX_ROWS) throw new Error(`${name} has ${line} lines; at most ${MAX_ROWS} rows can be read`)
}

/** `bytes` null: at least MAX_LINE_BYTES. */
export function longLine(name: string, line: number, bytes: number | null): Error {
  const size = bytes === null ? `more than ${MAX_LINE_BYTES / 2 ** 20}` : `${Math.round(bytes / 2 ** 20)}`
  return new Error(
    `${name}, line ${line}: the line is ${size} MB long, which no text of a data set is; ` +
      `put one row on a line (the limit is ${MAX_LINE_BYTES / 2 ** 20} MB)`,
  )
}

/**
 * Text of a file in UTF-8, UTF-16 (with a byte-order mark, or recognised by its zero bytes) or windows-1252, which is
 * what the web calls Latin-1. UTF-8 with a few broken bytes stays UTF-8, with a warning. Throws for binary files.
 */
export function decode(name: string, bytes: Uint8Array): Decoded {
  const marked = markOf(bytes) ?? utf16WithoutMark(bytes)
  if (marked) {
    const text = new TextDecoder(marked.label).decode(bytes)
    refuseControl(name, text)
    return { text, encoding: marked.encoding, warnings: [] }
  }
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    refuseControl(name, text)
    return { text, encoding: 'UTF-8', warnings: [] }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    return decodeBroken(name, bytes)
  }
}

function markOf(bytes: Uint8Array): { label: string; encoding: string } | null {
  if (startsWith(bytes, [0xef, 0xbb, 0xbf])) return { label: 'utf-8', encoding: 'UTF-8 with BOM' }
  if (startsWith(bytes, [0xff, 0xfe])) return { label: 'utf-16le', encoding: 'UTF-16 LE' }
  if (startsWith(bytes, [0xfe, 0xff])) return { label: 'utf-16be', encoding: 'UTF-16 BE' }
  return null
}

/** Letters of most languages have a zero, or a small, high byte; their low bytes hardly ever are zero. */
function utf16WithoutMark(bytes: Uint8Array): { label: string; encoding: string } | null {
  const head = bytes.subarray(0, 4096)
  if (head.length < 4 || bytes.length % 2 !== 0) return null
  let even = 0
  let odd = 0
  head.forEach((byte, i) => {
    if (byte === 0) i % 2 === 0 ? even++ : odd++
  })
  const half = head.length / 2
  if (odd > 0.3 * half && even < 0.02 * half) return { label: 'utf-16le', encoding: 'UTF-16 LE' }
  if (even > 0.3 * half && odd < 0.02 * half) return { label: 'utf-16be', encoding: 'UTF-16 BE' }
  return null
}

/** 0x80 to 0x9f in windows-1252. Some Node versions decode these as ISO-8859-1: nodejs/node issue 56542. */
const windows1252 = '€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ'

/** Not UTF-8 throughout: UTF-8 with some damage when good sequences far outnumber bad bytes, else windows-1252. */
function decodeBroken(name: string, bytes: Uint8Array): Decoded {
  const lenient = new TextDecoder('utf-8').decode(bytes)
  const bad = lenient.split('\ufffd').length - 1
  const beyondAscii = lenient.match(/[^\x00-\x7f]/gu)?.length ?? 0
  if (bad * 10 < beyondAscii) {
    refuseControl(name, lenient)
    const line = lenient.slice(0, lenient.indexOf('\ufffd')).split('\n').length
    const warning = `${bad} bytes are not UTF-8 (the first in line ${line}) and are shown as \ufffd`
    return { text: lenient, encoding: 'UTF-8', warnings: [warning] }
  }
  const text = new TextDecoder('windows-1252').decode(bytes).replace(/[\x80-\x9f]/g, (c) => {
    return windows1252[c.charCodeAt(0) - 0x80]!
  })
  refuseControl(name, text)
  return { text, encoding: 'Latin-1 (windows-1252)', warnings: [] }
}

/** Any zero, or more than 1 % of control characters near the start: not text. */
function refuseControl(name: string, text: string): void {
  const head = text.slice(0, 65_536)
  const control: string[] = head.match(/[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]/g) ?? []
  if (control.includes('\0') || control.length > 0.01 * head.length + 2 * separators(head)) {
    throw new Error(`${name} is a binary file, not text; ${ACCEPTED}`)
  }
}

/** ASCII's own field and record separators, which some tables use. */
function separators(head: string): number {
  return head.match(/[\x01\x1e\x1f]/g)?.length ?? 0
}
