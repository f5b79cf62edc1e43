/**
 * From tables to labelled examples in three splits: which column is what, which class has which index, who goes
 * where. Everything is decided by the arguments and a seed; nothing is dropped without being counted.
 */
import { orderLabels } from './labels.ts'
import type { Table } from './parse.ts'
import { labelledRows, type LabelledRow, type TextRow } from './rows.ts'
import { assignSplits, takeFraction } from './split.ts'
import { targetRows, type TargetRow } from './targets.ts'

export { guessMapping, guessRoles, guessText } from './guess.ts'
export { summarise } from './summary.ts'

/** Which columns are read, by name. */
export interface Mapping {
  text: string
  /** A second text, encoded as `<s> text </s></s> text_pair </s>`. */
  text_pair: string | null
  label: string
  /** Numeric labels: `value >= threshold` is "positive", below it "negative". null: the labels as they are. */
  threshold: number | null
  /** What is learned of a text; absent: `classes`. `masked_lm` reads no label. */
  task?: Task
  /** `multilabel`: one column for each label, of 0 and 1; absent: the column `label` names those that apply. */
  label_columns?: string[]
  /** `multilabel`: what stands between names in one cell; absent: a comma. */
  separator?: string
}

/** One class a text, any number of labels a text, a number a text, or the text's own words. */
export type Task = 'classes' | 'multilabel' | 'regression' | 'masked_lm'

/** What a table is for; `all` is divided by the split arguments. */
export type Role = 'all' | 'train' | 'validation' | 'test' | 'ignore'

export type Split = 'train' | 'validation' | 'test'

export interface SplitArguments {
  /** Share 0..1 for validation, taken from `all` and `train` rows when no table has that role. */
  validation: number
  /** Share 0..1 for test, likewise. */
  test: number
  /** Share 0..1 of the training rows that is used. */
  fraction: number
  /** `first` is `train[:X%]`: the first rows as they stand in the file, whatever their labels. */
  sampling: 'stratified' | 'first'
  seed: number
}

export interface Example {
  text: string
  text_pair: string | null
  /** Index into id2label; 0 where the task is another. */
  label: number
  /** `multilabel`: 0 or 1 for each of id2label. `regression`: the number. */
  target?: number[] | number
  /** Index of the table it came from, and its line there, 1-based. */
  table: number
  line: number
}

export interface Dataset {
  /** Absent: `classes`. */
  task?: Task
  /** `regression`: the one column's name. `masked_lm`: empty. */
  id2label: string[]
  train: Example[]
  validation: Example[]
  test: Example[]
}

/** What the page shows before training. Counts are rows. */
export interface DatasetSummary {
  /** Absent: `classes`. */
  task?: Task
  id2label: string[]
  splits: { split: Split; rows: number; per_class: number[] }[]
  /** Rows left out because text or label is empty, with the first five lines. */
  empty: { count: number; lines: number[] }
  /** Rows that repeat an earlier row's text, and the most repeated texts. */
  duplicates: { count: number; examples: { text: string; count: number }[] }
  /** Texts that stand under more than one label. */
  conflicting: { count: number; examples: { text: string; labels: string[] }[] }
  /** Texts that are in more than one split. */
  leakage: { count: number; examples: { text: string; splits: Split[] }[] }
  /** Labels that differ only in spaces, case or the way a number is written. */
  near_labels: [string, string][]
  /** Histogram of lengths in tokens: `counts[i]` rows have `edges[i] <= length < edges[i + 1]`. */
  lengths: {
    edges: number[]
    counts: number[]
    max_length: number
    /** Share 0..1 of the rows longer than max_length. */
    truncated_share: number
    median: number
    p95: number
  }
  problems: { level: 'error' | 'warning'; message: string }[]
}

/** More classes than this is no classification that a page can show. */
const MAX_CLASSES = 1000

/**
 * Labelled examples in three splits. Rows without a text or without a label are left out (the summary counts them);
 * the rest are in exactly one split, or in none when `fraction` is below 1. Identical texts stay in one split where
 * the split is ours. With a threshold the classes are always `negative`, `positive`; otherwise see orderLabels.
 * Splits are stratified by class; of other tasks they are drawn from all rows alike.
 *
 * Throws one sentence when there is nothing to learn: no rows, no usable label, one class only, or a class that
 * training would never see. A class missing from validation or test, or from the training rows by `first`, is a
 * warning of the summary.
 */
