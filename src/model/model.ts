/**
 * A frozen RoBERTa with one adapter and one head: predict, or loss and gradients of everything trained. The loop walks
 * layers up, then down to the lowest one that holds a trained parameter, and frees activations as it goes.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterBundle, AdapterConfig, BaseIdentity, HeadConfig, TensorMap } from '../config.ts'
import { crossEntropy } from '../kernels/crossEntropy.ts'
import { adaptedLayers, adapterShapes, attach, headShapes, type LayerAdapters } from './adapters.ts'
import type { Batch } from './batch.ts'
import { attachHead, backwardHead, forwardHead, type Head } from './head.ts'
import { backwardLayer, forwardLayer, type SavedLayer } from './layer.ts'
import { flatten, gather, layOut, viewsOf, type Layout, type Views } from './params.ts'
import { atLayer, type Noise, type Pass } from './pass.ts'
import { embed, type Roberta } from './roberta.ts'

export interface Model {
  roberta: Roberta
  name: string
  adapter: AdapterConfig
  head: HeadConfig
  layout: Layout
  /** The lowest layer that holds a trained parameter; the number of layers when only the head trains. */
  lowest: number
  /** The trained values, arranged for the walk; replaced whole by `setParams`. */
  current: { views: Views; layers: LayerAdapters[]; head: Head }
}

/** Adds an adapter and a head with the given tensors (keys as the library's) to a loaded base. */
export function createModel(
  roberta: Roberta,
  name: string,
  adapter: AdapterConfig,
  head: HeadConfig,
  tensors: TensorMap,
): Model {
  const { config } = roberta
  const layout = layOut([...adapterShapes(config, adapter, name), ...headShapes(config, head, name)])
  const lowest = adaptedLayers(config, adapter)[0] ?? config.num_hidden_layers
  const flat = tf.tensor1d(flatten(layout, tensors))
  const model = {
    roberta,
    name,
    adapter,
    head,
    layout,
    lowest,
    current: arrange(roberta, name, adapter, head, layout, flat),
  }
  flat.dispose()
  return model
}

/** Puts new trained values [n] into the model; the old views are freed, `flat` stays the caller's. */
export function setParams(model: Model, flat: tf.Tensor1D): void {
  const { roberta, name, adapter, head, layout } = model
  const next = arrange(roberta, name, adapter, head, layout, flat)
  tf.dispose([...model.current.views.values()])
  model.current = next
}

function arrange(
  roberta: Roberta,
  name: string,
  adapter: AdapterConfig,
  head: HeadConfig,
  layout: Layout,
  flat: tf.Tensor1D,
): Model['current'] {
  const views = viewsOf(layout, flat)
  return {
    views,
    layers: attach(roberta.config, adapter, name, views),
    head: attachHead(roberta.config, head, name, views),
  }
}

/** Frees the adapter and head; the base stays. */
export function disposeModel(model: Model): void {
  tf.dispose([...model.current.views.values()])
}

/** The trained tensors in host memory, with all that makes them usable again. */
export async function bundleOf(
  { name, adapter, head, layout, current }: Model,
  id2label: string[],
  base: BaseIdentity,
  max_length: number,
): Promise<AdapterBundle> {
  const tensors: TensorMap = new Map()
  for (const { key, shape } of layout.slots)
    tensors.set(key, { shape, data: Float32Array.from(await current.views.get(key)!.data()) })
  return { name, adapter, head, id2label, tensors, base, max_length }
}

/** Evaluation mode: logits [B,C] and the last hidden state [B·S,H]. The caller disposes both. */
export function predict(model: Model, batch: Batch): { logits: tf.Tensor2D; last_hidden_state: tf.Tensor2D } {
  const pass: Pass = { config: model.roberta.config, batch, noise: null }
  return tf.tidy(() => {
    const { x } = encode(model, pass, Infinity)
    return { logits: forwardHead(pass, model.current.head, x).logits, last_hidden_state: x }
  })
}

/**
 * Mean cross-entropy of a batch and its gradient [n] in the layout's order, both the caller's. `noise` null: no
 * dropout. Throws when a trained tensor gets no gradient; nothing stays on the device then.
 */
export function lossAndGradient(
  model: Model,
  batch: Batch,
  noise: Noise | null,
  label_smoothing: number,
): { loss: tf.Scalar; gradient: tf.Tensor1D } {
  const grads: Views = new Map()
  try {
    return tf.tidy(() => {
      const loss = walk(model, { config: model.roberta.config, batch, noise }, label_smoothing, grads)
      return { loss, gradient: gather(model.layout, grads) }
    })
  } finally {
    tf.dispose([...grads.values()])
  }
}

/** Up through all layers and down to the lowest trained one; gradients are kept in `grads`. */
function walk(model: Model, pass: Pass, label_smoothing: number, grads: Views): tf.Scalar {
  const { roberta, current, lowest } = model
  const L = roberta.config.num_hidden_layers
  const { x, saved } = encode(model, pass, lowest)
  const top = atLayer(pass, L)
  const { logits, saved: savedHead } = forwardHead(top, current.head, x)
  const { loss, dLogits } = crossEntropy(logits, pass.batch.labels, label_smoothing)
  let dX = backwardHead(top, current.head, dLogits, savedHead, lowest < L, grads)
  tf.dispose([x, logits, dLogits, savedHead.dropped, savedHead.pre])

  for (let l = L - 1; dX && l >= lowest; l--) {
    const weights = roberta.encoder.layer[l]!
    const needInput = l > lowest
    const below: tf.Tensor2D | undefined = backwardLayer(
      atLayer(pass, l),
      weights,
      dX,
      saved[l]!,
      current.layers[l]!,
      needInput,
      grads,
    )
    tf.dispose(saved[l]!)
    dX.dispose()
    dX = below
  }
  return loss
}

/** Embeddings and all layers; activations of the layers from `keepFrom` up are kept for the way down. */
function encode(
  model: Model,
  pass: Pass,
  keepFrom: number,
): { x: tf.Tensor2D; saved: Record<number, SavedLayer> } {
  const { roberta, current } = model
  const saved: Record<number, SavedLayer> = {}
  let x = embed(pass, roberta)
  roberta.encoder.layer.forEach((weights, l) => {
    const next = forwardLayer(atLayer(pass, l), weights, x, current.layers[l]!)
    if (l >= keepFrom) saved[l] = next.saved
    else tf.dispose(next.saved)
    x = next.x
  })
  return { x, saved }
}
