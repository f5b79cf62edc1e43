/**
 * JSON and JSON Lines to columns and rows of strings, in the shapes that data sets and pandas use. Keys are only ever
 * looked up in Maps or as own properties, so that a column named `__proto__` is a column.
 */
import { MAX_LINE_BYTES } from './bytes.ts'

export interface Rows {
  columns: string[]
  rows: string[][]
  /** 1-based line of each row, or its number among the records. */
  lines: number[]
  format: string
}

type JsonObject = Record<string, unknown>

/** Nesting beyond this is no table and would cost a parser its stack or the tab its memory. */
const MAX_DEPTH = 64

/** One JSON document. Throws with line and column when it is not JSON, and with its shape when it is no table. */
export function parseJson(name: string, text: string): Rows {
  checkLimits(name, text)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const found = syntaxFault(text)
    const where = found ? `${position(text, found.at)}: ${found.problem}` : 'it cannot be read'
    throw new Error(`${name} is not valid JSON; ${where}`, { cause: error })
  }
  const table = shapeOf(value)
  if (table) return table
  throw new Error(
    `${name} is JSON but not a table; give a list of objects such as [{"text": "…", "label": "…"}], ` +
      'an object of such objects by id, or an object of columns',
  )
}

/** One JSON object on each line; blank lines are passed over. Throws with the line of the first that is not one. */
export function parseJsonLines(name: string, text: string): Rows {
  checkLimits(name, text)
  const collected = new Columns()
  text.split(/\r\n|\n|\r/).forEach((source, i) => {
    if (source.trim() === '') return
    let record: unknown
    try {
      record = JSON.parse(source)
    } catch (error) {
      const fault = syntaxFault(source)
      const where = `line ${i + 1}, column ${(fault?.at ?? 0) + 1}`
      throw new Error(`${name} is not valid JSON Lines; ${where}: ${fault?.problem ?? 'it cannot be read'}`, {
        cause: error,
      })
    }
    if (!isObject(record))
      throw new Error(`${name}, line ${i + 1}: expected an object such as {"text": …, "label": …}`)
    collected.add(record, i + 1)
  })
  return collected.finish('JSON Lines')
}

