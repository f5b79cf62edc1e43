/** Multi-head self-attention (transformers `RobertaSelfAttention`) over frozen projections, LoRA on any of them. */
import type * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../config.ts'
import { addScaled } from '../kernels/addScaled.ts'
import { maskedSoftmax, mergeHeads, softmaxBackward, splitHeads } from '../kernels/attention.ts'
import { matmul } from '../kernels/matmul.ts'
import type { LayerAdapters } from './adapters.ts'
import { loraLinear, loraLinearBackward } from './lora.ts'
import type { Views } from './params.ts'
import { dropBase, sites, type Pass } from './pass.ts'
import type { Layer } from './roberta.ts'

/** What the backward pass needs: the layer's input, q, k, v by head [B,N,S,D], and p [B,N,S,S] before dropout. */
export type SavedAttention = {
  x: tf.Tensor2D
  q: tf.Tensor4D
  k: tf.Tensor4D
  v: tf.Tensor4D
  p: tf.Tensor4D
}

/** x [B·S,H] -> o [B·S,H], the heads side by side, before the output projection. */
export function selfAttention(
  { config, batch, noise }: Pass,
  { query, key, value }: Layer['attention']['self'],
  x: tf.Tensor2D,
  adapters: LayerAdapters,
): { o: tf.Tensor2D; saved: SavedAttention } {
  const { num_attention_heads: N, attention_probs_dropout_prob: rate } = config
  const q = splitHeads(loraLinear(x, query, adapters.query, noise), batch.B, N) // [B,N,S,D]
  const k = splitHeads(loraLinear(x, key, adapters.key, noise), batch.B, N)
  const v = splitHeads(loraLinear(x, value, adapters.value, noise), batch.B, N)
  const scores = matmul(q, k, false, true) // [B,N,S,S]
  const p = maskedSoftmax(scores, batch.attention_mask, headScale(config))
  const o = matmul(dropBase(noise, p, rate, sites.probs), v) // [B,N,S,D]
  return { o: mergeHeads(o), saved: { x, q, k, v, p } }
}

/** dO [B·S,H] -> LoRA gradients kept in `grads`; with `needInput` also dx [B·S,H]. */
export function selfAttentionBackward(
  { config, batch, noise }: Pass,
  { query, key, value }: Layer['attention']['self'],
  dO: tf.Tensor2D,
  { x, q, k, v, p }: SavedAttention,
  adapters: LayerAdapters,
  needInput: boolean,
  grads: Views,
): tf.Tensor2D | undefined {
  const { num_attention_heads: N, attention_probs_dropout_prob: rate } = config
  const dHeads = splitHeads(dO, batch.B, N) // [B,N,S,D]
  const dV = mergeHeads(matmul(dropBase(noise, p, rate, sites.probs), dHeads, true, false))
  const dP = dropBase(noise, matmul(dHeads, v, false, true), rate, sites.probs) // [B,N,S,S]
  const dScores = softmaxBackward(dP, p, headScale(config))
  const dQ = mergeHeads(matmul(dScores, k))
  const dK = mergeHeads(matmul(dScores, q, true, false))
  const fromQ = loraLinearBackward(dQ, x, query, adapters.query, noise, needInput, grads)
  const fromK = loraLinearBackward(dK, x, key, adapters.key, noise, needInput, grads)
  const fromV = loraLinearBackward(dV, x, value, adapters.value, noise, needInput, grads)
  return fromQ && fromK && fromV && addScaled(addScaled(fromQ, fromK, 1), fromV, 1)
}

/** 1/√D. */
function headScale({ hidden_size, num_attention_heads }: RobertaConfig): number {
  return 1 / Math.sqrt(hidden_size / num_attention_heads)
}
