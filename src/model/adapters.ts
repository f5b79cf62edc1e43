/**
 * Which adapter tensors a configuration has, how they start, and how they attach to the sites of each layer. Keys,
 * shapes and initial distributions are those of the `adapters` library (methods/bottleneck.py, methods/lora.py).
 */
import type * as tf from '@tensorflow/tfjs-core'
import type { AdapterConfig, HeadConfig, LoRAConfig, RobertaConfig, TensorMap } from '../config.ts'
import { TorchGenerator } from '../random.ts'
import type { Views } from './params.ts'
import { sites } from './pass.ts'

/** A low-rank update of one linear layer: `scaling · B(A(dropout(x)))`. */
export interface LoRA {
  path: string
  lora_A: tf.Tensor2D // [R,in]
  lora_B: tf.Tensor2D // [out,R]
  scaling: number
  dropout: number
  /** Its dropout site, see pass.ts. */
  site: number
}

/** A sequential bottleneck at a layer's output. */
export interface Bottleneck {
  path: string
  down: { weight: tf.Tensor2D; bias: tf.Tensor1D } // [R,H], [R]
  up: { weight: tf.Tensor2D; bias: tf.Tensor1D } // [H,R], [H]
  dropout: number
}

/** What is attached to one encoder layer, by site. */
export interface LayerAdapters {
  query?: LoRA
  key?: LoRA
  value?: LoRA
  intermediate?: LoRA
  output?: LoRA
  bottleneck?: Bottleneck
}

/** `init_bert_weights` of the library draws with this deviation, whatever the model's own is. */
const bertStd = 0.02

type LinearSite = 'query' | 'key' | 'value' | 'intermediate' | 'output'

const sitePaths: Record<LinearSite, string> = {
  query: 'attention.self.query',
  key: 'attention.self.key',
  value: 'attention.self.value',
  intermediate: 'intermediate.dense',
  output: 'output.dense',
}

const layerPath = (l: number) => `roberta.encoder.layer.${l}`
const bottleneckPath = (l: number, name: string) => `${layerPath(l)}.output.adapters.${name}`
const loraPath = (l: number, site: LinearSite, name: string) =>
  `${layerPath(l)}.${sitePaths[site]}.loras.${name}`

/** `max(int(H // reduction_factor), 1)`, as the library floors it. */
export function bottleneckWidth(hidden_size: number, reduction_factor: number): number {
  return Math.max(Math.floor(hidden_size / reduction_factor), 1)
}

/** Layers that carry the adapter, lowest first. */
export function adaptedLayers(config: RobertaConfig, adapter: AdapterConfig): number[] {
  if (adapter.method === 'head') return []
  return Array.from({ length: config.num_hidden_layers }, (_, l) => l).filter(
    (l) => !adapter.leave_out.includes(l),
  )
}

function loraSites({
  selfattn_lora,
  attn_matrices,
  intermediate_lora,
  output_lora,
}: LoRAConfig): LinearSite[] {
  const sites: LinearSite[] = []
  if (selfattn_lora && attn_matrices.includes('q')) sites.push('query')
  if (selfattn_lora && attn_matrices.includes('k')) sites.push('key')
  if (selfattn_lora && attn_matrices.includes('v')) sites.push('value')
  if (intermediate_lora) sites.push('intermediate')
  if (output_lora) sites.push('output')
  return sites
}

function siteSize(config: RobertaConfig, site: LinearSite): { inputs: number; outputs: number } {
  const { hidden_size: H, intermediate_size: I } = config
  if (site === 'intermediate') return { inputs: H, outputs: I }
  if (site === 'output') return { inputs: I, outputs: H }
  return { inputs: H, outputs: H }
}

/** Key and shape of every adapter tensor, in the order in which the library creates them. */
export function adapterShapes(
  config: RobertaConfig,
  adapter: AdapterConfig,
  name: string,
): [string, number[]][] {
  const shapes: [string, number[]][] = []
  const H = config.hidden_size
  for (const l of adaptedLayers(config, adapter)) {
    if (adapter.method === 'seq_bn') {
      const R = bottleneckWidth(H, adapter.reduction_factor)
      const path = bottleneckPath(l, name)
      shapes.push([`${path}.adapter_down.0.weight`, [R, H]], [`${path}.adapter_down.0.bias`, [R]])
      shapes.push([`${path}.adapter_up.weight`, [H, R]], [`${path}.adapter_up.bias`, [H]])
    }
    if (adapter.method === 'lora')
      for (const site of loraSites(adapter)) {
        const { inputs, outputs } = siteSize(config, site)
        const path = loraPath(l, site, name)
        shapes.push([`${path}.lora_A`, [adapter.r, inputs]], [`${path}.lora_B`, [outputs, adapter.r]])
      }
  }
  return shapes
}

