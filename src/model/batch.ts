/** One batch of token ids on the device. Sequences lie one after another: token t of row b is row b·S + t. */
import * as tf from '@tensorflow/tfjs-core'
import { assertIds } from '../kernels/embedding.ts'
import { placesOf } from '../kernels/places.ts'
import { runsOwn } from '../kernels/program.ts'
import { uploadTogether } from '../kernels/views.ts'
import type { RobertaConfig, Targets } from '../config.ts'
import { maxTokens } from './robertaConfig.ts'

export interface Batch {
  B: number
  S: number
  input_ids: tf.Tensor1D // [B·S] int32
  position_ids: tf.Tensor1D // [B·S] int32
  padding: tf.Tensor2D // [B,2] int32, how much of it stands before each row's text and how much behind
  labels: tf.Tensor1D // [B] int32
  /** What the batch is measured against where that is no class. */
  targets: DeviceTargets | null
  /** The one active head that the batch is for; null: all of them. */
  head: string | null
  /** Where each row's text begins and how many tokens it has, [B] each, on the host. */
  first: Int32Array
  lengths: Int32Array
  start: Start | null
}

/** Where a walk begins when not with the ids: what the lowest `layers` layers make of the batch, x [B·S,H], the caller's. */
export interface Start {
  layers: number
  x: tf.Tensor2D
}

/** `Targets` on the device; positions stay on the host, where prompts move them. */
export type DeviceTargets =
  | { kind: 'multilabel'; labels: tf.Tensor2D } // [B,C]
  | { kind: 'regression'; labels: tf.Tensor1D } // [B]
  | { kind: 'masked_lm'; positions: Int32Array; ids: tf.Tensor1D } // [M] each
  | { kind: 'label_words'; positions: Int32Array; words: tf.Tensor1D } // [B], [C] or [1]

/** Ids in host memory: `input_ids` [B·S], `attention_mask` [B·S], 1 for a token and 0 for padding, `labels` [B]. */
export interface HostBatch {
  B: number
  S: number
  input_ids: Int32Array
  attention_mask: Int32Array
  labels: Int32Array
  targets?: Targets | null
  head?: string | null
  /** Of a part of a batch: its share of the batch's mean loss. Absent: 1. */
  share?: number
  /** On the device already; see `Start`. */
  start?: Start | null
}

/**
 * Uploads a batch after checking it: a GPU reads an id outside its table as a row of zeros and says nothing. Throws
 * when an id is outside the vocabulary, the batch is longer than the model's positions, or a mask hides tokens within a
 * text. The caller disposes it.
 */
export function uploadBatch(
  config: RobertaConfig,
  { B, S, input_ids, attention_mask, labels, targets = null, head = null, start = null }: HostBatch,
): Batch {
  assertIds(input_ids, config.vocab_size)
  const position_ids = positionIds(input_ids, B, S, config.pad_token_id)
  const longest = position_ids.reduce((a, b) => Math.max(a, b), 0) - config.pad_token_id
  if (longest > maxTokens(config))
    throw new Error(
      `A text has ${longest} tokens; this model reads at most ${maxTokens(config)}. Lower max_length.`,
    )
  const where = extents({ B, S, attention_mask })
  return {
    B,
    S,
    ...uploadRows(config, { B, S, input_ids, labels }, position_ids, where),
    targets: targets && uploadTargets(config, targets, B, S),
    head,
    start,
    ...where,
  }
}