export function buildDataset(
  tables: Table[],
  roles: Role[],
  mapping: Mapping,
  split: SplitArguments,
): Dataset {
  checkSplit(split)
  const { task = 'classes' } = mapping
  if (task !== 'classes') {
    const { rows, id2label } = targetRows(tables, roles, mapping, task)
    const labels = rows.map(() => 0)
    const splits = assignSplits(rows, labels, split)
    return {
      task,
      ...divide(rows, labels, splits, split, [], ({ target }: TargetRow) => ({ target })),
      id2label,
    }
  }
  const { rows } = labelledRows(tables, roles, mapping)
  const id2label =
    mapping.threshold === null ? orderLabels(rows.map((row) => row.label)) : ['negative', 'positive']
  checkClasses(rows, id2label, mapping)
  const index = new Map(id2label.map((label, i) => [label, i]))
  const labels = rows.map((row) => index.get(row.label)!)
  const splits = assignSplits(rows, labels, split)
  return { ...divide(rows, labels, splits, split, id2label, () => ({})), id2label }
}

/** Examples of the rows of each split, the training rows by their fraction. */
function divide<R extends TextRow>(
  rows: R[],
  labels: number[],
  splits: Split[],
  split: SplitArguments,
  id2label: string[],
  more: (row: R) => Pick<Example, 'target'>,
): Record<Split, Example[]> {
  const example = (i: number): Example => {
    const row = rows[i]!
    const { text, text_pair, table, line } = row
    return { text, text_pair, label: labels[i]!, ...more(row), table, line }
  }
  const members = (name: Split) => Array.from(rows.keys()).filter((i) => splits[i] === name)
  const train = members('train')
  checkTrain(train, labels, splits, id2label)
  return {
    train: takeFraction(train, labels, split).map(example),
    validation: members('validation').map(example),
    test: members('test').map(example),
  }
}

function checkSplit({ validation, test, fraction, seed }: SplitArguments): void {
  const shares = Object.entries({ validation, test, fraction })
  for (const [name, share] of shares) {
    if (!(share >= 0 && share <= 1))
      throw new Error(`the share ${name} is ${share}; it must be between 0 and 1`)
  }
  if (validation + test >= 1) {
    throw new Error(
      `validation ${validation} and test ${test} leave no rows to train on; they must add up to less than 1`,
    )
  }
  if (fraction === 0) throw new Error('the fraction of training rows is 0; it must be more')
  if (!Number.isSafeInteger(seed)) throw new Error(`the seed is ${seed}; it must be a whole number`)
}

function checkClasses(rows: LabelledRow[], id2label: string[], mapping: Mapping): void {
  const column = `the column "${mapping.label}"`
  if (rows.length === 0) {
    throw new Error(
      `no row has both a text in "${mapping.text}" and a label in "${mapping.label}"; choose other columns`,
    )
  }
  const used = new Set(rows.map((row) => row.label))
  if (used.size === 1) {
    const [only] = used
    const why = mapping.threshold === null ? '' : ` with the threshold ${mapping.threshold}`
    throw new Error(
      `every row has the label "${only}"${why}; at least two classes are needed to learn anything`,
    )
  }
  const many = id2label.length > MAX_CLASSES || (id2label.length > 20 && id2label.length * 2 > rows.length)
  const eachOnce = id2label.length > 2 && id2label.length === rows.length
  if (many || eachOnce) {
    throw new Error(
      `${column} is no usable label: it has ${id2label.length} different values in ${rows.length} rows; ` +
        'choose another column, or a threshold if it holds numbers',
    )
  }
}

/** Every class must have a training row before any fraction is taken. */
function checkTrain(train: number[], labels: number[], splits: (Split | null)[], id2label: string[]): void {
  if (train.length === 0)
    throw new Error('there are no rows to train on; give a file the role "all" or "train"')
  const seen = new Set(train.map((i) => labels[i]!))
  const label = id2label.findIndex((_, i) => !seen.has(i) && labels.includes(i))
  if (label < 0) return
  const where = splits[labels.indexOf(label)]
  throw new Error(
    `the class "${id2label[label]}" is in ${where} and in no training row, so it can never be learned; ` +
      'give training rows of it, or take it out',
  )
}
