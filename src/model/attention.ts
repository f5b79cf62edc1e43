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
  const { ops, base, B } = walk
  const { hidden_size: H, num_attention_heads: N, attention_probs_dropout_prob: rate } = base
  const heads = (site: LinearSite, frozen: Linear) =>
    ops.tape.scope(() => ops.splitHeads(linearAt(walk, site, x, frozen), B, N))
  const q = heads('query', query) // [B,N,S,D]
  const own = { k: heads('key', key), v: heads('value', value), attention_mask: walk.attention_mask }
  const prefixed = walk.place('keyValues')?.(walk, x, own.k, own.v) ?? own // [B,N,P+S,D]
  const scale = 1 / Math.sqrt(H / N)
  return ops.mergeHeads(ops.attention(q, prefixed.k, prefixed.v, prefixed.attention_mask, scale, rate))
}

/** A frozen linear layer and what the active method does to it: x [M,in] -> [M,out]. */
export function linearAt(walk: ModelWalk, site: LinearSite, x: Matrix, frozen: Linear): Matrix {
  const change = walk.place('linear')
  return change ? change(walk, site, x, frozen) : walk.ops.linear(x, frozen.weight, frozen.bias)
}
