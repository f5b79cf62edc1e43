/**
 * Adapters of other shapes in an ONNX graph: gated LoRA and (IA)³, prefix tuning (its small network multiplied out
 * beforehand), prompt tuning, and ReFT's interventions. What has no gate is folded into the weights instead.
 */
import type { PrefixTuningConfig, ReftConfig } from '../../config.ts'
import { childConfigs } from '../../methods/union.ts'
import { loraUpdates, merge } from '../foldedWeights.ts'
import { activation, hostActivation } from './activations.ts'
import { FLOAT, type Value } from './graph.ts'
import {
  adapterLinear, baseLinear, countTo, filled, gate, length, linear, slice, tensor, toInt64, type Build, type Values,
} from './layers.ts' // prettier-ignore
import { projectionOf } from './reftProjection.ts'

/** A linear layer of the base with the gated LoRA, DoRA or (IA)³ that stands on it: x [B,S,in] -> [B,S,out]. */
export async function adaptedLinear(build: Build, layer: number, site: string, x: Value): Promise<Value> {
  const { graph, bundle, weights, config: base, skip_layers } = build
  const path = `roberta.encoder.layer.${layer}.${site}`
  const y = await baseLinear(build, x, path)
  const update = loraUpdates(base, bundle, skip_layers, false).get(path)
  if (!update) return y
  const { config, path: at, inputs, outputs } = update
  const g = gate(build, x, `${at}.gate`)
  const b = tensor(bundle, `${at}.lora_B`).data
  if (config.composition_mode === 'scale') {
    const factor = graph.node('Mul', [graph.weight(`${at}.lora_B`, [outputs], b), g])
    return graph.node('Mul', [y, factor])
  }
  const a = tensor(bundle, `${at}.lora_A`).data
  const low = linear(graph, x, `${at}.lora_A`, { weight: a, bias: null, inputs })
  const delta = linear(graph, low, `${at}.lora_B`, { weight: b, bias: null, inputs: config.r })
  const sum = graph.node('Add', [y, graph.node('Mul', [delta, g])])
  if (!config.use_dora) return sum
  // What DoRA makes of a bias of ones is what it multiplies each output by.
  const ones = new Float32Array(outputs).fill(1)
  const { bias } = merge(bundle, update, await weights.read(`${path}.weight`), ones)
  return graph.node('Mul', [sum, graph.weight(`${at}.row_factors`, [outputs], bias.data as Values)])
}

/** Keys and values of every layer that carries a prefix, [2N,heads·P·D], computed once for the whole graph. */
export interface Prefixes {
  config: PrefixTuningConfig
  /** Layers with a prefix, in order. */
  layers: number[]
  /** [P,2N,H] */
  keyValues: Float32Array
}

/** The prefixes of the adapter; null when it has none. */
export function prefixesOf({ bundle, config: base }: Build): Prefixes | null {
  const config = childConfigs(bundle.adapter).find((child) => child.architecture === 'prefix_tuning')
  if (!config || config.architecture !== 'prefix_tuning' || !config.encoder_prefix) return null
  const all = Array.from({ length: base.num_hidden_layers }, (_, l) => l)
  const layers = all.filter((l) => !config.leave_out.includes(l))
  const path = `roberta.prefix_tuning.prefix_tunings.${bundle.name}.self_prefix`
  if (config.flat) return { config, layers, keyValues: tensor(bundle, `${path}.control_trans`).data }
  const wte = tensor(bundle, `${path}.wte.weight`).data
  const part = (index: 0 | 2) => {
    const at = `${path}.control_trans.${index}`
    return { weight: tensor(bundle, `${at}.weight`), bias: tensor(bundle, `${at}.bias`).data }
  }
  const apply = hostActivation(config.non_linearity)
  const hidden = affine(wte, part(0)).map(apply)
  return { config, layers, keyValues: affine(hidden, part(2)) }
}

