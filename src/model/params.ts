/**
 * Trained parameters: one flat vector on the device and a view of it for each checkpoint key. Decayed parameters come
 * first, so that the optimiser needs a single number to know them. Also the library's counts and summary table.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { ModelSetup, RobertaConfig, TensorMap } from '../config.ts'
import { namesIn } from '../methods/composition.ts'
import { architectureLabel } from '../methods/registry.ts'
import { copyInto } from '../kernels/copy.ts'
import { onGpu } from '../kernels/program.ts'
import { aligned, viewOf } from '../kernels/views.ts'

/** Where one tensor lies in the flat vector. */
export interface Slot {
  key: string
  shape: number[]
  offset: number
  size: number
}

/**
 * The order of trained tensors in the flat vector; elements before `decayed` get weight decay. Each tensor starts where
 * a view may (kernels/views.ts); the few elements between two are zero and stay so.
 */
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

const neverDecayed = [
  /bias/,
  /layernorm/,
  /rmsnorm/,
  /(?:^|\.)norm(?:$|\.)/,
  /_norm(?:$|\.)/,
  // Known to the library as LayerNorm modules: a bottleneck's own norms and a masked-LM head's.
  /\.adapter_norm_(?:before|after)\./,
  /^heads\.[^.]+\.2\.weight$/,
]

/** transformers `Trainer.get_decay_parameter_names`: all but biases and what stands in a LayerNorm. */
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
    layout.size = aligned(layout.size + size)
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

/** The vector without the elements between tensors, as checkpoints keep it. */
export function compact({ slots }: Layout, flat: Float32Array): Float32Array {
  const packed = new Float32Array(slots.reduce((total, { size }) => total + size, 0))
  let at = 0
  for (const { offset, size } of slots) {
    packed.set(flat.subarray(offset, offset + size), at)
    at += size
  }
  return packed
}

/** The inverse of `compact`. */
export function spread({ slots, size: total }: Layout, packed: Float32Array): Float32Array {
  const flat = new Float32Array(total)
  let at = 0
  for (const { offset, size } of slots) {
    flat.set(packed.subarray(at, at + size), offset)
    at += size
  }
  return flat
}

/** Tensors of each slot as views of `flat` [n]; the caller disposes them. */
export function viewsOf(layout: Layout, flat: tf.Tensor1D): Views {
  return new Map(layout.slots.map(({ key, shape, offset }) => [key, viewOf(flat, offset, shape)]))
}

const inLayer =
  /^roberta\.encoder\.layer\.(\d+)\..*\.(adapters|adapter_fusion_layer|loras|prefix_gates|refts)\./

/** The layer that an adapter's tensor stands in and is passed by with; null for any other tensor. */
export function layerPassedBy(key: string): number | null {
  const layer = inLayer.exec(key)?.[1]
  return layer === undefined ? null : Number(layer)
}

/** Whether an adapter's tensor stands in a layer whose adapters are passed by. */
export function isPassedBy(key: string, skip_layers: number[]): boolean {
  const layer = layerPassedBy(key)
  return layer !== null && skip_layers.includes(layer)
}

/**
 * Where gradients are written as they come: a vector [n] of zeros and views of it. null on wasm and cpu, where a vector
 * is put together afterwards.
 */
export function gradientSlots(layout: Layout): { flat: tf.Tensor1D; views: Views } | null {
  if (!onGpu()) return null
  const flat = tf.fill<tf.Rank.R1>([layout.size], 0)
  return { flat, views: viewsOf(layout, flat) }
}

/**
 * Gradients by key -> one vector [n] in the layout's order: `slots` itself, where they were given, with what lies
 * elsewhere copied in. Throws when a trained tensor got none, unless its layer is passed by in this step: then it is
 * zero.
 */
export function gather(
  layout: Layout,
  grads: Views,
  skip_layers: number[],
  slots: { flat: tf.Tensor1D; views: Views } | null,
): tf.Tensor1D {
  for (const { key } of layout.slots)
    if (!grads.has(key) && !isPassedBy(key, skip_layers))
      throw new Error(`No gradient reached ${key}: the adapter is not in the path of the prediction.`)
  if (!slots) return flatOf(layout, grads)
  for (const [key, grad] of grads) copyInto(slots.views.get(key)!, grad)
  return slots.flat
}

/** Values by key -> one vector [n] in the layout's order; zero where there are none. */
export function flatOf({ slots, size: total }: Layout, grads: Views): tf.Tensor1D {
  return tf.tidy(() => {
    const parts = slots.flatMap(({ key, offset, size }, i) => {
      const grad = grads.get(key)
      const own = grad ? (tf.reshape(grad, [-1]) as tf.Tensor1D) : tf.zeros<tf.Rank.R1>([size])
      const gap = (slots[i + 1]?.offset ?? total) - offset - size
      return gap > 0 ? [own, tf.zeros<tf.Rank.R1>([gap])] : [own]
    })
    return tf.concat1d(parts)
  })
}

/** Parameters of `RobertaModel` with its pooler and no head: what the library calls the full model. */
export function countBase(config: RobertaConfig): number {
  const { hidden_size: H, intermediate_size: I, vocab_size: V } = config
  const embeddings = (V + config.max_position_embeddings + config.type_vocab_size + 2) * H
  const layer = 4 * (H * H + H) + 2 * H + (I * H + I) + (H * I + H) + 2 * H
  return embeddings + config.num_hidden_layers * layer + H * H + H
}

/**
 * The library's summary, and a last row for each head, which the library trains but never lists. `count` says how many
 * parameters stand under an adapter's, fusion's or head's name.
 */
export function adapterSummary(
  config: RobertaConfig,
  setup: ModelSetup,
  count: { adapters: Record<string, number>; heads: Record<string, number>; fusions: number },
): SummaryRow[] {
  const { train } = setup
  const full = countBase(config) + count.fusions
  const active = new Set(namesIn(setup.active))
  const row = (
    name: string,
    architecture: string,
    params: number,
    active: boolean | null,
    train: boolean,
  ): SummaryRow => ({ name, architecture, params, percent: (params / full) * 100, active, train })
  return [
    ...Object.entries(setup.adapters).map(([name, adapter]) =>
      row(
        name,
        architectureLabel(adapter),
        count.adapters[name]!,
        active.has(name),
        train.adapters.includes(name),
      ),
    ),
    row('Full model', '', full, null, train.base === 'all'),
    ...Object.entries(setup.heads).map(([name, { head_type }]) =>
      row(
        `${name} (head)`,
        head_type,
        count.heads[name]!,
        setup.active_heads.includes(name),
        train.heads.includes(name),
      ),
    ),
  ]
}

/** The summary as the library prints it, 80 characters wide; rows of heads stand below the full model. */
export function summaryText(rows: SummaryRow[]): string {
  const line = (cells: string[]) =>
    cells
      .map((cell, i) => (i < 2 ? cell.padEnd([25, 15][i]!) : cell.padStart([12, 12, 8, 8][i - 2]!)))
      .join('')
      .trimEnd()
  const yes = (value: boolean | null) => (value === null ? '' : String(Number(value)))
  const body = rows.map(({ name, architecture, params, percent, active, train }) => {
    const numbers = [params.toLocaleString('en-US'), percent.toFixed(3), yes(active), yes(train)]
    return line([name, architecture, ...numbers])
  })
  const full = rows.findIndex(({ active }) => active === null)
  body.splice(full, 0, '-'.repeat(80))
  const head = line(['Name', 'Architecture', '#Param', '%Param', 'Active', 'Train'])
  return ['='.repeat(80), head, '-'.repeat(80), ...body, '='.repeat(80)].join('\n')
}
