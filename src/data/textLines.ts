/**
 * Plain text with one review on each line. The label is not in such a file but in its name (`rt-polarity.pos`,
 * `reviews-good.txt`), in a fastText mark (`__label__2 text`), or nowhere.
 */
import { plainName } from './columnNames.ts'
import type { Table } from './parse.ts'
import type { Rows } from './json.ts'

/** Every non-blank line is a text. */
export function parseTextLines(text: string): Rows {
  const rows: string[][] = []
  const lines: number[] = []
  text.split(/\r\n|\n|\r/).forEach((line, i) => {
    if (line.trim() === '') return
    rows.push([line])
    lines.push(i + 1)
  })
  const marked = rows.map(([line]) => /^__label__(\S+)\s+(.*)$/s.exec(line!))
  if (rows.length > 0 && marked.every((match) => match !== null)) {
    const pairs = marked.map((match) => [match![2]!, match![1]!])
    return { columns: ['text', 'label'], rows: pairs, lines, format: 'fastText lines' }
  }
  return { columns: ['text'], rows, lines, format: 'text, one on each line' }
}

const splitWords = new Set(
  'train training dev devel valid validation val eval evaluation test testing'.split(' '),
)

/**
 * Joins files of bare texts into one labelled table where their names tell them apart: `rt-polarity.pos` and
 * `rt-polarity.neg` become `rt-polarity` with the labels `pos` and `neg`. Names of different splits are joined apart
 * (`train/pos.txt` with `train/neg.txt`). Joined files are put in descending order of name, positives before
 * negatives, as the published copies of this set have them, so that a seed does not depend on the order of choosing.
 */
export function joinByFileName(tables: Table[]): Table[] {
  const groups = new Map<string, Table[]>()
  for (const table of tables) {
    if (table.columns.length > 1 || !table.format.startsWith('text')) continue
    const split = plainName(table.name)
      .split('_')
      .find((word) => splitWords.has(word))
    const key = split ?? ''
    groups.set(key, [...(groups.get(key) ?? []), table])
  }
  let result = tables
  for (const group of groups.values()) {
    const joined = join(group)
    if (joined) result = [...result.filter((table) => !group.includes(table)), joined]
  }
  return result
}

/** null when the names say nothing about labels. */
function join(group: Table[]): Table | null {
  const [first] = group
  if (group.length === 1) {
    const [, stem, end] = /^(.*)\.(pos|neg)$/i.exec(first!.name) ?? []
    return stem !== undefined && end !== undefined ? labelled(stem, group, () => end) : null
  }
  const { prefix, suffix } = commonEnds(group.map((table) => table.name))
  const labelOf = (table: Table) => table.name.slice(prefix.length, table.name.length - suffix.length)
  if (group.some((table) => labelOf(table) === '')) return null
  const name = plainName(`${prefix} ${suffix.replace(/\.\w+$/, '')}`).replaceAll('_', '-')
  const parts = group.slice().sort((a, b) => (a.name < b.name ? 1 : -1))
  return labelled(name || 'texts by file name', parts, labelOf)
}

function labelled(name: string, parts: Table[], labelOf: (table: Table) => string): Table {
  const encodings = [...new Set(parts.map((part) => part.encoding))].join(', ')
  return {
    name,
    columns: ['text', 'label'],
    rows: parts.flatMap((part) => part.rows.map(([text]) => [text!, labelOf(part)])),
    lines: Int32Array.from(parts.flatMap((part) => Array.from(part.lines))),
    format: `text, one on each line, labelled by file name (${parts.map((part) => part.name).join(', ')})`,
    encoding: encodings,
    warnings: parts.flatMap((part) => part.warnings),
  }
}

/** The longest common beginning and end, each cut back so that no word is split: `good`/`bad`, not `goo`/`ba`. */
function commonEnds(names: string[]): { prefix: string; suffix: string } {
  const words = names.map((name) => name.split(/(?<=[^\p{L}\p{N}])|(?=[^\p{L}\p{N}])/u))
  const shortest = Math.min(...words.map((parts) => parts.length))
  const same = (at: (parts: string[]) => string | undefined) => new Set(words.map(at)).size === 1
  let start = 0
  while (start < shortest && same((parts) => parts[start])) start++
  let end = 0
  while (end < shortest - start && same((parts) => parts.at(-1 - end))) end++
  const first = words[0]!
  return { prefix: first.slice(0, start).join(''), suffix: end ? first.slice(-end).join('') : '' }
}
