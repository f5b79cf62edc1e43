/** One batch of token ids on the device. Sequences lie one after another: token t of row b is row b·S + t. */
import * as tf from '@tensorflow/tfjs-core'
import { assertIds } from '../kernels/embedding.ts'
import { placesOf } from '../kernels/places.ts'
import { onGpu } from '../kernels/program.ts'
import { uploadTogether } from '../kernels/views.ts'
import type { RobertaConfig, Targets } from '../config.ts'
import { maxTokens } from './robertaConfig.ts'

export interface Batch {
  B: number
  S: number
  input_ids: tf.Tensor1D // [B·S] int32
  position_ids: tf.Tensor1D // [B·S] int32
  attention_mask: tf.Tensor2D // [B,S] int32, 1 for a token, 0 for padding
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

/** Ids and masks in host memory: `input_ids` and `attention_mask` [B·S], `labels` [B]. */
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
 * when an id is outside the vocabulary or the batch is longer than the model's positions. The caller disposes it.
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
  const where = extents(attention_mask, B, S)
  return {
    B,
    S,
    ...uploadRows(config, { B, S, input_ids, attention_mask, labels }, position_ids, where),
    targets: targets && uploadTargets(config, targets, B, S),
    head,
    start,
    ...where,
  }
}

/** One upload: on a GPU without positions and mask where each text is a run of tokens, which extents tell. */
function uploadRows(
  { pad_token_id }: RobertaConfig,
  { B, S, input_ids, attention_mask, labels }: HostBatch,
  position_ids: Int32Array,
  { first, lengths }: Pick<Batch, 'first' | 'lengths'>,
): Pick<Batch, 'input_ids' | 'position_ids' | 'attention_mask' | 'labels'> {
  const rows = { data: input_ids, shape: [B * S] }
  const classes = { data: labels, shape: [B] }
  const isRun = position_ids.every((position, i) => {
    const place = (i % S) - first[Math.floor(i / S)]!
    const inside = place >= 0 && place < lengths[Math.floor(i / S)]!
    return attention_mask[i] === Number(inside) && position === pad_token_id + (inside ? 1 + place : 0)
  })
  if (onGpu() && isRun) {
    const extents = Int32Array.from({ length: 2 * B }, (_, i) => (i % 2 ? lengths : first)[i >> 1]!)
    const [ids, own, labels] = uploadTogether([rows, { data: extents, shape: [2 * B] }, classes])
    const places = placesOf(own as tf.Tensor1D, B, S, pad_token_id)
    own!.dispose()
    return { input_ids: ids as tf.Tensor1D, labels: labels as tf.Tensor1D, ...places }
  }
  const positions = { data: position_ids, shape: [B * S] }
  const [ids, places, mask, own] = uploadTogether([
    rows,
    positions,
    { data: attention_mask, shape: [B, S] },
    classes,
  ])
  return {
    input_ids: ids as tf.Tensor1D,
    position_ids: places as tf.Tensor1D,
    attention_mask: mask as tf.Tensor2D,
    labels: own as tf.Tensor1D,
  }
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

/** Index of the first token and number of tokens of each row. */
function extents(
  attention_mask: Int32Array,
  B: number,
  S: number,
): { first: Int32Array; lengths: Int32Array } {
  const rows = Array.from({ length: B }, (_, b) => attention_mask.subarray(b * S, (b + 1) * S))
  return {
    first: Int32Array.from(rows, (row) => Math.max(row.indexOf(1), 0)),
    lengths: Int32Array.from(rows, (row) => row.reduce((sum, one) => sum + one, 0)),
  }
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
export function disposeBatch({ input_ids, position_ids, attention_mask, labels, targets }: Batch): void {
  tf.dispose([input_ids, position_ids, attention_mask, labels])
  tf.dispose(Object.values(targets ?? {}).filter((value) => value instanceof tf.Tensor))
}
