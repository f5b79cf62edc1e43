/** Multi-head self-attention (transformers `RobertaSelfAttention`) with whatever methods put on its projections. */
import type { LinearSite, LowRank } from '../methods/method.ts'
import type { Matrix } from './ops.ts'
import type { Layer, Linear } from './roberta.ts'
import type { ModelWalk } from './walk.ts'

/** x [B·S,H] -> o [B·S,H], the heads side by side, before the output projection. */
export function selfAttention(
  walk: ModelWalk,
  { query, key, value }: Layer['attention']['self'],
  x: Matrix,
): Matrix {
  const { ops, base, B, padding } = walk
  const { hidden_size: H, num_attention_heads: N, attention_probs_dropout_prob: rate } = base
  const sizes = { B, N, scale: 1 / Math.sqrt(H / N) }
  const keyValues = walk.place('keyValues')
  const prefix = keyValues ? walk.place('prefix')?.(walk) : null
  const updates = prefix === undefined ? null : updatesOf(walk)
  const parts = [query, key, value]
  if (prefix !== undefined && updates && ops.areSideBySide(parts)) {
    const gated = updates.map((update) => update && { ...update, gate: update.gate && update.gate(x) })
    const qkv = ops.projected(x, parts, gated) // [3,B·S,H]
    if (!prefix) return ops.selfAttention(qkv, padding, sizes, rate)
    const gate = prefix.gate && prefix.gate(x)
    return ops.prefixAttention(qkv, { ...prefix, gate }, padding, sizes, rate)
  }
  const q = linearAt(walk, 'query', x, query)
  const k = linearAt(walk, 'key', x, key)
  const v = linearAt(walk, 'value', x, value)
  if (!keyValues) return ops.attention(q, k, v, padding, sizes, rate)
  const own = keyValues(walk, x, ops.splitHeads(k, B, N), ops.splitHeads(v, B, N)) // [B,N,P+S,D]
  return ops.attention(q, own.k, own.v, own.padding, sizes, rate)
}

/** What is added to each projection; null where a method does something else to one. */
function updatesOf(walk: ModelWalk): (LowRank | null)[] | null {
  const updates: (LowRank | null)[] = []
  for (const site of ['query', 'key', 'value'] as const) {
    const update = walk.changes(site) ? walk.place('lowRank')?.(walk, site) : null
    if (update === undefined) return null
    updates.push(update)
  }
  return updates
}

/** A frozen linear layer and what the active method does to it: x [M,in] -> [M,out]. */
export function linearAt(walk: ModelWalk, site: LinearSite, x: Matrix, frozen: Linear): Matrix {
  const change = walk.changes(site) && walk.place('linear')
  return change ? change(walk, site, x, frozen) : walk.ops.linear(x, frozen.weight, frozen.bias)
}
