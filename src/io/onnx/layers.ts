/** The layers that a transformer and its adapters are made of, as ONNX nodes. Values are [B,S,…] unless said otherwise. */
import type { AdapterBundle, RobertaConfig } from '../../config.ts'
import type { FoldedWeights } from '../foldedWeights.ts'
import { INT64, type OnnxGraph, type Value } from './graph.ts'

export type Values = Float32Array<ArrayBuffer>

/** What every part of the graph is built from. */
export interface Build {
  graph: OnnxGraph
  config: RobertaConfig
  bundle: AdapterBundle
  weights: FoldedWeights
  /** int64 [B,S], as given: 1 for the text's tokens. */
  attention_mask: Value
  /** float32, added to the scores: [B,1,1,S], or [B,1,S,S] where queries see different keys. */
  mask: Value
  /** Layers whose adapters are passed by. */
  skip_layers: number[]
}

/** x·weightᵀ + bias with weight [out,in] as PyTorch has it; stored turned round, as MatMul reads it. */
export function linear(
  graph: OnnxGraph,
  x: Value,
  name: string,
  { weight, bias, inputs }: { weight: Values; bias: Values | null; inputs: number },
): Value {
  const out = weight.length / inputs
  const turned = graph.weight(`${name}.weight.T`, [inputs, out], transposed(weight, out, inputs))
  const y = graph.node('MatMul', [x, turned])
  return bias ? graph.node('Add', [y, graph.weight(`${name}.bias`, [out], bias)]) : y
}

/** A linear layer of the base, with what is folded into it. */
export async function baseLinear({ graph, weights }: Build, x: Value, path: string): Promise<Value> {
  const [, inputs] = weights.shapes.get(`${path}.weight`) as [number, number]
  const [weight, bias] = [await weights.read(`${path}.weight`), await weights.read(`${path}.bias`)]
  return linear(graph, x, path, { weight, bias, inputs })
}

/** A LayerNorm; its weight and bias are stored when it is first used, and once however often that is. */
export type Norm = (x: Value) => Value

/** A norm from `path.weight` and `path.bias`, [H] each. */
export function layerNorm(
  graph: OnnxGraph,
  path: string,
  { weight, bias, eps }: { weight: Values; bias: Values; eps: number },
): Norm {
  const store = (key: string, data: Values) => graph.hasWeight(key) ?? graph.weight(key, [data.length], data)
  return (x) => {
    const inputs = [x, store(`${path}.weight`, weight), store(`${path}.bias`, bias)]
    return graph.node('LayerNormalization', inputs, { axis: -1, epsilon: { float: eps } })
  }
}

export async function baseNorm({ graph, weights, config }: Build, path: string): Promise<Norm> {
  const [weight, bias] = [await weights.read(`${path}.weight`), await weights.read(`${path}.bias`)]
  return layerNorm(graph, path, { weight, bias, eps: config.layer_norm_eps })
}

/** A gate's mean over all tokens, padding included: x [B,S,in] -> [B,1,outputs]. */
export function gate({ graph, bundle }: Build, x: Value, path: string): Value {
  const weight = tensor(bundle, `${path}.weight`)
  const bias = tensor(bundle, `${path}.bias`)
  const logits = linear(graph, x, path, {
    weight: weight.data,
    bias: bias.data,
    inputs: weight.shape.at(-1)!,
  })
  return graph.node('ReduceMean', [graph.node('Sigmoid', [logits])], { axes: [1], keepdims: 1 })
}

/** A tensor of the adapter; the array is the caller's. Throws when the bundle has none. */
export function tensor({ tensors, name }: AdapterBundle, key: string): { shape: number[]; data: Values } {
  const found = tensors.get(key)
  if (!found) throw new Error(`The adapter “${name}” has no tensor ${key}; it cannot be exported.`)
  return { shape: found.shape, data: Float32Array.from(found.data) }
}

/** Linear of the adapter's own, by its path. */
export function adapterLinear({ graph, bundle }: Build, x: Value, path: string): Value {
  const weight = tensor(bundle, `${path}.weight`)
  const bias = bundle.tensors.has(`${path}.bias`) ? tensor(bundle, `${path}.bias`).data : null
  return linear(graph, x, path, { weight: weight.data, bias, inputs: weight.shape.at(-1)! })
}

/** `size` entries of an axis from `start`; up to the end when `size` is null. */
export function slice(graph: OnnxGraph, x: Value, axis: number, start: number, size: number | null): Value {
  const end = size === null ? 2 ** 31 - 1 : start + size
  const list = (value: number) => graph.integers([value])
  return graph.node('Slice', [x, list(start), list(end), list(axis)])
}

/** The number of entries of an axis, as int64 [1]. */
export function length(graph: OnnxGraph, x: Value, axis: number): Value {
  return graph.node('Gather', [graph.node('Shape', [x]), graph.integers([axis])], { axis: 0 })
}

/** `value` everywhere in a float32 tensor whose dimensions are the int64 lists `dims`, one after another. */
export function filled(graph: OnnxGraph, value: number, dims: Value[]): Value {
  return graph.node('Expand', [graph.scalar(value), graph.node('Concat', dims, { axis: 0 })])
}

/** 0, 1, 2, … up to an int64 [1], as int64 [1,n]. */
export function countTo(graph: OnnxGraph, n: Value): Value {
  const limit = graph.node('Squeeze', [n, graph.integers([0])])
  const range = graph.node('Range', [graph.integer(0), limit, graph.integer(1)])
  return graph.node('Unsqueeze', [range, graph.integers([0])])
}

export function toInt64(graph: OnnxGraph, x: Value): Value {
  return graph.node('Cast', [x], { to: INT64 })
}

/** [rows,columns] -> [columns,rows] */
export function transposed(data: Values, rows: number, columns: number): Values {
  const out = new Float32Array(data.length)
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c]!
  return out
}