/** rows [P,in] -> [P,out] with weight [out,in], summed in double precision. */
function affine(
  rows: ArrayLike<number>,
  { weight, bias }: { weight: { shape: number[]; data: Values }; bias: Values },
): Float32Array {
  const [out, inputs] = weight.shape as [number, number]
  const count = rows.length / inputs
  const result = new Float32Array(count * out)
  for (let p = 0; p < count; p++)
    for (let o = 0; o < out; o++) {
      let sum = bias[o]!
      for (let i = 0; i < inputs; i++) sum += weight.data[o * inputs + i]! * rows[p * inputs + i]!
      result[p * out + o] = sum
    }
  return result
}

/** Keys and values [B,N,S,D] of a layer with its prefix in front, and the mask that goes with them. */
export function withPrefix(
  build: Build,
  prefixes: Prefixes | null,
  layer: number,
  x: Value,
  { k, v }: { k: Value; v: Value },
): { k: Value; v: Value; mask: Value } {
  const { graph, bundle, mask } = build
  const index = prefixes?.layers.indexOf(layer) ?? -1
  if (!prefixes || index < 0 || build.skip_layers.includes(layer)) return { k, v, mask }
  const P = prefixes.config.prefix_length
  const path = `roberta.encoder.layer.${layer}.attention.self.prefix_tuning`
  const stored = (name: 'keys' | 'values', at: number) => {
    const { shape, data } = prefixOf(build, prefixes, at)
    return graph.weight(`${path}.${name}.${bundle.name}`, shape, data)
  }
  let [front, behind] = [stored('keys', 2 * index), stored('values', 2 * index + 1)]
  if (prefixes.config.use_gating) {
    const g = gate(build, x, `${path}.prefix_gates.${bundle.name}`) // [B,1,1|2]
    const outputs = prefixes.config.shared_gating ? 1 : 2
    const factor = (at: number) => graph.node('Unsqueeze', [slice(graph, g, 2, at, 1), graph.integers([1])])
    front = graph.node('Mul', [front, factor(0)])
    behind = graph.node('Mul', [behind, factor(outputs - 1)])
  } else {
    const dims = graph.node('Concat', [length(graph, k, 0), graph.integers([1, 1, 1])], { axis: 0 })
    front = graph.node('Expand', [front, dims])
    behind = graph.node('Expand', [behind, dims])
  }
  const visible = filled(graph, 0, [slice(graph, graph.node('Shape', [mask]), 0, 0, 3), graph.integers([P])])
  return {
    k: graph.node('Concat', [front, k], { axis: 2 }),
    v: graph.node('Concat', [behind, v], { axis: 2 }),
    mask: graph.node('Concat', [visible, mask], { axis: 3 }),
  }
}

/** One of the 2N slices of [P,2N,H], as [1,heads,P,D]. */
function prefixOf({ config: base }: Build, { config, layers, keyValues }: Prefixes, at: number) {
  const [P, H, N] = [config.prefix_length, base.hidden_size, base.num_attention_heads]
  const D = H / N
  const data = new Float32Array(P * H)
  for (let p = 0; p < P; p++)
    for (let h = 0; h < N; h++) {
      const from = (p * 2 * layers.length + at) * H + h * D
      data.set(keyValues.subarray(from, from + D), (h * P + p) * D)
    }
  return { shape: [1, N, P, D], data }
}

/** Prompt rows among the embedded text x [B,S,H], and the mask that then holds; both as they are without a prompt. */
export function withPrompt(build: Build, x: Value): { x: Value; mask: Value } {
  const { graph, bundle, mask } = build
  const config = childConfigs(bundle.adapter).find((child) => child.architecture === 'prompt_tuning')
  if (!config || config.architecture !== 'prompt_tuning') return { x, mask }
  const key = `roberta.prompt_tuning.prompt_tunings.${bundle.name}.prompt_embedding.weight`
  const { shape, data } = tensor(bundle, key)
  const P = shape[0]!
  const dims = graph.node('Concat', [length(graph, x, 0), graph.integers([1, 1])], { axis: 0 })
  const prompt = graph.node('Expand', [graph.weight(key, [1, ...shape], data), dims])
  const rows =
    config.combine === 'prefix'
      ? [prompt, x]
      : [slice(graph, x, 1, 0, 1), prompt, slice(graph, x, 1, 1, null)]
  // As in the library, the first P queries of a longer batch see its padding, and everyone sees the first P keys.
  const [B, S] = [length(graph, mask, 0), length(graph, mask, 3)]
  const one = graph.integers([1])
  const prompted = graph.integers([P])
  const texts = graph.node('Expand', [mask, graph.node('Concat', [B, one, S, S], { axis: 0 })])
  const below = graph.node('Concat', [filled(graph, 0, [B, one, S, prompted]), texts], { axis: 3 })
  const longer = graph.node('Add', [S, prompted])
  const above = filled(graph, 0, [B, one, prompted, longer])
  return {
    x: graph.node('Concat', rows, { axis: 1 }),
    mask: graph.node('Concat', [above, below], { axis: 2 }),
  }
}