/** True when the first line is a whole JSON object and more lines follow: JSON Lines, whatever the file is called. */
export function looksLikeJsonLines(text: string): boolean {
  const [first, rest] =
    /^\s*(\{[^\r\n]*\})[ \t]*[\r\n]+\s*(?=\{)/.exec(text.slice(0, MAX_LINE_BYTES))?.slice(0, 2) ?? []
  if (first === undefined || rest === undefined) return false
  try {
    return isObject(JSON.parse(rest))
  } catch {
    return false
  }
}

/** Rows out of records with differing keys: columns in the order in which they first appear, '' where one is absent. */
class Columns {
  readonly #index = new Map<string, number>()
  readonly #rows: string[][] = []
  readonly #lines: number[] = []

  add(record: JsonObject, line: number, id?: string): void {
    const row: string[] = []
    if (id !== undefined && !Object.hasOwn(record, 'id')) row[this.#column('id')] = id
    for (const [key, value] of Object.entries(record)) row[this.#column(key)] = cell(value)
    this.#rows.push(row)
    this.#lines.push(line)
  }

  finish(format: string): Rows {
    const columns = [...this.#index.keys()]
    for (const row of this.#rows) for (let i = 0; i < columns.length; i++) row[i] ??= ''
    return { columns, rows: this.#rows, lines: this.#lines, format }
  }

  #column(key: string): number {
    const known = this.#index.get(key)
    if (known !== undefined) return known
    this.#index.set(key, this.#index.size)
    return this.#index.size - 1
  }
}

/** A value as a cell: null is empty, objects and lists are JSON text, bigints (from Parquet) and dates are written out. */
export function cell(value: unknown): string {
  if (value === null || value === undefined) return ''
  if (typeof value === 'string') return value
  if (value instanceof Date) return value.toISOString()
  if (value instanceof Uint8Array) return new TextDecoder().decode(value)
  if (typeof value !== 'object') return String(value)
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'bigint' ? plainNumber(inner) : inner,
  )
}

function shapeOf(value: unknown): Rows | null {
  if (Array.isArray(value)) return fromList(value)
  if (!isObject(value)) return null
  const entries = Object.entries(value)
  if (entries.length === 0) return null
  const split = fromSplit(value)
  if (split) return split
  if (entries.every(([, member]) => isObject(member))) return fromObjects(entries as [string, JsonObject][])
  if (entries.every(([, member]) => Array.isArray(member))) {
    const lists = entries as [string, unknown[]][]
    if (!lists.some(([, list]) => list.some(isObject))) return fromColumns(lists)
  }
  const lists = entries.filter(([, member]) => Array.isArray(member) && member.some(isObject))
  return lists.length === 1 ? fromList(lists[0]![1] as unknown[]) : null
}

/** `[{…}, …]`, also with each row wrapped as the hub's viewer does, `["text", …]`, or rows as lists. */
function fromList(list: unknown[]): Rows | null {
  const collected = new Columns()
  if (list.length > 0 && list.every(isObject)) {
    list.forEach((record, i) => collected.add(isObject(record.row) ? record.row : record, i + 1))
    return collected.finish('JSON, a list of objects')
  }
  if (list.length > 0 && list.every((item) => typeof item === 'string')) {
    list.forEach((text, i) => collected.add({ text }, i + 1))
    return collected.finish('JSON, a list of texts')
  }
  if (list.length > 0 && list.every(Array.isArray)) {
    list.forEach((items: unknown[], i) => {
      collected.add(Object.fromEntries(items.map((item, k) => [`column ${k + 1}`, item])), i + 1)
    })
    return collected.finish('JSON, a list of lists')
  }
  return null
}

/** pandas `orient="split"`: `{"columns": […], "data": [[…], …]}`. */
function fromSplit(value: JsonObject): Rows | null {
  const { columns, data } = value
  if (!Array.isArray(columns) || !Array.isArray(data) || !data.every(Array.isArray)) return null
  const rows = data.map((row: unknown[]) => columns.map((_, i) => cell(row[i])))
  return {
    columns: columns.map(cell),
    rows,
    lines: rows.map((_, i) => i + 1),
    format: 'JSON, pandas "split"',
  }
}

/** Objects by id, or pandas' default, `{"column": {"0": …, "1": …}}`. */
function fromObjects(entries: [string, JsonObject][]): Rows {
  const collected = new Columns()
  const keys = Object.keys(entries[0]![1])
  const byColumn = keys.length > 0 && keys.every((key) => /^\d+$/.test(key))
  if (byColumn) {
    const members = entries.map(([column, member]) => [column, new Map(Object.entries(member))] as const)
    const record = (key: string) =>
      Object.fromEntries(members.map(([column, member]) => [column, member.get(key)]))
    keys.forEach((key, i) => collected.add(record(key), i + 1))
    return collected.finish('JSON, an object of columns')
  }
  entries.forEach(([id, record], i) => collected.add(record, i + 1, id))
  return collected.finish('JSON, objects by id')
}

/** `{"text": […], "label": […]}`; lists of unequal length are texts by label, `{"good": […], "bad": […]}`. */
function fromColumns(lists: [string, unknown[]][]): Rows | null {
  const collected = new Columns()
  const length = lists[0]![1].length
  if (lists.every(([, list]) => list.length === length)) {
    for (let i = 0; i < length; i++) {
      collected.add(Object.fromEntries(lists.map(([column, list]) => [column, list[i]])), i + 1)
    }
    return collected.finish('JSON, an object of columns')
  }
  if (!lists.every(([, list]) => list.every((item) => typeof item === 'string'))) return null
  let record = 0
  for (const [label, texts] of lists) for (const text of texts) collected.add({ text, label }, ++record)
  return collected.finish('JSON, texts by label')
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** `line 3, column 14`, 1-based, columns in letters. */
function position(text: string, at: number): string {
  const before = text.slice(0, at).split(/\r\n|\n|\r/)
  return `line ${before.length}, column ${before.at(-1)!.length + 1}`
}

interface Fault {
  at: number
  problem: string
}

/** A number or word; or any other single character. Sticky; strings are read by hand, for they may be long. */
const token = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+|[^]/y
const escape = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y

/** Throws for nesting over MAX_DEPTH or a string over MAX_LINE_BYTES: one cheap pass before any parsing. */
function checkLimits(name: string, text: string): void {
  const fault = overLimits(text)
  if (fault) throw new Error(`${name}, ${position(text, fault.at)}: ${fault.problem}`)
}

function overLimits(text: string): Fault | null {
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === 34) {
      const start = i
      for (i++; i < text.length && text.charCodeAt(i) !== 34; i++) if (text.charCodeAt(i) === 92) i++
      if (i - start > MAX_LINE_BYTES)
        return { at: start, problem: 'a text of more than 4 MB, which no data set holds' }
    } else if (c === 91 || c === 123) {
      if (++depth > MAX_DEPTH)
        return { at: i, problem: `nested more than ${MAX_DEPTH} deep, which no table is` }
    } else if (c === 93 || c === 125) depth--
  }
  return null
}

/** The token at `at`: a whole string, a number, a word, or one character; '"' alone is a string that is broken. */
function tokenAt(text: string, at: number): string | undefined {
  if (text[at] !== '"') {
    token.lastIndex = at
    return token.exec(text)?.[0]
  }
  for (let i = at + 1; i < text.length && text.charCodeAt(i) >= 32; i++) {
    if (text[i] === '"') return text.slice(at, i + 1)
    if (text[i] !== '\\') continue
    escape.lastIndex = i
    const length = escape.exec(text)?.[0].length
    if (length === undefined) break
    i += length - 1
  }
  return '"'
}

/**
 * The place where JSON.parse stopped, which engines report each in its own way or not at all. A pushdown reading of
 * the grammar: `expect` is what may come next, `open` the brackets still to close.
 */
function syntaxFault(text: string): Fault | null {
  const open: string[] = []
  let expect: 'value' | 'first value' | 'key' | 'first key' | 'colon' | 'comma' | 'end' = 'value'
  const after = () => (open.length ? 'comma' : 'end')
  const space = /[ \t\r\n]*/y
  let at = 0
  for (;;) {
    space.lastIndex = at
    space.exec(text)
    at = space.lastIndex
    const found = tokenAt(text, at)
    if (found === undefined) {
      return expect === 'end'
        ? null
        : { at, problem: `the text ends where ${wanted(expect, open)} is missing` }
    }
    const closes = open.at(-1) === found && ['first value', 'first key', 'comma'].includes(expect)
    const isValue = expect === 'value' || expect === 'first value'
    if (closes) {
      open.pop()
      expect = after()
    } else if (isValue && found === '{') {
      open.push('}')
      expect = 'first key'
    } else if (isValue && found === '[') {
      open.push(']')
      expect = 'first value'
    } else if (isValue && /^(".*|-?\d.*|true|false|null)$/s.test(found) && found !== '"') expect = after()
    else if ((expect === 'key' || expect === 'first key') && /^".*"$/s.test(found) && found !== '"')
      expect = 'colon'
    else if (expect === 'colon' && found === ':') expect = 'value'
    else if (expect === 'comma' && found === ',') expect = open.at(-1) === '}' ? 'key' : 'value'
    else return { at, problem: `found ${shown(found)} where ${wanted(expect, open)} should be` }
    at += found.length
  }
}

function shown(found: string): string {
  if (found === '"') return 'a string that is not closed or has a bad escape'
  const short = found.length > 20 ? `${found.slice(0, 20)}…` : found
  return found.startsWith('"') ? short : `"${short}"`
}

function wanted(expect: string, open: string[]): string {
  if (expect === 'comma') return `"," or "${open.at(-1)}"`
  if (expect === 'colon') return '":"'
  if (expect === 'end') return 'the end'
  return expect.endsWith('key') ? 'a key in double quotes' : 'a value'
}

const plainNumber = (value: bigint) => (Number.isSafeInteger(Number(value)) ? Number(value) : String(value))
