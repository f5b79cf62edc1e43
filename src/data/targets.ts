/** Rows that are no classes: any number of labels a text, a number a text, or the text alone. */
import type { Mapping, Role, Task } from './dataset.ts'
import { numberOf, orderLabels } from './labels.ts'
import type { Table } from './parse.ts'
import { readRows, type EmptyRow, type TextRow } from './rows.ts'

export interface TargetRow extends TextRow {
  /** 0 or 1 for each label, a number, or nothing where the text is its own target. */
  target?: number[] | number
}

/** More labels than this is a mistaken column. */
const MAX_LABELS = 1000

const yes = new Set(['1', '1.0', 'true', 't', 'yes', 'y', 'x'])
const no = new Set(['', '0', '0.0', 'false', 'f', 'no', 'n'])

/**
 * Rows with their targets, in file order, and the names of the labels. Of several labels a blank cell says that none
 * applies; without a number a row is left out. Throws one sentence when a cell cannot be read or nothing can be learned.
 */
export function targetRows(
  tables: Table[],
  roles: Role[],
  mapping: Mapping,
  task: Exclude<Task, 'classes'>,
): { rows: TargetRow[]; empty: EmptyRow[]; id2label: string[] } {
  const read = { multilabel: severalLabels, regression: numbers, masked_lm: textsAlone }[task]
  const found = read(tables, roles, mapping)
  if (found.rows.length === 0) {
    const label = task === 'masked_lm' ? '' : ` and a label in "${mapping.label}"`
    throw new Error(`no row has a text in "${mapping.text}"${label}; choose other columns`)
  }
  return found
}

function textsAlone(tables: Table[], roles: Role[], mapping: Mapping): ReturnType<typeof targetRows> {
  return { ...readRows(tables, roles, mapping, [], () => ({})), id2label: [] }
}

function numbers(tables: Table[], roles: Role[], mapping: Mapping): ReturnType<typeof targetRows> {
  const found = readRows(tables, roles, mapping, [mapping.label], ([raw = ''], where) => {
    if (raw.trim() === '') return null
    const target = numberOf(raw)
    if (target === null)
      throw new Error(
        `${where}: "${raw.trim()}" in "${mapping.label}" is not a number; choose another column, or learn classes`,
      )
    return { target }
  })
  const [first] = found.rows
  if (first && found.rows.every(({ target }) => target === first.target))
    throw new Error(
      `every row has the number ${first.target} in "${mapping.label}"; there is nothing to learn from it`,
    )
  return { ...found, id2label: [mapping.label] }
}

function severalLabels(tables: Table[], roles: Role[], mapping: Mapping): ReturnType<typeof targetRows> {
  const { label_columns, separator = ',' } = mapping
  return label_columns
    ? byColumn(tables, roles, mapping, label_columns)
    : byName(tables, roles, mapping, separator)
}

function byColumn(
  tables: Table[],
  roles: Role[],
  mapping: Mapping,
  columns: string[],
): ReturnType<typeof targetRows> {
  if (columns.length === 0) throw new Error('no label column is chosen; choose one for each label')
  const found = readRows(tables, roles, mapping, columns, (cells, where) => ({
    target: cells.map((cell, i) => {
      const plain = cell.trim().toLowerCase()
      if (yes.has(plain)) return 1
      if (no.has(plain)) return 0
      throw new Error(
        `${where}: "${cell.trim()}" in the label column "${columns[i]}" is neither yes (1) nor no (0); choose other columns`,
      )
    }),
  }))
  if (found.rows.length > 0) checkUsed(columns, found.rows)
  return { ...found, id2label: columns }
}

function byName(
  tables: Table[],
  roles: Role[],
  mapping: Mapping,
  separator: string,
): ReturnType<typeof targetRows> {
  if (separator === '')
    throw new Error('the separator between labels is empty; say what stands between two names')
  const named = readRows(tables, roles, mapping, [mapping.label], ([raw = '']) => ({
    names: raw
      .split(separator)
      .map((name) => name.trim())
      .filter((name) => name !== ''),
  }))
  const id2label = orderLabels(named.rows.flatMap(({ names }) => names))
  if (id2label.length > MAX_LABELS)
    throw new Error(
      `"${mapping.label}" holds ${id2label.length} different labels between "${separator}"; choose another column or separator`,
    )
  const rows = named.rows.map(({ names, ...row }): TargetRow => {
    const own = new Set(names)
    return { ...row, target: id2label.map((label) => (own.has(label) ? 1 : 0)) }
  })
  if (rows.length > 0 && id2label.length === 0)
    throw new Error(`no row has a label in "${mapping.label}"; choose another column`)
  return { rows, empty: named.empty, id2label }
}

/** Throws when a label applies to every row or to none, all labels alike. */
function checkUsed(columns: string[], rows: TargetRow[]): void {
  const counts = columns.map((_, i) => rows.reduce((sum, { target }) => sum + (target as number[])[i]!, 0))
  if (counts.every((count) => count === 0 || count === rows.length))
    throw new Error(
      'every label applies to all rows or to none; there is nothing to learn from these columns',
    )
}
