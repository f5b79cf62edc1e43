/** One batch of token ids on the device. Sequences lie one after another: token t of row b is row b·S + t. */
import * as tf from '@tensorflow/tfjs-core'
import { assertIds } from '../kernels/embedding.ts'
import type { RobertaConfig } from '../config.ts'
import { maxTokens } from './robertaConfig.ts'

export interface Batch {
  B: number
  S: number
  input_ids: tf.Tensor1D // [B·S] int32
  position_ids: tf.Tensor1D // [B·S] int32
  attention_mask: tf.Tensor2D // [B,S] int32, 1 for a token, 0 for padding
  labels: tf.Tensor1D // [B] int32
}

/** Ids and masks in host memory: `input_ids` and `attention_mask` [B·S], `labels` [B]. */
export interface HostBatch {
  B: number
  S: number
  input_ids: Int32Array
  attention_mask: Int32Array
  labels: Int32Array
}

/**
 * Uploads a batch after checking it: a GPU reads an id outside its table as a row of zeros and says nothing. Throws
 * when an id is outside the vocabulary or the batch is longer than the model's positions. The caller disposes it.
 */
export function uploadBatch(
  config: RobertaConfig,
  { B, S, input_ids, attention_mask, labels }: HostBatch,
): Batch {
  assertIds(input_ids, config.vocab_size)
  const position_ids = positionIds(input_ids, B, S, config.pad_token_id)
  const longest = position_ids.reduce((a, b) => Math.max(a, b), 0) - config.pad_token_id
  if (longest > maxTokens(config))
    throw new Error(
      `A text has ${longest} tokens; this model reads at most ${maxTokens(config)}. Lower max_length.`,
    )
  return {
    B,
    S,
    input_ids: tf.tensor1d(input_ids, 'int32'),
    position_ids: tf.tensor1d(position_ids, 'int32'),
    attention_mask: tf.tensor2d(attention_mask, [B, S], 'int32'),
    labels: tf.tensor1d(labels, 'int32'),
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
export function disposeBatch({ input_ids, position_ids, attention_mask, labels }: Batch): void {
  tf.dispose([input_ids, position_ids, attention_mask, labels])
}
