/** Multi-head self-attention (transformers `RobertaSelfAttention`) with whatever methods put on its projections. */
import type { LinearSite } from '../methods/method.ts'
import type { Matrix } from './ops.ts'
import type { Layer, Linear } from './roberta.ts'
import type { ModelWalk } from './walk.ts'

/** x [B·S,H] -> o [B·S,H], the heads side by side, before the output projection. */
export function selfAttention(
  walk: ModelWalk,
  { query, key, value }: Layer['attention']['self'],
  x: Matrix,
): Matrix {
  const { ops, base, B, attention_mask } = walk
  const { hidden_size: H, num_attention_heads: N, attention_probs_dropout_prob: rate } = base
  const sizes = { B, N, scale: 1 / Math.sqrt(H / N) }
  const plain = (['query', 'key', 'value'] as const).every((site) => !walk.changes(site))
  const keyValues = walk.place('keyValues')
  const qkv = plain && !keyValues ? ops.projected(x, [query, key, value]) : null // [3,B·S,H]
  if (qkv) return ops.selfAttention(qkv, attention_mask, sizes, rate)
  const q = linearAt(walk, 'query', x, query)
  const k = linearAt(walk, 'key', x, key)
  const v = linearAt(walk, 'value', x, value)
  if (!keyValues) return ops.attention(q, k, v, attention_mask, sizes, rate)
  const own = keyValues(walk, x, ops.splitHeads(k, B, N), ops.splitHeads(v, B, N)) // [B,N,P+S,D]
  return ops.attention(q, own.k, own.v, own.attention_mask, sizes, rate)
}

/** A frozen linear layer and what the active method does to it: x [M,in] -> [M,out]. */
export function linearAt(walk: ModelWalk, site: LinearSite, x: Matrix, frozen: Linear): Matrix {
  const change = walk.changes(site) && walk.place('linear')
  return change ? change(walk, site, x, frozen) : walk.ops.linear(x, frozen.weight, frozen.bias)
}