/** Key and shape of the classification head's tensors: `heads.{name}.1` and `heads.{name}.4`. */
export function headShapes(config: RobertaConfig, head: HeadConfig, name: string): [string, number[]][] {
  const { hidden_size: H } = config
  return [
    [`heads.${name}.1.weight`, [H, H]],
    [`heads.${name}.1.bias`, [H]],
    [`heads.${name}.4.weight`, [head.num_labels, H]],
    [`heads.${name}.4.bias`, [head.num_labels]],
  ]
}

/**
 * Fresh adapter and head tensors, draw for draw what the library has after `torch.manual_seed(seed)`, `add_adapter`,
 * `add_classification_head`. Bottleneck and head weights N(0, 0.02) with zero biases ("bert"); lora_A U(±1/√in)
 * (Kaiming, a=√5), lora_B zero.
 */
export function initialise(
  config: RobertaConfig,
  adapter: AdapterConfig,
  head: HeadConfig,
  name: string,
  seed: number,
): TensorMap {
  const generator = new TorchGenerator(seed)
  const tensors: TensorMap = new Map()
  const shapes = adapterShapes(config, adapter, name)
  if (adapter.method === 'lora')
    for (const [key, shape] of shapes) {
      const bound = 1 / Math.sqrt(shape[1]!)
      const size = sizeOf(shape)
      const data = key.endsWith('lora_A') ? generator.uniform(size, -bound, bound) : new Float32Array(size)
      tensors.set(key, { shape, data })
    }
  else
    for (let i = 0; i < shapes.length; i += 4)
      drawLinears(generator, shapes.slice(i, i + 4), bertStd, tensors)
  drawLinears(generator, headShapes(config, head, name), config.initializer_range, tensors)
  return tensors
}

/** Linear layers made together: each is born with uniform values, thrown away, then all weights are drawn again. */
function drawLinears(
  generator: TorchGenerator,
  shapes: [string, number[]][],
  std: number,
  tensors: TensorMap,
): void {
  for (const [, shape] of shapes) generator.uniform(sizeOf(shape))
  for (const [key, shape] of shapes) {
    const size = sizeOf(shape)
    tensors.set(key, {
      shape,
      data: key.endsWith('weight') ? generator.normal(size, 0, std) : new Float32Array(size),
    })
  }
}

function sizeOf(shape: number[]): number {
  return shape.reduce((a, b) => a * b, 1)
}

/** The current adapter tensors, arranged by layer and site for the forward and backward walk. */
export function attach(
  config: RobertaConfig,
  adapter: AdapterConfig,
  name: string,
  views: Views,
): LayerAdapters[] {
  const layers: LayerAdapters[] = Array.from({ length: config.num_hidden_layers }, () => ({}))
  const view = <T extends tf.Tensor>(key: string): T => {
    const tensor = views.get(key)
    if (!tensor) throw new Error(`The adapter tensor ${key} was never loaded.`)
    return tensor as T
  }
  for (const l of adaptedLayers(config, adapter)) {
    const layer = layers[l]!
    if (adapter.method === 'seq_bn') {
      const path = bottleneckPath(l, name)
      layer.bottleneck = {
        path,
        down: { weight: view(`${path}.adapter_down.0.weight`), bias: view(`${path}.adapter_down.0.bias`) },
        up: { weight: view(`${path}.adapter_up.weight`), bias: view(`${path}.adapter_up.bias`) },
        dropout: adapter.dropout,
      }
    }
    if (adapter.method === 'lora')
      for (const site of loraSites(adapter)) {
        const path = loraPath(l, site, name)
        layer[site] = {
          path,
          lora_A: view(`${path}.lora_A`),
          lora_B: view(`${path}.lora_B`),
          scaling: adapter.alpha / adapter.r,
          dropout: adapter.dropout,
          site: sites[site === 'output' ? 'ffn' : site],
        }
      }
  }
  return layers
}
