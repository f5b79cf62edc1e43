/**
 * Bottleneck adapters in an ONNX graph: every switch of the library's BnConfig, parallel ones, Compacter's products
 * (multiplied out into plain matrices) and NICE blocks behind the embeddings.
 */
import type { AdapterBundle, BnConfig } from '../../config.ts'
import { childConfigs } from '../../methods/union.ts'
import { activation } from './activations.ts'
import type { Value } from './graph.ts'
import {
  adapterLinear, gate, layerNorm, linear, slice, tensor, transposed, type Build, type Norm, type Values,
} from './layers.ts' // prettier-ignore

/** torch.nn.LayerNorm's own epsilon, which the adapter's norms have whatever the model's is. */
const newNormEps = 1e-5

type Site = 'attention.output' | 'output'

function configAt({ bundle, skip_layers }: Build, site: Site, layer: number): BnConfig | null {
  if (skip_layers.includes(layer)) return null
  const flag = site === 'output' ? 'output_adapter' : 'mh_adapter'
  for (const config of childConfigs(bundle.adapter))
    if (config.architecture === null && config[flag] && !config.leave_out.includes(layer)) return config
  return null
}

/** h (after dense) and u (the residual) -> the sub-layer's output, its LayerNorm included. */
export function sublayer(build: Build, site: Site, layer: number, h: Value, u: Value, norm: Norm): Value {
  const { graph, bundle } = build
  const sum = () => graph.node('Add', [h, u])
  const config = configAt(build, site, layer)
  if (!config) return norm(sum())
  const path = `roberta.encoder.layer.${layer}.${site}.adapters.${bundle.name}`
  if (config.is_parallel) {
    const after = ownNorm(build, config, path, bottleneck(build, config, path, u))
    const joined = graph.node('Add', [h, after])
    return config.original_ln_after ? norm(graph.node('Add', [joined, u])) : joined
  }
  let x = h
  let residual = h
  if (config.original_ln_before) {
    x = sum()
    if (config.residual_before_ln === 'post_add') residual = x
    x = norm(x)
  }
  if (config.residual_before_ln === false) residual = x
  const inner = bottleneck(build, config, path, x)
  const out = config.adapter_residual_before_ln
    ? ownNorm(build, config, path, graph.node('Add', [inner, residual]))
    : graph.node('Add', [ownNorm(build, config, path, inner), residual])
  return config.original_ln_after ? norm(graph.node('Add', [out, u])) : out
}

function ownNorm(build: Build, config: BnConfig, path: string, x: Value): Value {
  return config.ln_after ? newNorm(build, `${path}.adapter_norm_after`)(x) : x
}

function newNorm({ graph, bundle }: Build, path: string): Norm {
  const [weight, bias] = [tensor(bundle, `${path}.weight`).data, tensor(bundle, `${path}.bias`).data]
  return layerNorm(graph, path, { weight, bias, eps: newNormEps })
}

/** Up(act(Down(x))) scaled and gated, without any residual. */
function bottleneck(build: Build, config: BnConfig, path: string, x: Value): Value {
  const { graph } = build
  const normed = config.ln_before ? newNorm(build, `${path}.adapter_norm_before`)(x) : x
  const down = project(build, config, normed, `${path}.adapter_down.${config.ln_before ? 1 : 0}`, 'down')
  const up = project(build, config, activation(graph, config.non_linearity, down), `${path}.adapter_up`, 'up')
  const scaled = scale(build, config, path, up)
  if (!config.use_gating) return scaled
  return graph.node('Mul', [scaled, gate(build, x, `${path}.gate`)])
}

function scale({ graph, bundle }: Build, { scaling }: BnConfig, path: string, x: Value): Value {
  if (scaling === 1) return x
  if (typeof scaling === 'number') return graph.node('Mul', [x, graph.scalar(scaling)])
  const { shape, data } = tensor(bundle, `${path}.scaling`)
  return graph.node('Mul', [x, graph.weight(`${path}.scaling`, shape, data)])
}

