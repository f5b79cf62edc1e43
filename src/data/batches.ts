/**
 * Encoded examples to padded batches. Order within an epoch is Hugging Face's (a permutation from the seed); lengths
 * are padded up to one of a few buckets, so that a run uses few distinct shapes. Every row is in exactly one batch.
 */
import { TorchGenerator } from '../random.ts'
import type { Example } from './dataset.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface Encoded {
  /** One array per row, special tokens included, no padding. */
  input_ids: Int32Array[]
  labels: Int32Array
}

export interface Batch {
  /** [B*S], row-major. */
  input_ids: Int32Array
  /** [B*S], 1 for tokens and 0 for padding. */
  attention_mask: Int32Array
  /** [B] */
  labels: Int32Array
  B: number
  S: number
  /** [B], rows of the split. */
  indices: Int32Array
  /** Tokens that are not padding. */
  tokens: number
}

export interface TrainBatchArguments {
  batch_size: number
  seed: number
  epoch: number
  group_by_length: boolean
  pad_token_id: number
}

/** Padded lengths, never more than the split's longest row needs (in eights); beyond the last, multiples of it. */
const BUCKETS = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512]

/** Batches that share one window of the shuffled order when group_by_length sorts. */
const WINDOW = 50

/** Token ids of every example, cut to max_length, special tokens included. */
export function encode(examples: Example[], tokenizer: Tokenizer, max_length: number): Encoded {
  return {
    input_ids: examples.map((row) => Int32Array.from(tokenizer.encode(row.text, row.text_pair, max_length))),
    labels: Int32Array.from(examples, (row) => row.label),
  }
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

/** Longest first, so that the largest allocation comes early; equal lengths keep their order. */
function sortByLength(order: Int32Array, { input_ids }: Encoded): void {
  const sorted = Array.from(order).sort((a, b) => input_ids[b]!.length - input_ids[a]!.length)
  order.set(sorted)
}

function cut(encoded: Encoded, order: Int32Array, batch_size: number, pad_token_id: number): Batch[] {
  const longest = encoded.input_ids.reduce((length, row) => Math.max(length, row.length), 0)
  const cap = Math.ceil(longest / 8) * 8
  if (!(Number.isInteger(batch_size) && batch_size >= 1)) {
    throw new Error(`the batch size is ${batch_size}; it must be a whole number of at least 1`)
  }
  const batches: Batch[] = []
  for (let i = 0; i < order.length; i += batch_size) {
    batches.push(collate(encoded, order.slice(i, i + batch_size), pad_token_id, cap))
  }
  return batches
}

/** Rows to one padded batch, as `DataCollatorWithPadding` does with `padding="longest"` rounded up to a bucket. */
function collate(encoded: Encoded, indices: Int32Array, pad_token_id: number, cap: number): Batch {
  const rows = Array.from(indices, (i) => encoded.input_ids[i]!)
  const longest = rows.reduce((length, row) => Math.max(length, row.length), 0)
  const B = rows.length
  const S = Math.min(bucket(longest), cap)
  const input_ids = new Int32Array(B * S).fill(pad_token_id)
  const attention_mask = new Int32Array(B * S)
  let tokens = 0
  rows.forEach((row, b) => {
    input_ids.set(row, b * S)
    attention_mask.fill(1, b * S, b * S + row.length)
    tokens += row.length
  })
  return { input_ids, attention_mask, labels: indices.map((i) => encoded.labels[i]!), B, S, indices, tokens }
}

function bucket(length: number): number {
  const last = BUCKETS.at(-1)!
  return BUCKETS.find((size) => length <= size) ?? Math.ceil(length / last) * last
}
