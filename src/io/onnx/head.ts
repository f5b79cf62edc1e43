/** Classification heads in an ONNX graph: any number of layers, on the first token, the pooler, or the tokens' mean. */
import type { ClassificationHeadConfig } from '../../config.ts'
import { classifierHead } from '../foldedWeights.ts'
import { activation } from './activations.ts'
import { FLOAT, type Value } from './graph.ts'
import { adapterLinear, length, linear, slice, type Build } from './layers.ts'

/** x [B,S,H] -> logits [B,C]. Throws without a classification head, and for a pooler that the base does not have. */
export async function classificationHead(build: Build, x: Value): Promise<Value> {
  const { graph, bundle } = build
  const { name } = bundle
  const head = classifierHead(bundle)
  let y = await pooled(build, head, x)
  // Modules of the library's head: dropout, Linear and, but for the last, an activation, counted through.
  const step = head.activation_function ? 3 : 2
  for (let i = 0; i < head.layers; i++) {
    y = adapterLinear(build, y, `heads.${name}.${1 + i * step}`)
    if (i < head.layers - 1) y = activation(graph, head.activation_function || null, y)
  }
  return y
}

/** x [B,S,H] -> [B,H] */
async function pooled(build: Build, head: ClassificationHeadConfig, x: Value): Promise<Value> {
  const { graph, weights } = build
  if (!head.use_pooler && head.pooling === 'mean') return meanOfTokens(build, x)
  const first = graph.node('Squeeze', [slice(graph, x, 1, 0, 1), graph.integers([1])])
  if (!head.use_pooler) return first
  const [weight, bias] = [
    await weights.extra('roberta.pooler.dense.weight'),
    await weights.extra('roberta.pooler.dense.bias'),
  ]
  if (!weight || !bias)
    throw new Error(
      'This head reads the pooler, which the base model’s file does not have; it cannot be exported as ONNX.',
    )
  const dense = { weight: weight.data, bias: bias.data, inputs: weight.shape[1]! }
  return graph.node('Tanh', [linear(graph, first, 'roberta.pooler.dense', dense)])
}

/** The mean of the tokens that attention_mask keeps; rows that a prompt put in front do not count. */
function meanOfTokens({ graph, attention_mask }: Build, x: Value): Value {
  const own = length(graph, attention_mask, 1)
  const start = graph.node('Sub', [length(graph, x, 1), own])
  const texts = graph.node('Slice', [x, start, graph.integers([2 ** 31 - 1]), graph.integers([1])])
  const kept = graph.node('Cast', [attention_mask], { to: FLOAT })
  const counted = graph.node('Mul', [texts, graph.node('Unsqueeze', [kept, graph.integers([2])])])
  const axes = graph.integers([1])
  const total = graph.node('ReduceSum', [counted, axes], { keepdims: 0 })
  return graph.node('Div', [total, graph.node('ReduceSum', [kept, axes], { keepdims: 1 })])
}
