/** Table rows read through a mapping: one text (or two) and one class name each, blank ones set aside. */
import type { Mapping, Role } from './dataset.ts'
import { numberOf } from './labels.ts'
import type { Table } from './parse.ts'

export interface LabelledRow {
  text: string
  text_pair: string | null
  /** As in the file, spaces and all. */
  raw: string
  /** The class name: `raw` without outer spaces, or `negative`/`positive` by the threshold. */
  label: string
  table: number
  line: number
  role: Role
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
  if (
    mapping.label === mapping.text ||
    mapping.label === mapping.text_pair ||
    mapping.text === mapping.text_pair
  ) {
    throw new Error('two of text, second text and label are the same column; choose a column for each')
  }
  const rows: LabelledRow[] = []
  const empty: EmptyRow[] = []
  tables.forEach((table, t) => {
    const role = roles[t] ?? 'all'
    if (role === 'ignore') return
    const text = columnOf(table, mapping.text, 'text')
    const pair = mapping.text_pair === null ? null : columnOf(table, mapping.text_pair, 'second text')
    const label = columnOf(table, mapping.label, 'label')
    table.rows.forEach((cells, i) => {
      const line = table.lines[i]!
      const raw = cells[label]!
      const no_text = cells[text]!.trim() === ''
      const no_label = raw.trim() === ''
      if (no_text || no_label) {
        empty.push({ table: t, line, no_text, no_label })
        return
      }
      const text_pair = pair === null ? null : cells[pair]!
      const named =
        mapping.threshold === null
          ? raw.trim()
          : sideOf(raw, mapping.threshold, `${table.name}, line ${line}`)
      rows.push({ text: cells[text]!, text_pair, raw, label: named, table: t, line, role })
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
