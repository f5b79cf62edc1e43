/** The walk through embeddings and layers, and what of its end each head reads. */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterSetup, ModelSetup } from '../config.ts'
import { namesIn } from '../methods/composition.ts'
import { cuttable } from '../methods/padding.ts'
import { childConfigs } from '../methods/registry.ts'
import type { Batch } from './batch.ts'
import type { HeadInput } from './heads/head.ts'
import { readingOf } from './heads/reading.ts'
import { forwardLayer } from './layer.ts'
import type { Matrix } from './ops.ts'
import { embed, type Weights } from './roberta.ts'
import { constant } from './tape.ts'
import type { ModelWalk } from './walk.ts'

/** What heads read of the last layer: every token, or the first of each text. */
export type Reads = 'all' | 'first'

/**
 * What a setup's heads read. Where that is the first token alone, the last layer's attention is the last that needs the
 * others: what comes after it works on one row a text, unless a method there tells tokens apart.
 */
export function readBy({ adapters, active, heads, active_heads }: ModelSetup): Reads {
  const first = active_heads.every((name) => readingOf(heads[name]!) === 'first')
  const configs = namesIn(active).flatMap((name) => childConfigs(adapters[name]!))
  const apart = configs.some(
    ({ architecture }) => architecture === 'reft' || architecture === 'prompt_tuning',
  )
  return first && !apart && cuttable({ adapters, active }) === 'freely' ? 'first' : 'all'
}

/**
 * Embeddings and layers, from where the batch starts and below layer `end`: [B·S,H], or [B,H] where the first tokens are
 * all that is read of the last layer; the walk's rows then have one token.
 */
export function encode(
  walk: ModelWalk,
  weights: Weights,
  batch: Batch,
  {
    onState = () => {},
    end = weights.encoder.layer.length,
    reads = 'all',
  }: { onState?: (x: Matrix) => void; end?: number; reads?: Reads } = {},
): Matrix {
  const { tape, ops } = walk
  const { start } = batch
  const last = reads === 'first' ? weights.encoder.layer.length - 1 : -1
  let x: Matrix = start ? constant(start.x) : embedded(walk, weights, batch)
  onState(x)
  for (const [l, layer] of [...weights.encoder.layer.entries()].slice(start?.layers ?? 0, end)) {
    const [input, { S }] = [x, walk]
    const run = () => {
      Object.assign(walk, { layer: l, S })
      ops.at(l)
      return tape.scope(() => forwardLayer(walk, layer, input, l === last))
    }
    const next = walk.saving.recompute ? tape.recomputed(input, run) : run()
    tape.release(x)
    x = next
    onState(x)
  }
  ops.at(end)
  return x
}

/** The embedded batch, once for each adapter that runs in parallel, with what methods put around it. */
function embedded(walk: ModelWalk, weights: Weights, batch: Batch): Matrix {
  const { ops, tape, replicas } = walk
  const [x] = tape.scope(() => {
    const once = embed(ops, walk.base, weights, batch)
    const all = ops.concat(new Array<Matrix>(replicas).fill(once), 0)
    const changed = walk.place('embeddings')?.(walk, all) ?? all
    return [changed, walk.padding]
  })
  return x as Matrix
}

/**
 * What each active head reads: the last hidden state, or, under Parallel and BatchSplit with a head for each part, its
 * own part of the batch.
 */
export function headInputs(
  walk: ModelWalk,
  { active, active_heads }: ModelSetup,
  x: Matrix,
  batch: Batch,
): HeadInput[] {
  walk.layer = walk.base.num_hidden_layers
  const k = active_heads.length
  if (k > 1 && walk.replicas === k)
    return active_heads.map((_, i) => ({ x: rowsOf(walk, x, i * batch.B, batch.B), batch }))
  const last = outermost(active)
  if (k < 2 || last?.type !== 'BatchSplit' || last.batch_sizes.length !== k)
    return active_heads.map(() => ({ x, batch }))
  let start = 0
  return last.batch_sizes.map((B) => {
    const part = { ...batch, B, labels: tf.slice(batch.labels, start, B) }
    const input = { x: rowsOf(walk, x, start, B), batch: part }
    start += B
    return input
  })
}

/** The hidden states of `count` rows of the batch from `start`. */
function rowsOf({ ops, S }: ModelWalk, x: Matrix, start: number, count: number): Matrix {
  return ops.slice(x, 0, start * S, count * S)
}

/** The block that ends a setup: the last one of a Stack. */
function outermost(setup: AdapterSetup | null): Exclude<AdapterSetup, string> | null {
  if (setup === null || typeof setup === 'string') return null
  return setup.type === 'Stack' ? outermost(setup.children.at(-1) ?? null) : setup
}