/** A layer's output [B,S,H] with ReFT's interventions on its first and last tokens. */
export function intervened(build: Build, layer: number, x: Value): Value {
  const { graph, bundle, skip_layers } = build
  const config = childConfigs(bundle.adapter).find((child) => child.architecture === 'reft')
  if (!config || config.architecture !== 'reft' || !config.output_reft || skip_layers.includes(layer))
    return x
  if (config.layers !== 'all' && !config.layers.includes(layer)) return x
  const { prefix_positions: p, suffix_positions: s } = config
  const path = `roberta.encoder.layer.${layer}.reft_layer.refts.${bundle.name}.units`
  const place = positions(build, x)
  const own = p > 0 || config.tied_weights ? unit(build, config, `${path}.0`, x) : null
  let y = x
  if (p > 0) {
    const end = graph.node('Add', [place.first, graph.integer(p)])
    y = graph.node('Where', [within(build, place.index, place.first, end), own!, y])
  }
  if (s > 0) {
    const moved = config.tied_weights ? own! : unit(build, config, `${path}.1`, x)
    const start = graph.node('Sub', [place.end, graph.integer(s)])
    y = graph.node('Where', [within(build, place.index, start, place.end), moved, y])
  }
  return y
}

/** x + (act(S(x)) - x·Rᵀ)·R for every token. */
function unit(build: Build, config: ReftConfig, path: string, x: Value): Value {
  const { graph, bundle } = build
  const R = projectionOf(bundle, config, path)
  const projection = graph.weight(`${path}.projection`, [R.rows, R.columns], R.data)
  const source = activation(graph, config.non_linearity, adapterLinear(build, x, `${path}.learned_source`))
  const turned = graph.node('Transpose', [projection], { perm: [1, 0] })
  const moved = graph.node('Sub', [source, graph.node('MatMul', [x, turned])])
  return graph.node('Add', [x, graph.node('MatMul', [moved, projection])])
}

/** int64: each token's index [1,S], each row's first token and the one after its last [B,1]. */
function positions({ graph, attention_mask }: Build, x: Value): { index: Value; first: Value; end: Value } {
  const first = graph.node('ArgMax', [attention_mask], { axis: 1, keepdims: 1 })
  const count = graph.node('ReduceSum', [toInt64(graph, attention_mask), graph.integers([1])], {
    keepdims: 1,
  })
  return { index: countTo(graph, length(graph, x, 1)), first, end: graph.node('Add', [first, count]) }
}

/** start <= index < end, as bool [B,S,1]. */
function within({ graph }: Build, index: Value, start: Value, end: Value): Value {
  const after = graph.node('GreaterOrEqual', [index, start])
  const both = graph.node('And', [after, graph.node('Less', [index, end])])
  return graph.node('Unsqueeze', [both, graph.integers([2])])
}

/** (1 - attention_mask)·(most negative float), as [B,1,1,S]: what is added to the scores. */
export function additiveMask({ graph, attention_mask }: Pick<Build, 'graph' | 'attention_mask'>): Value {
  const kept = graph.node('Cast', [attention_mask], { to: FLOAT })
  const hidden = graph.node('Mul', [
    graph.node('Sub', [graph.scalar(1), kept]),
    graph.scalar(-3.4028234663852886e38),
  ])
  return graph.node('Unsqueeze', [hidden, graph.integers([1, 2])])
}
