/**
 * Who goes where: seeded, stratified by class, identical texts together. Shares are met within one row for each class
 * as long as texts are distinct; a text that repeats moves as a block.
 */
import { TorchGenerator } from '../random.ts'
import type { Split, SplitArguments } from './dataset.ts'
import { textKey, type TextRow } from './rows.ts'

/**
 * The split of every row; `labels[i]` is its class index. Rows of tables with the role train, validation or test stay
 * there; rows of `all` and `train` give the shares that no table has the role for, and the rest trains.
 */
export function assignSplits(rows: TextRow[], labels: number[], args: SplitArguments): Split[] {
  const splits = rows.map(({ role }): Split => (role === 'validation' || role === 'test' ? role : 'train'))
  const given = new Set(rows.map((row) => row.role))
  const validation = given.has('validation') ? 0 : args.validation
  const test = given.has('test') ? 0 : args.test
  if (validation + test === 0) return splits

  const byClass = groupsByClass(rows, labels, splits, args.seed)
  const sizes = byClass.map((groups) => groups.reduce((rows, group) => rows + group.length, 0))
  const wanted = { validation: apportion(sizes, validation), test: apportion(sizes, test) }
  byClass.forEach((groups, c) => {
    const leave = Math.max(sizes[c]! - 1, 0)
    let forTest = Math.min(wanted.test[c]!, leave)
    let forValidation = Math.min(wanted.validation[c]!, leave - forTest)
    for (const group of groups) {
      if (group.length <= forValidation) {
        forValidation -= group.length
        for (const i of group) splits[i] = 'validation'
      } else if (group.length <= forTest) {
        forTest -= group.length
        for (const i of group) splits[i] = 'test'
      }
    }
  })
  return splits
}

/** Rows that train, as groups of identical texts, in an order drawn from the seed, under their first row's class. */
function groupsByClass(rows: TextRow[], labels: number[], splits: Split[], seed: number): number[][][] {
  const groups = new Map<string, number[]>()
  rows.forEach((row, i) => {
    if (splits[i] !== 'train') return
    const key = textKey(row)
    const group = groups.get(key)
    if (group) group.push(i)
    else groups.set(key, [i])
  })
  const all = [...groups.values()]
  const byClass: number[][][] = Array.from({ length: classCount(labels) }, () => [])
  for (const g of new TorchGenerator(seed).randperm(all.length)) byClass[labels[all[g]![0]!]!]!.push(all[g]!)
  return byClass
}

/**
 * The fraction of the training rows to use, in file order. `stratified` draws from each class by the seed and leaves
 * none empty; `first` is `train[:X%]` of the datasets library, which rounds half to even.
 */
export function takeFraction(train: number[], labels: number[], args: SplitArguments): number[] {
  if (args.fraction === 1) return train
  if (args.sampling === 'first')
    return train.slice(0, Math.max(1, roundHalfEven(args.fraction * train.length)))
  const byClass: number[][] = Array.from({ length: classCount(labels) }, () => [])
  for (const k of new TorchGenerator(args.seed).randperm(train.length))
    byClass[labels[train[k]!]!]!.push(train[k]!)
  const wanted = apportion(
    byClass.map((members) => members.length),
    args.fraction,
  )
  const kept = byClass.flatMap((members, c) => members.slice(0, Math.max(wanted[c]!, 1)))
  return kept.sort((a, b) => a - b)
}

const classCount = (labels: number[]) => labels.reduce((most, label) => Math.max(most, label + 1), 0)

/**
 * How many of each class make up `share` of all: within one row of `share * size`, and together `share` of the whole
 * (largest remainders). A class of three or more rows gets at least one.
 */
export function apportion(sizes: number[], share: number): number[] {
  if (share === 0) return sizes.map(() => 0)
  const exact = sizes.map((size) => size * share)
  const counts = exact.map(Math.floor)
  const total = Math.round(exact.reduce((sum, value) => sum + value, 0))
  let left = total - counts.reduce((sum, count) => sum + count, 0)
  const byRemainder = Array.from(sizes.keys()).sort(
    (a, b) => exact[b]! - counts[b]! - (exact[a]! - counts[a]!) || a - b,
  )
  for (const c of byRemainder) {
    if (left <= 0) break
    if (counts[c]! >= exact[c]!) continue
    counts[c]!++
    left--
  }
  return counts.map((count, c) => (count === 0 && sizes[c]! >= 3 ? 1 : count))
}

function roundHalfEven(value: number): number {
  const below = Math.floor(value)
  if (value - below !== 0.5) return Math.round(value)
  return below % 2 === 0 ? below : below + 1
}