/** One upload; on a GPU without the positions where they count each text's tokens, which padding tells. */
function uploadRows(
  { pad_token_id }: RobertaConfig,
  { B, S, input_ids, labels }: Pick<HostBatch, 'B' | 'S' | 'input_ids' | 'labels'>,
  position_ids: Int32Array,
  { first, lengths }: Pick<Batch, 'first' | 'lengths'>,
): Pick<Batch, 'input_ids' | 'position_ids' | 'padding' | 'labels'> {
  const around = [...first].flatMap((before, b) => [before, S - before - lengths[b]!])
  const counts = position_ids.every((position, i) => {
    const [b, s] = [Math.floor(i / S), i % S]
    const inside = s >= around[2 * b]! && s < S - around[2 * b + 1]!
    return position === pad_token_id + (inside ? 1 + s - around[2 * b]! : 0)
  })
  const [ids, padding, own, places] = uploadTogether([
    { data: input_ids, shape: [B * S] },
    { data: Int32Array.from(around), shape: [B, 2] },
    { data: labels, shape: [B] },
    ...(runsOwn('places') && counts ? [] : [{ data: position_ids, shape: [B * S] }]),
  ]) as [tf.Tensor1D, tf.Tensor2D, tf.Tensor1D, tf.Tensor1D?]
  const made = places ?? placesOf(padding, S, pad_token_id)
  return { input_ids: ids, position_ids: made, padding, labels: own }
}

/** Throws when sizes do not fit the batch, or a word or position is outside it. */
function uploadTargets(config: RobertaConfig, targets: Targets, B: number, S: number): DeviceTargets {
  const expect = (what: string, found: number, wanted: number) => {
    if (found !== wanted) throw new Error(`A batch of ${B} rows has ${found} ${what}, but needs ${wanted}.`)
  }
  switch (targets.kind) {
    case 'multilabel': {
      expect('labels', targets.labels.length, B * targets.num_labels)
      return { kind: 'multilabel', labels: tf.tensor2d(targets.labels, [B, targets.num_labels]) }
    }
    case 'regression':
      expect('labels', targets.labels.length, B)
      return { kind: 'regression', labels: tf.tensor1d(targets.labels) }
    case 'masked_lm':
      expect('hidden words', targets.ids.length, targets.positions.length)
      if (targets.ids.length === 0)
        throw new Error('A batch for the masked-LM head hides no word; draw its mask again.')
      assertIds(targets.ids, config.vocab_size)
      assertIds(targets.positions, B * S, 'position')
      return { ...targets, ids: tf.tensor1d(targets.ids, 'int32') }
    case 'label_words':
      expect('mask positions', targets.positions.length, B)
      assertIds(targets.words, config.vocab_size)
      assertIds(targets.positions, B * S, 'position')
      return { ...targets, words: tf.tensor1d(targets.words, 'int32') }
  }
}

/** Index of the first token and number of tokens of each row. Throws where a mask hides tokens within a text. */
export function extents({
  B,
  S,
  attention_mask,
}: Pick<HostBatch, 'B' | 'S' | 'attention_mask'>): Pick<Batch, 'first' | 'lengths'> {
  const [first, lengths] = [new Int32Array(B), new Int32Array(B)]
  for (let b = 0; b < B; b++) {
    const row = attention_mask.subarray(b * S, (b + 1) * S)
    const start = (first[b] = Math.max(row.indexOf(1), 0))
    const end = start + (lengths[b] = row.reduce((sum, one) => sum + Number(one === 1), 0))
    if (row.some((one, s) => one !== Number(s >= start && s < end)))
      throw new Error(
        `The attention_mask of row ${b} is not one run of 1 with 0 around it; leave out of the row what is hidden within its text.`,
      )
  }
  return { first, lengths }
}

/** `create_position_ids_from_input_ids`: tokens count up from pad + 1, padding stays at pad. */
export function positionIds(input_ids: Int32Array, B: number, S: number, pad_token_id: number): Int32Array {
  const out = new Int32Array(B * S)
  for (let b = 0; b < B; b++) {
    let position = pad_token_id
    for (let i = b * S; i < (b + 1) * S; i++)
      out[i] = input_ids[i] === pad_token_id ? pad_token_id : ++position
  }
  return out
}

/** Frees a batch. */
export function disposeBatch({ input_ids, position_ids, padding, labels, targets }: Batch): void {
  tf.dispose([input_ids, position_ids, padding, labels])
  tf.dispose(Object.values(targets ?? {}).filter((value) => value instanceof tf.Tensor))
}
