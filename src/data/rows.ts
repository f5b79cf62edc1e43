/** Table rows read through a mapping: one text (or two) and one class name each, blank ones set aside. */
import type { Mapping, Role } from './dataset.ts'
import { numberOf } from './labels.ts'
import type { Table } from './parse.ts'

/** What every row has, whatever is learned of it. */
export interface TextRow {
  text: string
  text_pair: string | null
  table: number
  line: number
  role: Role
}

export interface LabelledRow extends TextRow {
  /** As in the file, spaces and all. */
  raw: string
  /** The class name: `raw` without outer spaces, or `negative`/`positive` by the threshold. */
  label: string
}

/** A row that is left out, and which of its cells were blank. */
export interface EmptyRow {
  table: number
  line: number
  no_text: boolean
  no_label: boolean
}

/**
 * Rows of every table that is not ignored, in file order.
 * Throws when a mapped column is missing from a table, or a label is no number although there is a threshold.
 */
export function labelledRows(
  tables: Table[],
  roles: Role[],
  mapping: Mapping,
): { rows: LabelledRow[]; empty: EmptyRow[] } {
  return readRows(tables, roles, mapping, [mapping.label], ([raw = ''], where) => {
    if (raw.trim() === '') return null
    const { threshold } = mapping
    return { raw, label: threshold === null ? raw.trim() : sideOf(raw, threshold, where) }
  })
}

/**
 * Rows of every table that is not ignored, in file order; `read` makes of the cells of `labelColumns` what a row is
 * measured against, or null where they are blank. Throws when a mapped column is missing from a table.
 */
export function readRows<T extends object>(
  tables: Table[],
  roles: Role[],
  mapping: Pick<Mapping, 'text' | 'text_pair'>,
  labelColumns: string[],
  read: (cells: string[], where: string) => T | null,
): { rows: (TextRow & T)[]; empty: EmptyRow[] } {
  const used = [mapping.text, mapping.text_pair, ...labelColumns].filter((column) => column !== null)
  if (new Set(used).size < used.length)
    throw new Error('two of text, second text and label are the same column; choose a column for each')
  const rows: (TextRow & T)[] = []
  const empty: EmptyRow[] = []
  tables.forEach((table, t) => {
    const role = roles[t] ?? 'all'
    if (role === 'ignore') return
    const text = columnOf(table, mapping.text, 'text')
    const pair = mapping.text_pair === null ? null : columnOf(table, mapping.text_pair, 'second text')
    const labels = labelColumns.map((column) => columnOf(table, column, 'label'))
    table.rows.forEach((cells, i) => {
      const line = table.lines[i]!
      const no_text = cells[text]!.trim() === ''
      const given = labels.map((column) => cells[column]!)
      const own = no_text ? null : read(given, `${table.name}, line ${line}`)
      const no_label = no_text ? given.every((cell) => cell.trim() === '') : own === null
      if (own === null) empty.push({ table: t, line, no_text, no_label })
      else {
        const text_pair = pair === null ? null : cells[pair]!
        rows.push({ text: cells[text]!, text_pair, table: t, line, role, ...own })
      }
    })
  })
  if (roles.length > 0 && tables.every((_, t) => roles[t] === 'ignore')) {
    throw new Error('every file is set to be ignored; give at least one the role "all" or "train"')
  }
  return { rows, empty }
}

/** Texts that a reader would call the same: outer spaces do not count. */
export function textKey(row: { text: string; text_pair: string | null }): string {
  return row.text_pair === null ? row.text.trim() : `${row.text.trim()}\u0000${row.text_pair.trim()}`
}

function columnOf(table: Table, column: string, kind: string): number {
  const index = table.columns.indexOf(column)
  if (index >= 0) return index
  const known = table.columns.map((name) => `"${name}"`).join(', ')
  if (kind === 'label' && table.columns.length === 1) {
    throw new Error(
      `${table.name} holds texts without labels (its only column is ${known}); a classifier needs a label for each text`,
    )
  }
  throw new Error(
    `${table.name} has no ${kind} column "${column}", only ${known}; choose another column or ignore the file`,
  )
}

function sideOf(raw: string, threshold: number, where: string): string {
  const value = numberOf(raw)
  if (value !== null) return value >= threshold ? 'positive' : 'negative'
  throw new Error(
    `${where}: the label "${raw.trim()}" is not a number, so it cannot be compared with the threshold ${threshold}`,
  )
}
