/**
 * CSV, TSV and their kin: finds the delimiter, whether quotes are quotes, whether there is a header, and the line of
 * every row. Rows of unequal length are an error, never padded or cut, because the label would land in the wrong column.
 */
import Papa from 'papaparse'
import { isKnownName } from './columnNames.ts'
import type { Rows } from './json.ts'
import { labelRank } from './labels.ts'

/** The usual ones; the others need a stronger sign. */
const names = new Map([
  ['\t', 'tabs'],
  [',', 'commas'],
  [';', 'semicolons'],
  ['|', 'bars'],
])

/** In order of preference among equals: a longer one before the shorter that it holds. */
const delimiters = [
  '\t',
  ',',
  ';',
  ' ||| ',
  '|||',
  '||',
  '|',
  '::',
  '^',
  '~',
  '§',
  '¦',
  '#',
  ':',
  '\x1f',
  '\x1e',
  '\x01',
  ' - ',
]

/** Never in a text that passed for one. */
const NO_DELIMITER = '\0'

interface Row {
  cells: string[]
  line: number
}

/**
 * Rows of a delimited text, or null when it is not one and `certain` is false. `certain`: the file is called CSV or
 * TSV, so that a single column is also a table.
 * Throws for rows of unequal length and for a quote that is never closed, with the line.
 */
export function parseDelimited(name: string, text: string, certain: boolean): Rows | null {
  const declared = /^sep=(.)\r?\n/i.exec(text)
  const skip = declared ? declared[0].length : 0
  const body = text.slice(skip)
  const delimiter = declared?.[1] ?? findDelimiter(body, certain)
  if (delimiter === null && !certain) return null
  const rows = readRows(name, body, delimiter ?? NO_DELIMITER, declared ? 2 : 1)
  if (rows.length === 0) return null
  const headed = hasHeader(rows.slice(0, 1000).map((row) => row.cells))
  const columns = headed
    ? headerNames(rows[0]!.cells)
    : rows[0]!.cells.map((_, i) => (rows[0]!.cells.length === 1 ? 'text' : `column ${i + 1}`))
  const kept = headed ? rows.slice(1) : rows
  const single = columns.length === 1 || delimiter === null
  const shape = single ? 'one column' : `separated by ${names.get(delimiter) ?? JSON.stringify(delimiter)}`
  return {
    columns,
    rows: kept.map((row) => row.cells),
    lines: kept.map((row) => row.line),
    format: `${delimiter === '\t' ? 'TSV' : 'CSV'}, ${shape}${headed ? '' : ', no header'}`,
  }
}

/** The delimiter that cuts the first lines into the most even rows of two or more cells; null when none does. */
function findDelimiter(text: string, certain: boolean): string | null {
  let sample = text.slice(0, 65_536)
  if (sample.length < text.length) sample = sample.slice(0, sample.lastIndexOf('\n') + 1) || sample
  let best: string | null = null
  let bestEvenness = 0
  for (const delimiter of delimiters) {
    if (!sample.includes(delimiter)) continue
    const rows = sampleRows(sample, delimiter)
    const evenness = evennessOf(rows)
    const headed = (rows[0]?.length ?? 0) > 1 && rows[0]!.some(isKnownName)
    const lenient = certain && names.has(delimiter)
    const needed = lenient ? (headed ? 0 : 0.5) : delimiter === '\t' ? 0.9 : 0.95
    if (evenness < needed || evenness <= bestEvenness) continue
    const needsSign = !certain || !names.has(delimiter)
    if (needsSign && !hasLabelColumn(rows)) continue
    best = delimiter
    bestEvenness = evenness
  }
  return best
}

/** Both readings are tried, with quotes and without; the more even one counts. */
function sampleRows(sample: string, delimiter: string): string[][] {
  const quoted = Papa.parse<string[]>(sample, { delimiter, preview: 200, skipEmptyLines: true }).data
  const plain = sample
    .split(/\r\n|\n|\r/)
    .filter((line) => line !== '')
    .slice(0, 200)
    .map((line) => line.split(delimiter))
  return evennessOf(plain) > evennessOf(quoted) ? plain : quoted
}

/** Share of the rows that have the commonest width, if that is two or more. */
function evennessOf(rows: string[][]): number {
  const counts = new Map<number, number>()
  for (const row of rows) counts.set(row.length, (counts.get(row.length) ?? 0) + 1)
  const [width, count] = [...counts].sort((a, b) => b[1] - a[1] || b[0] - a[0])[0] ?? [0, 0]
  return width >= 2 ? count / rows.length : 0
}

/** A header with a known name, or a column of few, short, repeating values: prose has neither. */
function hasLabelColumn(rows: string[][]): boolean {
  if (rows[0]?.some(isKnownName)) return true
  const width = rows[0]?.length ?? 0
  return Array.from({ length: width }, (_, i) => rows.map((row) => row[i]?.trim() ?? '')).some((column) => {
    const values = new Set(column)
    const short = column.every((value) => value.length <= 24 && value !== '')
    const repeated = values.size * 2 <= column.length
    return short && (repeated || [...values].every((value) => isNumeric(value) || labelRank(value) !== null))
  })
}

/**
 * Rows with their lines. Quotes are tried first, except in a tab-separated file that is even without them and has
 * quotes that do not pair up, as the GLUE files do; then no quotes, then quotes escaped by a backslash.
 */
