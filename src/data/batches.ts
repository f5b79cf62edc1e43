/**
 * Encoded examples to padded batches. Order within an epoch is Hugging Face's (a permutation from the seed). A batch is
 * padded to its longest row and no further: programs take their sizes as uniforms, so another length costs nothing, and
 * on short texts even lengths in eights would compute an eighth too much. Every row is in exactly one batch.
 */
import type { Targets } from '../config.ts'
import { TorchGenerator } from '../random.ts'
import type { Example } from './dataset.ts'
import type { MaskingArguments, MaskVocabulary } from './masking.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface Encoded {
  /** One array per row, special tokens included, no padding. */
  input_ids: Int32Array[]
  /** Class indices; 0 where the rows have targets of another kind. */
  labels: Int32Array
  targets?: RowTargets | null
  /** Present: words are hidden in every batch, drawn anew in training and once for all in evaluation. */
  masking?: MaskingArguments & { seed: number; vocabulary: MaskVocabulary }
}

/**
 * What rows are measured against when that is no class: labels of 0 and 1 [N·num_labels], numbers [N], or one token
 * [N] (counted in its row) where one of `words` is to stand.
 */
export type RowTargets =
  | { kind: 'multilabel'; labels: Float32Array; num_labels: number }
  | { kind: 'regression'; labels: Float32Array }
  | { kind: 'label_words'; positions: Int32Array; words: Int32Array }

export interface Batch {
  /** [B*S], row-major. */
  input_ids: Int32Array
  /** [B*S], 1 for tokens and 0 for padding. */
  attention_mask: Int32Array
  /** [B] */
  labels: Int32Array
  targets: Targets | null
  /** The head that the batch is for, where a run has several; absent: all of them. */
  head?: string
  B: number
  S: number
  /** [B], rows of the split. */
  indices: Int32Array
  /** Tokens that are not padding. */
  tokens: number
  /** Of a part of a batch (parts.ts): its share of the batch's mean loss. Absent: 1. */
  share?: number
}

export interface TrainBatchArguments {
  batch_size: number
  seed: number
  epoch: number
  group_by_length: boolean
  pad_token_id: number
}

/** Batches that share one window of the shuffled order when group_by_length sorts. */
const WINDOW = 50

/** Token ids of every example, cut to max_length, special tokens included, with the examples' own targets. */
export function encode(examples: Example[], tokenizer: Tokenizer, max_length: number): Encoded {
  return {
    input_ids: examples.map((row) => Int32Array.from(tokenizer.encode(row.text, row.text_pair, max_length))),
    labels: Int32Array.from(examples, (row) => row.label),
    targets: targetsOf(examples),
  }
}

function targetsOf(examples: Example[]): RowTargets | null {
  const first = examples[0]?.target
  if (first === undefined) return null
  if (typeof first === 'number')
    return { kind: 'regression', labels: Float32Array.from(examples, ({ target }) => target as number) }
  const labels = Float32Array.from(examples.flatMap(({ target }) => target as number[]))
  return { kind: 'multilabel', labels, num_labels: first.length }
}

/**
 * One epoch. The order is `torch.randperm` seeded with `seed + epoch`; with group_by_length, windows of 50 batches of
 * that order are sorted by length, cut into batches, and all batches are shuffled by the same generator. The smaller
 * last batch is kept.
 */
export function trainBatches(encoded: Encoded, args: TrainBatchArguments): Batch[] {
  const generator = new TorchGenerator(args.seed + args.epoch)
  const order = generator.randperm(encoded.labels.length)
  if (args.group_by_length) {
    const window = WINDOW * args.batch_size
    for (let i = 0; i < order.length; i += window) sortByLength(order.subarray(i, i + window), encoded)
  }
  const batches = cut(encoded, order, args.batch_size, args.pad_token_id)
  if (!args.group_by_length) return batches
  return Array.from(generator.randperm(batches.length), (i) => batches[i]!)
}

/** All rows sorted by length, so that little is padded; `indices` leads back to the split's order. */
export function evalBatches(encoded: Encoded, batch_size: number, pad_token_id: number): Batch[] {
  const order = Int32Array.from(encoded.labels, (_, i) => i)
  sortByLength(order, encoded)
  return cut(encoded, order, batch_size, pad_token_id)
}

/** Tokens that are text, of all positions that the batches make the device compute; 1 is no padding at all. */
export function paddingEfficiency(batches: Batch[]): number {
  const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0)
  return tokens / batches.reduce((sum, { B, S }) => sum + B * S, 0)
}

/** Longest first, so that the largest allocation comes early; equal lengths keep their order. */
function sortByLength(order: Int32Array, { input_ids }: Encoded): void {
  const sorted = Array.from(order).sort((a, b) => input_ids[b]!.length - input_ids[a]!.length)
  order.set(sorted)
}

function cut(encoded: Encoded, order: Int32Array, batch_size: number, pad_token_id: number): Batch[] {
  if (!(Number.isInteger(batch_size) && batch_size >= 1)) {
    throw new Error(`the batch size is ${batch_size}; it must be a whole number of at least 1`)
  }
  const batches: Batch[] = []
  for (let i = 0; i < order.length; i += batch_size) {
    batches.push(collate(encoded, order.slice(i, i + batch_size), pad_token_id))
  }
  return batches
}

/** Rows to one padded batch, as `DataCollatorWithPadding` does with `padding="longest"`. */
function collate(encoded: Encoded, indices: Int32Array, pad_token_id: number): Batch {
  const rows = Array.from(indices, (i) => encoded.input_ids[i]!)
  const B = rows.length
  const S = rows.reduce((length, row) => Math.max(length, row.length), 0)
  const input_ids = new Int32Array(B * S).fill(pad_token_id)
  const attention_mask = new Int32Array(B * S)
  let tokens = 0
  rows.forEach((row, b) => {
    input_ids.set(row, b * S)
    attention_mask.fill(1, b * S, b * S + row.length)
    tokens += row.length
  })
  const labels = indices.map((i) => encoded.labels[i]!)
  return {
    input_ids,
    attention_mask,
    labels,
    targets: collateTargets(encoded, indices, S),
    B,
    S,
    indices,
    tokens,
  }
}

function collateTargets({ targets }: Encoded, indices: Int32Array, S: number): Targets | null {
  switch (targets?.kind) {
    case undefined:
      return null
    case 'regression':
      return { kind: 'regression', labels: Float32Array.from(indices, (i) => targets.labels[i]!) }
    case 'multilabel': {
      const { labels, num_labels } = targets
      const rows = Array.from(indices, (i) => [...labels.subarray(i * num_labels, (i + 1) * num_labels)])
      return { kind: 'multilabel', labels: Float32Array.from(rows.flat()), num_labels }
    }
    case 'label_words': {
      const positions = indices.map((row, b) => b * S + targets.positions[row]!)
      return { kind: 'label_words', positions, words: targets.words }
    }
  }
}
