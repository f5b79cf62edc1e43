/**
 * Files of any accepted kind in, tables of strings out: reads, unpacks, recognises by content first and name second,
 * and hands to the parser of that format. What cannot be a table is refused before a parser sees it.
 */
import { isArchive, unpack } from './archive.ts'
import {
  ACCEPTED,
  checkLines,
  decode,
  longLine,
  MAX_FILE_BYTES,
  MAX_LINE_BYTES,
  MAX_ROWS,
  refuseBinary,
} from './bytes.ts'
import { parseDelimited } from './delimited.ts'
import { looksLikeJsonLines, parseJson, parseJsonLines, type Rows } from './json.ts'
import { isParquet, parseParquet } from './parquet.ts'
import { joinByFileName, parseTextLines } from './textLines.ts'

/** A file, a piece of pasted text or a fetched sample. */
export interface Source {
  name: string
  blob: Blob
}

export interface Table {
  name: string
  columns: string[]
  rows: string[][]
  /** 1-based line, or record, at which each row starts. */
  lines: Int32Array
  /** In words: `CSV, separated by commas`. */
  format: string
  encoding: string
  warnings: string[]
}

/** What the page shows of a table. */
export interface TablePreview {
  name: string
  columns: string[]
  /** The first 20. */
  rows: string[][]
  row_count: number
  format: string
  encoding: string
  warnings: string[]
}

/** Read as JSON only with this name or when JSON is plain to see: a review may begin with a bracket. */
const jsonName = /\.(json|jsonl|ndjson)$/i
const tableName = /\.(csv|tsv|tab)$/i
const linesName = /\.(pos|neg)$/i

/**
 * Reads files one after another; archives give one table for each file inside. Files of bare texts whose names tell
 * them apart are joined into one labelled table (see joinByFileName).
 * Throws one sentence that names the file, and the line where there is one, for anything that is not a table of texts.
 */
export async function parseSources(sources: Source[]): Promise<Table[]> {
  if (sources.length === 0) throw new Error('no file was given; choose at least one')
  const tables: Table[] = []
  for (const { name, blob } of sources) {
    const bytes = await readBytes(name, blob)
    for (const file of unpack(name, bytes)) {
      const table = await parseFile(file.name, file.bytes)
      tables.push({ ...table, warnings: [...file.warnings, ...table.warnings] })
    }
  }
  return joinByFileName(tables)
}

/** The first 20 rows and what else the page shows; long cells are cut at 300 letters. */
export function preview(table: Table): TablePreview {
  const { name, columns, rows, format, encoding, warnings } = table
  const short = (cell: string) => (cell.length > 300 ? `${cell.slice(0, 300)}…` : cell)
  const first = rows.slice(0, 20).map((row) => row.map(short))
  return { name, columns, rows: first, row_count: rows.length, format, encoding, warnings }
}

/** The whole file, unless its size or its beginning already says that it cannot be read. */
async function readBytes(name: string, blob: Blob): Promise<Uint8Array> {
  if (blob.size === 0) throw empty(name)
  const head = new Uint8Array(await blob.slice(0, MAX_LINE_BYTES + 1).arrayBuffer())
  refuseBinary(name, head)
  const archive = isArchive(head) || isParquet(head)
  if (!archive && !/^\ufeff?\s*[[{]/.test(new TextDecoder().decode(head.subarray(0, 1024)))) {
    if (head.length > MAX_LINE_BYTES && !head.includes(10) && !head.includes(13))
      throw longLine(name, 1, null)
  }
  if (blob.size > MAX_FILE_BYTES) {
    const limit = MAX_FILE_BYTES / 2 ** 20
    throw new Error(
      `${name} is ${Math.round(blob.size / 2 ** 20)} MB; at most ${limit} MB can be read, so give a part of it`,
    )
  }
  return blob.size <= head.length ? head : new Uint8Array(await blob.arrayBuffer())
}

async function parseFile(name: string, bytes: Uint8Array): Promise<Table> {
  if (bytes.length === 0) throw empty(name)
  if (isParquet(bytes)) {
    return finish(name, await parseParquet(name, bytes), { encoding: 'Parquet', warnings: [] })
  }
  refuseBinary(name, bytes)
  const decoded = decode(name, bytes)
  const { text } = decoded
  if (text.trim() === '') throw empty(name)
  refuseMarkup(name, text)
  if (!isJson(name, text)) {
    checkLines(name, bytes)
    return finish(name, parseText(name, text), decoded)
  }
  const byLine = /\.(jsonl|ndjson)$/i.test(name) || looksLikeJsonLines(text)
  if (byLine) checkLines(name, bytes)
  return finish(name, byLine ? parseJsonLines(name, text) : parseJson(name, text), decoded)
}

function isJson(name: string, text: string): boolean {
  if (jsonName.test(name)) return true
  if (tableName.test(name) || linesName.test(name)) return false
  const start = text.trimStart().slice(0, 4096)
  return /^(\{\s*"|\{\s*\}|\[\s*(\{\s*"|\[|"|\]))/.test(start)
}

function parseText(name: string, text: string): Rows {
  if (linesName.test(name)) return parseTextLines(text)
  return parseDelimited(name, text, tableName.test(name)) ?? parseTextLines(text)
}

/** Files that are text and yet no data: saved web pages, other markup, and stand-ins for large files. */
function refuseMarkup(name: string, text: string): void {
  const start = text.slice(0, 256).trimStart().toLowerCase()
  if (start.startsWith('<!doctype html') || start.startsWith('<html')) {
    throw new Error(`${name} is a web page, not a data file; download the file itself`)
  }
  if (start.startsWith('<?xml')) throw new Error(`${name} is XML, which is not read; ${ACCEPTED}`)
  if (start.startsWith('version https://git-lfs')) {
    throw new Error(`${name} is a Git LFS pointer, not the data; download the file itself`)
  }
}

function finish(
  name: string,
  parsed: Rows,
  { encoding, warnings }: { encoding: string; warnings: string[] },
): Table {
  const { columns, rows, format } = parsed
  if (rows.length === 0) throw new Error(`${name} has a header and no rows; add texts with labels`)
  if (rows.length > MAX_ROWS)
    throw new Error(`${name} has ${rows.length} rows; at most ${MAX_ROWS} can be read`)
  return { name, columns, rows, lines: Int32Array.from(parsed.lines), format, encoding, warnings }
}

const empty = (name: string) => new Error(`${name} is empty; give a file with texts and labels`)