function readRows(name: string, text: string, delimiter: string, firstLine: number): Row[] {
  const plain = () => plainRows(text, delimiter, firstLine)
  if (delimiter === '\t') {
    const rows = plain()
    if (unevenRow(rows) === null && rows.some((row) => row.cells.some(isUnpaired))) return rows
  }
  const quoted = quotedRows(text, delimiter, '"', firstLine)
  const wrong = unevenRow(quoted.rows)
  if (quoted.fault === null && wrong === null) return quoted.rows
  const unquoted = plain()
  if (unquoted[0] && unquoted[0].cells.length > 1 && unevenRow(unquoted) === null) return unquoted
  if (text.includes('\\"')) {
    const escaped = quotedRows(text, delimiter, '\\', firstLine)
    if (escaped.fault === null && unevenRow(escaped.rows) === null) return escaped.rows
  }
  throw wrong === null ? new Error(`${name}, ${quoted.fault}`) : unevenError(name, quoted, delimiter)
}

function plainRows(text: string, delimiter: string, firstLine: number): Row[] {
  const rows: Row[] = []
  text.split(/\r\n|\n|\r/).forEach((source, i) => {
    if (source !== '') rows.push({ cells: source.split(delimiter), line: firstLine + i })
  })
  return dropEmptyTail(rows)
}

interface QuotedRows {
  rows: Row[]
  /** The first quote that does not pair up, in words with its line; null when all do. */
  fault: string | null
}

function quotedRows(text: string, delimiter: string, escapeChar: string, firstLine: number): QuotedRows {
  const { data, errors } = Papa.parse<string[]>(text, { delimiter, escapeChar })
  const rows: Row[] = []
  const lineOf = (index: number) => {
    let line = firstLine
    for (let i = 0; i < index; i++) line += linesOf(data[i]!)
    return line
  }
  let line = firstLine
  for (const cells of data) {
    if (cells.length > 1 || cells[0] !== '') rows.push({ cells, line })
    line += linesOf(cells)
  }
  const bad = errors.find((error) => error.type === 'Quotes')
  const problem =
    bad?.code === 'MissingQuotes' ? 'a quote is opened and never closed' : 'a quote stands amid a text'
  const fault = bad
    ? `line ${lineOf(bad.row ?? 0)}: ${problem}; write a quote inside a quoted text twice`
    : null
  return { rows: dropEmptyTail(rows), fault }
}

const linesOf = (cells: string[]) => {
  let lines = 1
  for (const cell of cells) if (/[\r\n]/.test(cell)) lines += cell.match(/\r\n|\n|\r/g)!.length
  return lines
}

/** Cells beyond the header's width that are empty in every row: a delimiter at the end of each line. */
function dropEmptyTail(rows: Row[]): Row[] {
  const width = rows[0]?.cells.length ?? 0
  for (const row of rows) {
    if (row.cells.length > width && row.cells.slice(width).every((cell) => cell === ''))
      row.cells.length = width
  }
  return rows
}

const unevenRow = (rows: Row[]) => rows.find((row) => row.cells.length !== rows[0]!.cells.length) ?? null

function unevenError(name: string, { rows, fault }: QuotedRows, delimiter: string): Error {
  const width = rows[0]!.cells.length
  const wrong = rows.filter((row) => row.cells.length !== width)
  const first = wrong[0]!
  const others = wrong.length > 1 ? ` (and ${wrong.length - 1} more such lines)` : ''
  const hint =
    fault ?? `put double quotes around a text that holds ${JSON.stringify(delimiter)}, or mend the line`
  const cells = (n: number) => `${n} cell${n === 1 ? '' : 's'}`
  return new Error(
    `${name}, line ${first.line}: ${cells(first.cells.length)} where the first line has ${width}${others}; ${hint}`,
  )
}

/** Begins with a quote and is not a whole quoted cell. */
function isUnpaired(cell: string): boolean {
  if (!cell.startsWith('"')) return false
  return cell.length < 2 || !cell.endsWith('"') || cell.slice(1, -1).replaceAll('""', '').includes('"')
}

const isNumeric = (cell: string) => /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(cell.trim())

/**
 * A first line of names, not numbers or values: one of them known; or, all distinct, a word above a column of
 * numbers, or a word without spaces above a column of texts much longer than it is.
 */
export function hasHeader(rows: string[][]): boolean {
  const first = rows[0]!.map((cell) => cell.trim())
  const filled = first.filter((cell) => cell !== '')
  const bare = first.filter((cell, i) => cell === '' && rows.some((row, r) => r > 0 && row[i]!.trim() !== ''))
  if (filled.length === 0 || (bare.length > 1 && bare.length > 0.1 * rows.length)) return false
  if (filled.some((cell) => cell.length > 64 || isNumeric(cell) || isLabelWord(cell))) return false
  if (filled.some(isKnownName)) return true
  if (new Set(filled).size < filled.length) return false
  const rest = rows.slice(1)
  if (rest.length === 0) return false
  return first.some((cell, i) => {
    const column = rest.map((row) => row[i]!.trim()).filter((value) => value !== '')
    if (column.length === 0 || cell === '') return false
    if (column.every(isNumeric)) return true
    const mean = column.reduce((sum, value) => sum + value.length, 0) / column.length
    return (
      !/\s/.test(cell) && column.length >= 3 && mean > 4 * cell.length && mean > 20 && !column.includes(cell)
    )
  })
}

/** `positive` is a value; `y` may be a name. */
const isLabelWord = (cell: string) => cell.length > 1 && labelRank(cell) !== null

/** Trimmed, without gaps or repeats: `column 3`, `text (2)`. */
function headerNames(cells: string[]): string[] {
  const taken = new Set<string>()
  return cells.map((cell, i) => {
    const name = cell.trim() || `column ${i + 1}`
    let unique = name
    for (let n = 2; taken.has(unique); n++) unique = `${name} (${n})`
    taken.add(unique)
    return unique
  })
}