function project(build: Build, config: BnConfig, x: Value, path: string, position: 'down' | 'up'): Value {
  if (!config.phm_layer) return adapterLinear(build, x, path)
  const { weight, inputs } = phmWeight(build.bundle, config, path, position)
  const bias = config.phm_bias ? tensor(build.bundle, `${path}.b`).data : null
  return linear(build.graph, x, path, { weight, bias, inputs })
}

interface Stack {
  /** [n,rows,columns] */
  data: Values
  rows: number
  columns: number
}

/** Σ kron(rule[i], W[i]) turned into a Linear's weight [out,in]. */
function phmWeight(bundle: AdapterBundle, config: BnConfig, path: string, position: 'down' | 'up') {
  const shared = `roberta.shared_parameters.${bundle.name}`
  const own = (name: string, isShared: boolean) => (isShared ? `${shared}.${name}` : `${path}.${name}`)
  const w = config.shared_W_phm ? `W_${position}` : 'W'
  const W = stack(bundle, own(w, config.shared_W_phm), config.factorized_phm_W, config.phm_dim)
  const rule = stack(
    bundle,
    own('phm_rule', config.shared_phm_rule),
    config.factorized_phm_rule,
    config.phm_dim,
  )
  const n = config.phm_dim
  const [inputs, out] = [n * W.rows, n * W.columns]
  const sums = new Float64Array(inputs * out)
  for (let i = 0; i < n; i++)
    for (let a = 0; a < n; a++)
      for (let c = 0; c < n; c++) {
        const factor = rule.data[(i * n + a) * n + c]!
        for (let r = 0; r < W.rows; r++) {
          const from = (i * W.rows + r) * W.columns
          const to = (a * W.rows + r) * out + c * W.columns
          for (let s = 0; s < W.columns; s++) sums[to + s]! += factor * W.data[from + s]!
        }
      }
  return { weight: transposed(Float32Array.from(sums), inputs, out), inputs }
}

/** A stack of n matrices, as it stands or as the products of `_left` and `_right`. */
function stack(bundle: AdapterBundle, key: string, factorized: boolean, n: number): Stack {
  if (!factorized) {
    const { shape, data } = tensor(bundle, key)
    return { data, rows: shape[1]!, columns: shape[2]! }
  }
  const [left, right] = [tensor(bundle, `${key}_left`), tensor(bundle, `${key}_right`)]
  const [, rows, rank] = left.shape as [number, number, number]
  const columns = right.shape[2]!
  const data = new Float32Array(n * rows * columns)
  for (let i = 0; i < n; i++)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) {
        let sum = 0
        for (let k = 0; k < rank; k++)
          sum += left.data[(i * rows + r) * rank + k]! * right.data[(i * rank + k) * columns + c]!
        data[(i * rows + r) * columns + c] = sum
      }
  return { data, rows, columns }
}

/** NICE behind the embeddings: y1 = x1 + F(x2), y2 = x2 + G(y1). */
export function invertible(build: Build, x: Value): Value {
  const { graph, bundle, config: base } = build
  const config = childConfigs(bundle.adapter).find(
    (child) => child.architecture === null && child.inv_adapter !== null,
  )
  if (!config || config.architecture !== null) return x
  const half = base.hidden_size / 2
  const path = `roberta.invertible_adapters.${bundle.name}`
  const block = (name: 'F' | 'G', input: Value) => {
    const inner = activation(graph, config.non_linearity, adapterLinear(build, input, `${path}.${name}.0`))
    return adapterLinear(build, inner, `${path}.${name}.2`)
  }
  const [x1, x2] = [slice(graph, x, 2, 0, half), slice(graph, x, 2, half, half)]
  const y1 = graph.node('Add', [x1, block('F', x2)])
  const y2 = graph.node('Add', [x2, block('G', y1)])
  return graph.node('Concat', [y1, y2], { axis: 2 })
}
