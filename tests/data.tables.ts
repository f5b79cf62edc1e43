/** Small tables and calls that the data tests share. */
import {
  buildDataset,
  summarise,
  type Dataset,
  type Example,
  type Mapping,
  type Role,
  type SplitArguments,
} from '../src/data/dataset.ts'
import type { Table } from '../src/data/parse.ts'

export const mapping: Mapping = { text: 'text', text_pair: null, label: 'label', threshold: null }
export const whole: SplitArguments = { validation: 0, test: 0, fraction: 1, sampling: 'stratified', seed: 7 }

export function table(columns: string[], rows: string[][], name = 'reviews.csv'): Table {
  const lines = Int32Array.from(rows, (_, i) => i + 2)
  return { name, columns, rows, lines, format: 'CSV', encoding: 'UTF-8', warnings: [] }
}

export const labelled = (rows: [string, string][], name?: string) => table(['text', 'label'], rows, name)

/** `counts[c]` rows of the class named c, mixed, each text its own. */
export function rowsOf(counts: number[]): [string, string][] {
  const rows = counts.flatMap((count, c) =>
    Array.from({ length: count }, (_, i): [string, string] => [`text ${c} ${i}`, `${c}`]),
  )
  return rows.sort(
    ([a], [b]) =>
      ((a.length * 31 + a.charCodeAt(a.length - 1)) % 7) - ((b.length * 31 + b.charCodeAt(b.length - 1)) % 7),
  )
}

export const split = (
  tables: Table[],
  change: Partial<SplitArguments> = {},
  roles: Role[] = tables.map(() => 'all'),
) => buildDataset(tables, roles, mapping, { ...whole, ...change })

export const texts = (examples: Example[]) => examples.map((example) => example.text)
export const perClass = (dataset: Dataset, examples: Example[]) =>
  dataset.id2label.map((_, c) => examples.filter((example) => example.label === c).length)

export function summaryOf(
  tables: Table[],
  change: Partial<SplitArguments> = {},
  map = mapping,
  roles: Role[] = tables.map(() => 'all'),
) {
  const dataset = buildDataset(tables, roles, map, { ...whole, ...change })
  const all = [...dataset.train, ...dataset.validation, ...dataset.test]
  const lengths = Int32Array.from(all, (example) => example.text.length)
  return summarise(tables, roles, map, dataset, lengths, 10)
}

export const said = (summary: { problems: { message: string }[] }) =>
  summary.problems.map((problem) => problem.message).join('\n')
