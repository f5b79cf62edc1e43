/** What is worth knowing about a data set before training on it, in counts, examples and plain sentences. */
import type { Dataset, DatasetSummary, Example, Mapping, Role, Split, Task } from './dataset.ts'
import { nearLabels } from './labels.ts'
import type { Table } from './parse.ts'
import { labelledRows, textKey, type EmptyRow, type LabelledRow } from './rows.ts'
import { targetRows } from './targets.ts'

type Problem = DatasetSummary['problems'][number]

const splitNames: Split[] = ['train', 'validation', 'test']

/** Examples given of each finding. */
const SHOWN = 5

/**
 * The summary of `dataset`, which buildDataset made of the same tables, roles and mapping. `tokenLengths` holds the
 * untruncated length in tokens of every example of all splits, in any order.
 */
export function summarise(
  tables: Table[],
  roles: Role[],
  mapping: Mapping,
  dataset: Dataset,
  tokenLengths: Int32Array,
  max_length: number,
): DatasetSummary {
  const { task = 'classes' } = mapping
  const { rows, empty } =
    task === 'classes' ? labelledRows(tables, roles, mapping) : describedRows(tables, roles, mapping, task)
  const summary: DatasetSummary = {
    task,
    id2label: dataset.id2label,
    splits: splitNames.map((split) => countClasses(split, dataset)),
    empty: { count: empty.length, lines: empty.slice(0, SHOWN).map((row) => row.line) },
    ...repeats(rows),
    leakage: leakage(dataset),
    near_labels: nearLabels(labelNames(rows, dataset, mapping)),
    lengths: lengths(tokenLengths, max_length),
    problems: [],
  }
  summary.problems = [
    ...splitProblems(summary),
    ...labelProblems(rows, summary, mapping),
    ...rowProblems(tables, empty, summary),
  ]
  return summary
}

/** Rows of another task, with their target in words where classes have their label. */
function describedRows(
  tables: Table[],
  roles: Role[],
  mapping: Mapping,
  task: Exclude<Task, 'classes'>,
): { rows: LabelledRow[]; empty: EmptyRow[] } {
  const { rows, empty, id2label } = targetRows(tables, roles, mapping, task)
  const words = (target: number[] | number | undefined) =>
    Array.isArray(target)
      ? id2label.filter((_, i) => target[i] === 1).join(', ') || 'none'
      : String(target ?? '')
  return {
    rows: rows.map(({ target, ...row }) => ({ ...row, raw: words(target), label: words(target) })),
    empty,
  }
}

/** Names under which a label may stand twice. */
function labelNames(
  rows: LabelledRow[],
  { id2label }: Dataset,
  { task = 'classes', threshold }: Mapping,
): string[] {
  if (task === 'multilabel') return id2label
  return task === 'classes' && threshold === null ? rows.map((row) => row.raw.trim()) : []
}

/** Rows of each class, or of each of several labels. */
function countClasses(split: Split, dataset: Dataset): DatasetSummary['splits'][number] {
  const { task = 'classes' } = dataset
  const named = task === 'classes' || task === 'multilabel'
  const per_class = named ? dataset.id2label.map(() => 0) : []
  for (const { label, target } of dataset[split]) {
    if (task === 'classes') per_class[label]!++
    if (Array.isArray(target)) target.forEach((one, i) => (per_class[i]! += one))
  }
  return { split, rows: dataset[split].length, per_class }
}

/** Texts that occur more than once, and those of them that stand under different labels. */
function repeats(rows: LabelledRow[]): Pick<DatasetSummary, 'duplicates' | 'conflicting'> {
  const groups = new Map<string, LabelledRow[]>()
  for (const row of rows) {
    const key = textKey(row)
    const group = groups.get(key)
    if (group) group.push(row)
    else groups.set(key, [row])
  }
  const repeated = [...groups.values()]
    .filter((group) => group.length > 1)
    .sort((a, b) => b.length - a.length)
  const labels = (group: LabelledRow[]) => [...new Set(group.map((row) => row.label))]
  const conflicting = repeated.filter((group) => labels(group).length > 1)
  return {
    duplicates: {
      count: repeated.reduce((count, group) => count + group.length - 1, 0),
      examples: repeated.slice(0, SHOWN).map((group) => ({ text: shown(group[0]!), count: group.length })),
    },
    conflicting: {
      count: conflicting.length,
      examples: conflicting
        .slice(0, SHOWN)
        .map((group) => ({ text: shown(group[0]!), labels: labels(group) })),
    },
  }
}

function leakage(dataset: Dataset): DatasetSummary['leakage'] {
  const seen = new Map<string, { example: Example; splits: Set<Split> }>()
  for (const split of splitNames) {
    for (const example of dataset[split]) {
      const key = textKey(example)
      const entry = seen.get(key)
      if (entry) entry.splits.add(split)
      else seen.set(key, { example, splits: new Set([split]) })
    }
  }
  const leaked = [...seen.values()].filter((entry) => entry.splits.size > 1)
  const examples = leaked
    .slice(0, SHOWN)
    .map(({ example, splits }) => ({ text: shown(example), splits: [...splits] }))
  return { count: leaked.length, examples }
}

function shown({ text, text_pair }: { text: string; text_pair: string | null }): string {
  const whole = text_pair === null ? text : `${text} | ${text_pair}`
  return whole.length > 200 ? `${whole.slice(0, 200)}…` : whole
}

