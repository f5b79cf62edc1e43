/**
 * Trained parameters: one flat vector on the device and a view of it for each checkpoint key. Decayed parameters come
 * first, so that the optimiser needs a single number to know them. Also the library's counts and summary table.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterConfig, HeadConfig, RobertaConfig, TensorMap } from '../config.ts'

/** Where one tensor lies in the flat vector. */
export interface Slot {
  key: string
  shape: number[]
  offset: number
  size: number
}

/** The order of trained tensors in the flat vector; elements before `decayed` get weight decay. */
export interface Layout {
  slots: Slot[]
  size: number
  decayed: number
}

/** Current values of the trained tensors, by checkpoint key. */
export type Views = Map<string, tf.Tensor>

/** A row of the library's `adapter_summary()`; `architecture` is blank for the full model. */
export interface SummaryRow {
  name: string
  architecture: string
  params: number
  percent: number
  active: boolean | null
  train: boolean
}

const neverDecayed = [/bias/, /layernorm/, /rmsnorm/, /(?:^|\.)norm(?:$|\.)/, /_norm(?:$|\.)/]

/** transformers `Trainer.get_decay_parameter_names`: all but biases and norms. */
export function isDecayed(key: string): boolean {
  const name = key.toLowerCase()
  return !neverDecayed.some((pattern) => pattern.test(name))
}

/** Lays tensors out one after another, the decayed ones first. */
export function layOut(shapes: Iterable<[key: string, shape: number[]]>): Layout {
  const all = [...shapes]
  const ordered = [...all.filter(([key]) => isDecayed(key)), ...all.filter(([key]) => !isDecayed(key))]
  const layout: Layout = { slots: [], size: 0, decayed: 0 }
  for (const [key, shape] of ordered) {
    const size = shape.reduce((a, b) => a * b, 1)
    layout.slots.push({ key, shape, offset: layout.size, size })
    layout.size += size
    if (isDecayed(key)) layout.decayed = layout.size
  }
  return layout
}

/** Copies host tensors into one flat vector. Throws when one is missing or has another shape. */
export function flatten(layout: Layout, tensors: TensorMap): Float32Array {
  const flat = new Float32Array(layout.size)
  for (const { key, shape, offset } of layout.slots) {
    const tensor = tensors.get(key)
    if (!tensor) throw new Error(`The tensor ${key} is missing.`)
    if (tensor.shape.join() !== shape.join())
      throw new Error(`The tensor ${key} is [${tensor.shape}], expected [${shape}].`)
    flat.set(tensor.data, offset)
  }
  return flat
}

/** The inverse of `flatten`; each tensor owns its memory. */
export function unflatten(layout: Layout, flat: Float32Array): TensorMap {
  return new Map(
    layout.slots.map(({ key, shape, offset, size }) => [
      key,
      { shape, data: flat.slice(offset, offset + size) },
    ]),
  )
}

/** Tensors of each slot, copied out of `flat` [n]; the caller disposes them. */
export function viewsOf(layout: Layout, flat: tf.Tensor1D): Views {
  return new Map(
    layout.slots.map(({ key, shape, offset, size }) => [
      key,
      tf.tidy(() => tf.reshape(tf.slice(flat, [offset], [size]), shape)),
    ]),
  )
}

/** Gradients by key -> one vector [n] in the layout's order. Throws when a trained tensor got none. */
export function gather(layout: Layout, grads: Views): tf.Tensor1D {
  return tf.tidy(() =>
    tf.concat1d(
      layout.slots.map(({ key }) => {
        const grad = grads.get(key)
        if (!grad)
          throw new Error(`No gradient reached ${key}: the adapter is not in the path of the prediction.`)
        return tf.reshape(grad, [-1]) as tf.Tensor1D
      }),
    ),
  )
}

/** Parameters of `RobertaModel` with its pooler and no head: what the library calls the full model. */
export function countBase(config: RobertaConfig): number {
  const { hidden_size: H, intermediate_size: I, vocab_size: V } = config
  const embeddings = (V + config.max_position_embeddings + config.type_vocab_size + 2) * H
  const layer = 4 * (H * H + H) + 2 * H + (I * H + I) + (H * I + H) + 2 * H
  return embeddings + config.num_hidden_layers * layer + H * H + H
}

const architectures: Record<AdapterConfig['method'], string> = {
  seq_bn: 'bottleneck',
  lora: 'lora',
  head: 'head',
}

/** The library's summary, and a last row for the head, which the library trains but never lists. */
export function adapterSummary(
  config: RobertaConfig,
  adapter: AdapterConfig,
  head: HeadConfig,
  adapterParams: number,
  headParams: number,
  name: string,
): SummaryRow[] {
  const full = countBase(config)
  const row = (
    name: string,
    architecture: string,
    params: number,
    active: boolean | null,
    train: boolean,
  ) => ({
    name,
    architecture,
    params,
    percent: (params / full) * 100,
    active,
    train,
  })
  const rows = [row('Full model', '', full, null, false)]
  if (adapter.method !== 'head')
    rows.unshift(row(name, architectures[adapter.method], adapterParams, true, true))
  return [...rows, row(`${name} (head)`, head.head_type, headParams, true, true)]
}
