/** First guesses that the user sees and can change: which column is what, and what each file is for. */
import { nameScore, plainName } from './columnNames.ts'
import type { Mapping, Role } from './dataset.ts'
import { labelRank, numberOf } from './labels.ts'
import type { Table } from './parse.ts'

/** Rows looked at in each table. */
const SAMPLE = 5000

/** What a column looks like, over the sample. */
interface Column {
  name: string
  filled: number
  distinct: number
  mean: number
  numeric: boolean
  wellKnown: boolean
  minimum: number
  maximum: number
  fractional: boolean
}

/**
 * The columns most likely to be text, second text and label, by name and by content; null when no column can be a
 * label or a text. Fractions, and scores of many values, get a threshold half-way up.
 */
export function guessMapping(tables: Table[]): Mapping | null {
  const largest = tables.slice().sort((a, b) => b.rows.length - a.rows.length)
  for (const table of largest) {
    const mapping = guessFrom(table)
    if (mapping) return mapping
  }
  return null
}

/** The column that is most likely the text, of a file that need not have labels; its first column if none stands out. */
export function guessText(table: Table): string {
  const { columns, rows } = describeColumns(table)
  return best(columns, (column) => textScore(column, rows))?.name ?? table.columns[0]!
}

function guessFrom(table: Table): Mapping | null {
  const { columns, rows } = describeColumns(table)
  const label = best(columns, (column) => labelScore(column, rows))
  const texts = columns.filter((column) => column !== label)
  const text = best(texts, (column) => textScore(column, rows))
  if (!label || !text) return null
  const named = (name: string) => columns.find((column) => plainName(column.name) === name)?.name
  const [term, sentence] = [named('term') ?? named('aspect'), named('sentence') ?? named('text')]
  const threshold = thresholdOf(label)
  // An opinion about one thing in a sentence: the pair, or one sentence would stand under several labels.
  if (term && sentence) return { text: term, text_pair: sentence, label: label.name, threshold }
  const pair = texts.find(
    (column) => column !== text && column.filled > 0 && nameScore(column.name, 'text_pair') >= 6,
  )
  return { text: text.name, text_pair: pair?.name ?? null, label: label.name, threshold }
}

/** All columns, over at most about twice SAMPLE rows spread through the table; `rows` is how many were looked at. */
function describeColumns(table: Table): { columns: Column[]; rows: number } {
  const step = Math.max(1, Math.floor(table.rows.length / SAMPLE))
  const sample = table.rows.filter((_, i) => i % step === 0)
  const cells = (i: number) => sample.map((row) => row[i]!.trim())
  return { columns: table.columns.map((name, i) => describe(name, cells(i))), rows: sample.length }
}

function describe(name: string, cells: string[]): Column {
  const filled = cells.filter((cell) => cell !== '')
  const values = [...new Set(filled)]
  const numbers = values.map(numberOf).filter((value) => value !== null)
  const wellKnown = values.length > 0 && values.every((value) => labelRank(value) !== null)
  const letters = filled.reduce((sum, cell) => sum + cell.length, 0)
  return {
    name,
    filled: filled.length,
    distinct: values.length,
    mean: filled.length ? letters / filled.length : 0,
    numeric: values.length > 0 && numbers.length === values.length,
    wellKnown,
    minimum: numbers.reduce((least, value) => Math.min(least, value), Infinity),
    maximum: numbers.reduce((most, value) => Math.max(most, value), -Infinity),
    fractional: numbers.some((value) => !Number.isInteger(value)),
  }
}

/** Above 0: may be a label. Names count most; few, short, complete values confirm or replace them. */
function labelScore(column: Column, rows: number): number {
  const byName = nameScore(column.name, 'label')
  if (column.filled === 0 || (nameScore(column.name, 'id') >= 6 && byName < 6)) return 0
  if (nameScore(column.name, 'text') >= 6 && column.mean > 20) return 0
  const repeated = column.distinct * 2 <= column.filled || column.wellKnown || column.distinct <= 5
  const few = column.distinct <= 2 ? 4 : column.distinct <= 10 ? 3 : column.distinct <= 50 ? 1.5 : 0
  let score = 0
  if (byName >= 6) score = 2 * byName
  else if (byName > 0) score = repeated || column.numeric ? byName + few : 0
  else if (repeated && column.distinct >= 2 && column.distinct <= 50) score = few
  if (score === 0 || column.mean > 60) return 0
  return (
    score * (0.5 + (0.5 * column.filled) / rows) + (column.wellKnown ? 2 : 0) + (column.numeric ? 0.5 : 0)
  )
}

/** Above 0: may be a text. */
function textScore(column: Column, rows: number): number {
  const byName = nameScore(column.name, 'text')
  if (column.filled === 0 || (column.numeric && byName < 6)) return 0
  if (nameScore(column.name, 'id') >= 6) return 0
  const varied = column.distinct / column.filled
  const wordy = Math.min(column.mean / 20, 4) * varied
  return (byName >= 6 ? byName : byName / 2) + wordy + (column.filled / rows - 1) * 4
}

function best(columns: Column[], score: (column: Column) => number): Column | null {
  let winner: Column | null = null
  let highest = 0
  for (const column of columns) {
    const value = score(column)
    if (value > highest) [winner, highest] = [column, value]
  }
  return winner
}

/** Half-way up, for fractions and for many whole numbers under a name such as `score`; 77 intents stay 77 classes. */
function thresholdOf(label: Column): number | null {
  if (!label.numeric || label.distinct < 3) return null
  const graded = /score|rating|overall|stars|points/.test(plainName(label.name))
  return label.fractional || (graded && label.distinct > 20) ? (label.minimum + label.maximum) / 2 : null
}

const roleWords: [Role, string[]][] = [
  ['train', ['train', 'training']],
  ['validation', ['validation', 'valid', 'val', 'dev', 'devel', 'development', 'eval', 'evaluation']],
  ['test', ['test', 'testing', 'heldout', 'holdout']],
]

/**
 * What each file is for, by the words of its name (`sst2/dev.tsv`, `reviews_train.csv`), else `all`. A file without
 * the columns of the guessed mapping, such as an unlabelled test set, is ignored.
 */
export function guessRoles(tables: Table[]): Role[] {
  const mapping = guessMapping(tables)
  return tables.map((table) => {
    const needed = mapping ? [mapping.text, mapping.text_pair, mapping.label] : []
    if (needed.some((column) => column !== null && !table.columns.includes(column))) return 'ignore'
    const words = plainName(table.name).split('_')
    const role = roleWords.find(([, names]) => names.some((name) => words.includes(name)))
    return role?.[0] ?? 'all'
  })
}