/** About 20 bins of a round width up to the longest text that is not an outlier; the last bin takes the rest. */
function lengths(tokenLengths: Int32Array, max_length: number): DatasetSummary['lengths'] {
  const sorted = tokenLengths.slice().sort()
  const n = sorted.length
  const rank = (share: number) => (n ? sorted[Math.min(n - 1, Math.ceil(share * n) - 1)]! : 0)
  const longest = n ? sorted[n - 1]! : 0
  const span = Math.max(1, Math.min(longest + 1, 1.5 * Math.max(rank(0.99), 1)))
  const width =
    [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].find((width) => span / width <= 24) ?? Math.ceil(span / 24)
  const bins = Math.ceil(span / width)
  const edges = Array.from({ length: bins + 1 }, (_, i) => i * width)
  edges[bins] = Math.max(edges[bins]!, longest + 1)
  const counts = new Array<number>(bins).fill(0)
  let truncated = 0
  for (const length of sorted) {
    counts[Math.min(bins - 1, Math.floor(length / width))]!++
    if (length > max_length) truncated++
  }
  const truncated_share = n ? truncated / n : 0
  return { edges, counts, max_length, truncated_share, median: rank(0.5), p95: rank(0.95) }
}

const warning = (message: string): Problem => ({ level: 'warning', message })
const quoted = (labels: string[]) => labels.map((label) => `"${label}"`).join(', ')
const percent = (share: number) => `${Math.round(100 * share)} %`

function splitProblems({ task, splits, id2label, leakage }: DatasetSummary): Problem[] {
  const problems: Problem[] = []
  const classes = task === 'classes'
  for (const { split, rows, per_class } of splits) {
    const present = id2label.filter((_, i) => per_class[i]! > 0)
    const absent = id2label.filter((_, i) => per_class[i] === 0)
    if (rows === 0) {
      const lost =
        split === 'validation' ? 'the best step cannot be chosen' : 'nothing is measured on unseen texts'
      problems.push(warning(`The ${split} split has no rows, so ${lost}.`))
    } else if (classes && present.length === 1) {
      const lost = split === 'train' ? 'nothing can be learned from it' : 'its scores mean nothing'
      problems.push(warning(`The ${split} split has one class only, ${quoted(present)}, so ${lost}.`))
    } else if (per_class.length > 0 && absent.length > 0) {
      problems.push(
        warning(
          `The ${split} split has no rows of ${quoted(absent)}; F1 of a class without rows is not known.`,
        ),
      )
    }
  }
  const [train] = splits
  const rare = id2label.filter((_, i) => (train!.per_class[i] ?? 0) > 0 && train!.per_class[i]! < 8)
  if (rare.length)
    problems.push(warning(`Fewer than 8 training rows: ${quoted(rare)}. Expect little of these classes.`))
  const most = Math.max(...train!.per_class, 0)
  if (classes && train!.rows > 0 && most < train!.rows && most >= 0.8 * train!.rows) {
    const label = id2label[train!.per_class.indexOf(most)]!
    const share = percent(most / train!.rows)
    problems.push(
      warning(
        `${share} of the training rows are "${label}": always saying so gives that accuracy, so watch macro-F1.`,
      ),
    )
  }
  if (leakage.count > 0) {
    problems.push(
      warning(`In more than one split: ${plural(leakage.count, 'text')}. Scores on them are too good.`),
    )
  }
  return problems
}

function labelProblems(rows: LabelledRow[], summary: DatasetSummary, mapping: Mapping): Problem[] {
  const problems = summary.near_labels.map(([a, b]) =>
    warning(
      `The labels "${a}" and "${b}" differ only in spaces, case or spelling of a number; they are two classes here.`,
    ),
  )
  const spaced = mapping.threshold === null ? rows.filter((row) => row.raw !== row.label) : []
  if (spaced.length > 0) {
    const kinds = [...new Set(spaced.map((row) => row.raw))].slice(0, 3)
    problems.push(
      warning(`Spaces around labels were removed in ${plural(spaced.length, 'row')} (${quoted(kinds)}).`),
    )
  }
  if (summary.conflicting.count > 0) {
    problems.push(
      warning(
        `Under more than one label: ${plural(summary.conflicting.count, 'text')}. No model can learn both.`,
      ),
    )
  }
  return problems
}

function rowProblems(tables: Table[], empty: EmptyRow[], { lengths }: DatasetSummary): Problem[] {
  const problems: Problem[] = []
  const half = empty.filter((row) => row.no_text !== row.no_label)
  if (half.length > 0) {
    const places = half.slice(0, SHOWN).map((row) => `${tables[row.table]!.name} line ${row.line}`)
    const more = half.length > SHOWN ? ', …' : ''
    problems.push(
      warning(
        `${plural(half.length, 'row')} without a text or a label left out: ${places.join(', ')}${more}.`,
      ),
    )
  }
  if (lengths.truncated_share >= 0.05) {
    const share = percent(lengths.truncated_share)
    problems.push(
      warning(`${share} of the texts are longer than ${lengths.max_length} tokens and lose their end.`),
    )
  }
  return problems
}

const plural = (count: number, noun: string) => `${count} ${noun}${count === 1 ? '' : 's'}`
