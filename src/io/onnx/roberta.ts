/**
 * RoBERTa with an adapter and a classification head as one ONNX graph: `input_ids` and `attention_mask` (int64 [B,S],
 * both dimensions free) in, `logits` (float32 [B,C]) out. Built weight by weight, so that the base is never in memory
 * whole.
 */
import type { AdapterBundle } from '../../config.ts'
import { classifierHead, foldedWeights, type BaseModel } from '../foldedWeights.ts'
import { activation } from './activations.ts'
import {
  adaptedLinear,
  additiveMask,
  intervened,
  prefixesOf,
  withPrefix,
  withPrompt,
  type Prefixes,
} from './attachments.ts'
import { invertible, sublayer } from './bottleneck.ts'
import { FLOAT, INT64, OnnxGraph, type Value } from './graph.ts'
import { classificationHead } from './head.ts'
import { baseLinear, baseNorm, slice, toInt64, type Build } from './layers.ts'

/** The finished graph; see OnnxGraph.finish for its bytes. Throws when a tensor is missing or something has no counterpart. */
export async function classifierGraph(
  base: BaseModel,
  bundle: AdapterBundle,
  skip_layers: number[],
): Promise<OnnxGraph> {
  const graph = new OnnxGraph('roberta')
  const shape = ['batch_size', 'sequence_length']
  const input_ids = graph.input({ name: 'input_ids', dtype: INT64, shape })
  const attention_mask = graph.input({ name: 'attention_mask', dtype: INT64, shape })
  const weights = foldedWeights(base.config, base.weights, bundle, skip_layers)
  const mask = additiveMask({ graph, attention_mask })
  const build: Build = { graph, config: base.config, bundle, weights, attention_mask, mask, skip_layers }
  let x = invertible(build, await embeddings(build, input_ids))
  const prompted = withPrompt(build, x)
  x = prompted.x
  build.mask = prompted.mask
  const prefixes = prefixesOf(build)
  for (let layer = 0; layer < base.config.num_hidden_layers; layer++)
    x = intervened(build, layer, await encoderLayer(build, prefixes, layer, x))
  const logits = await classificationHead(build, x)
  const { num_labels } = classifierHead(bundle)
  graph.output(logits, { name: 'logits', dtype: FLOAT, shape: ['batch_size', num_labels] })
  return graph
}

/** Words, positions and the one token type, and their LayerNorm: [B,S] -> [B,S,H]. */
async function embeddings(build: Build, input_ids: Value): Promise<Value> {
  const { graph, config, weights } = build
  const path = 'roberta.embeddings'
  const store = async (key: string) => graph.weight(key, weights.shapes.get(key)!, await weights.read(key))
  const words = await store(`${path}.word_embeddings.weight`)
  const types = await store(`${path}.token_type_embeddings.weight`)
  const places = await store(`${path}.position_embeddings.weight`)
  // Positions count the tokens that are not padding, from one past the padding id on.
  const pad = graph.integer(config.pad_token_id)
  const real = toInt64(graph, graph.node('Not', [graph.node('Equal', [input_ids, pad])]))
  const counted = graph.node('Mul', [graph.node('CumSum', [real, graph.integer(1)]), real])
  const position_ids = graph.node('Add', [counted, pad])
  const first = slice(graph, types, 0, 0, 1)
  const words_types = graph.node('Add', [graph.node('Gather', [words, input_ids], { axis: 0 }), first])
  const sum = graph.node('Add', [words_types, graph.node('Gather', [places, position_ids], { axis: 0 })])
  const norm = await baseNorm(build, `${path}.LayerNorm`)
  return norm(sum)
}

/** One encoder layer with all that is attached to it: [B,S,H] -> [B,S,H]. */
async function encoderLayer(
  build: Build,
  prefixes: Prefixes | null,
  layer: number,
  x: Value,
): Promise<Value> {
  const { graph, config } = build
  const path = `roberta.encoder.layer.${layer}`
  const attended = await attention(build, prefixes, layer, x)
  const h = await baseLinear(build, attended, `${path}.attention.output.dense`)
  const norm = await baseNorm(build, `${path}.attention.output.LayerNorm`)
  const y = sublayer(build, 'attention.output', layer, h, x, norm)
  const inner = activation(
    graph,
    config.hidden_act,
    await adaptedLinear(build, layer, 'intermediate.dense', y),
  )
  const f = await adaptedLinear(build, layer, 'output.dense', inner)
  return sublayer(build, 'output', layer, f, y, await baseNorm(build, `${path}.output.LayerNorm`))
}

/** softmax(q·kᵀ/√D + mask)·v with N heads: [B,S,H] -> [B,S,H]. */
async function attention(build: Build, prefixes: Prefixes | null, layer: number, x: Value): Promise<Value> {
  const { graph, config } = build
  const N = config.num_attention_heads
  const D = config.hidden_size / N
  const heads = async (site: string) => {
    const flat = await adaptedLinear(build, layer, `attention.self.${site}`, x)
    const split = graph.node('Reshape', [flat, graph.integers([0, 0, N, D])])
    return graph.node('Transpose', [split], { perm: [0, 2, 1, 3] }) // [B,N,S,D]
  }
  const q = await heads('query')
  const own = { k: await heads('key'), v: await heads('value') }
  const { k, v, mask } = withPrefix(build, prefixes, layer, x, own)
  const turned = graph.node('Transpose', [k], { perm: [0, 1, 3, 2] })
  const scores = graph.node('Mul', [graph.node('MatMul', [q, turned]), graph.scalar(1 / Math.sqrt(D))])
  const p = graph.node('Softmax', [graph.node('Add', [scores, mask])], { axis: -1 })
  const joined = graph.node('Transpose', [graph.node('MatMul', [p, v])], { perm: [0, 2, 1, 3] })
  return graph.node('Reshape', [joined, graph.integers([0, 0, config.hidden_size])])
}
