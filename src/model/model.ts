/**
 * A base with adapters, fusions and heads on it: predict, or loss and gradients of everything trained. The walk goes
 * up layer by layer; the tape goes down to the lowest trained parameter and frees activations as it passes them.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterConfig, HeadConfig, ModelSetup, RobertaConfig, TensorMap } from '../config.ts'
import { openedDevice, uploadTensor } from '../kernels/backend.ts'
import { onGpu } from '../kernels/program.ts'
import { whereOf } from '../kernels/views.ts'
import { baseParameters } from '../methods/comparison.ts'
import { fusionParameters } from '../methods/fusion.ts'
import type { Parameter } from '../methods/method.ts'
import { parametersOf } from '../methods/registry.ts'
import type { Batch } from './batch.ts'
import { encode, headInputs, readBy } from './encoder.ts'
import { headForward, headParameters, lossOf, maskedLMScores } from './heads/head.ts'
import { readVectors, type Reading } from './heads/reading.ts'
import type { Matrix } from './ops.ts'
import {
  flatten,
  gather,
  gradientSlots,
  isPassedBy,
  layOut,
  viewsOf,
  type Layout,
  type Views,
} from './params.ts'
import { assemble, wordTable, type Roberta, type Weights } from './roberta.ts'
import { constant, trained, Var } from './tape.ts'
import { keepsAll, ModelWalk, type Noise, type Saving } from './walk.ts'

export interface Model {
  roberta: Roberta
  setup: ModelSetup
  layout: Layout
  /** Tensors that stand on the base and do not train: frozen adapters and heads, buffers, unused parts. */
  frozen: ReadonlyMap<string, Var>
  /** Everything by key and as the walk uses it; replaced whole by `setParams`. */
  current: { views: Views; vars: ReadonlyMap<string, Var>; weights: Weights }
}

/** One adapter with its head, both active and trained, which is what most runs are. */
export function singleSetup(name: string, adapter: AdapterConfig, head: HeadConfig): ModelSetup {
  const { architecture } = adapter
  const none = architecture === 'head' || architecture === 'bitfit' || architecture === 'full'
  return {
    adapters: none ? {} : { [name]: adapter },
    fusions: {},
    heads: { [name]: head },
    active: none ? null : name,
    active_heads: [name],
    train: {
      adapters: none ? [] : [name],
      fusions: [],
      heads: [name],
      base: architecture === 'full' ? 'all' : architecture === 'bitfit' ? 'bias' : 'none',
    },
    skip_layers: [],
  }
}

/** Every tensor that a setup puts on the base, and whether it trains. */
export function setupParameters(
  config: RobertaConfig,
  { adapters, fusions, heads, train, skip_layers }: ModelSetup,
): (Parameter & { trains: boolean })[] {
  const all: (Parameter & { trains: boolean })[] = []
  const add = (parameters: Parameter[], trains: boolean) =>
    all.push(
      ...parameters.map((one) => ({
        ...one,
        trains: trains && !one.role && !isPassedBy(one.key, skip_layers),
      })),
    )
  for (const [name, adapter] of Object.entries(adapters))
    add(parametersOf(config, adapter, name), train.adapters.includes(name))
  for (const [key, fusion] of Object.entries(fusions)) {
    const members = key.split(',').map((name) => adapters[name]!)
    add(fusionParameters(config, members, key, fusion), train.fusions.includes(key))
  }
  for (const [name, head] of Object.entries(heads))
    add(headParameters(config, head, name), train.heads.includes(name))
  add(trainedBaseParameters(config, train.base), true)
  return all
}

/** The base's own weights that train; the pooler never does. */
export function trainedBaseParameters(config: RobertaConfig, base: ModelSetup['train']['base']): Parameter[] {
  if (base === 'none') return []
  return baseParameters(config).filter(({ key }) => base === 'all' || key.endsWith('.bias'))
}

/**
 * Puts `setup` on a loaded base. `tensors` holds every adapter, fusion and head tensor by the library's key, and the
 * base's own where they train; one of the base's own that does not train stands in for the loaded weight.
 * Throws when one is missing or has another shape.
 */
export function createModel(roberta: Roberta, setup: ModelSetup, tensors: TensorMap): Model {
  const parameters = setupParameters(roberta.config, setup)
  const shapes = (some: typeof parameters) => some.map(({ key, shape }): [string, number[]] => [key, shape])
  const layout = layOut(shapes(parameters.filter(({ trains }) => trains)))
  if (setup.train.base === 'all' && !isSeenWhole(roberta.config))
    throw new Error(
      'The word table is larger than this device lets one program see, so it cannot be trained; train an adapter or biases.',
    )
  const resting = layOut(shapes(parameters.filter(({ trains }) => !trains)))
  const values = flatten(resting, tensors)
  const start = flatten(layout, tensors)
  const frozen = new Map(
    resting.slots.map(({ key, shape, offset, size }): [string, Var] => [
      key,
      constant(uploadTensor(values.subarray(offset, offset + size), shape)),
    ]),
  )
  const trains = new Set(layout.slots.map(({ key }) => key))
  for (const [key, { shape, data }] of tensors)
    if ((roberta.vars.has(key) || key === wordTable) && !trains.has(key))
      frozen.set(key, constant(tf.tensor(data, shape)))
  const flat = uploadTensor<tf.Rank.R1>(start, [start.length])
  const model = { roberta, setup, layout, frozen, current: arrange(roberta, layout, frozen, flat) }
  flat.dispose()
  return model
}

/** Whether a program of the open device may see the whole word table in float32, which is how it trains. */
function isSeenWhole({ vocab_size, hidden_size }: RobertaConfig): boolean {
  return !onGpu() || 4 * vocab_size * hidden_size <= openedDevice().limits.maxStorageBufferBindingSize
}

/**
 * The model of `setup` without a value in it, for work that only counts; `blank` makes a tensor. What createModel refuses
 * it takes.
 */
export function outlineModel(
  roberta: Roberta,
  setup: ModelSetup,
  blank: (shape: number[]) => tf.Tensor,
): Model {
  const parameters = setupParameters(roberta.config, setup)
  const trains = parameters.filter((one) => one.trains)
  const layout = layOut(trains.map(({ key, shape }): [string, number[]] => [key, shape]))
  const frozen = new Map(
    parameters
      .filter((one) => !one.trains)
      .map(({ key, shape }): [string, Var] => [key, constant(blank(shape))]),
  )
  const flat = blank([layout.size]) as tf.Tensor1D
  const model = { roberta, setup, layout, frozen, current: arrange(roberta, layout, frozen, flat) }
  flat.dispose()
  return model
}

/** Puts new trained values [n] into the model; the old views are freed, `flat` stays the caller's. */
export function setParams(model: Model, flat: tf.Tensor1D): void {
  if (isSeen(model, flat)) return
  const next = arrange(model.roberta, model.layout, model.frozen, flat)
  tf.dispose([...model.current.views.values()])
  model.current = next
}

/** Whether the model's values are views of this very vector, which shows them what is written into it. */
function isSeen({ layout, current }: Model, flat: tf.Tensor1D): boolean {
  const first = layout.slots[0]
  const place = first && whereOf(current.views.get(first.key)!)
  const own = whereOf(flat) ?? { flat, offset: 0 }
  return place?.flat.dataId === own.flat.dataId && place.offset === own.offset
}

function arrange(
  roberta: Roberta,
  layout: Layout,
  frozen: Model['frozen'],
  flat: tf.Tensor1D,
): Model['current'] {
  const views = viewsOf(layout, flat)
  const vars = new Map<string, Var>(frozen)
  for (const [key, view] of views) vars.set(key, trained(view))
  const replaced = [...vars.keys()].some((key) => key === wordTable || roberta.vars.has(key))
  if (!replaced) return { views, vars, weights: roberta }
  const words = vars.get(wordTable) as Matrix | undefined
  const weights = assemble(
    roberta.config,
    words ? [words] : roberta.embeddings.word_embeddings.weight,
    (key) => roberta.vars.has(key),
    (key) => vars.get(key) ?? roberta.vars.get(key)!,
  )
  return { views, vars, weights }
}

/** Frees everything that stands on the base; the base stays. */
export function disposeModel({ current, frozen }: Model): void {
  tf.dispose([...current.views.values()])
  tf.dispose([...frozen.values()].map(({ tensor }) => tensor))
}

/** Everything that stands on the base, trained or not, in host memory by the library's keys. */
export async function tensorsOf({ current, frozen }: Model): Promise<TensorMap> {
  const tensors: TensorMap = new Map()
  const all = [...current.views, ...[...frozen].map(([key, { tensor }]) => [key, tensor] as const)]
  for (const [key, tensor] of all)
    tensors.set(key, { shape: tensor.shape, data: Float32Array.from(await tensor.data()) })
  return tensors
}

/**
 * Evaluation mode: logits of each active head, the caller's; `logits` are the first head's. `without` passes one adapter
 * by.
 */
export function predict(
  model: Model,
  batch: Batch,
  without: string | null = null,
): { logits: tf.Tensor2D; others: tf.Tensor2D[] } {
  return tf.tidy(() => {
    const walk = walkOf(model, batch, null, false, without)
    const x = encode(walk, model.current.weights, batch, { reads: readBy(model.setup) })
    const { heads, active_heads } = model.setup
    const [logits, ...others] = headInputs(walk, model.setup, x, batch).map((own, i) => {
      const name = active_heads[i]!
      return headForward(walk, model.current.weights, heads[name]!, name, own.x, own.batch).tensor
    })
    walk.dispose()
    return { logits: logits!, others }
  })
}

/** Evaluation mode, masked-LM: loss of each hidden word and whether it was the likeliest guess (0 or 1), [M] each. */
export function maskedScores(model: Model, batch: Batch): { losses: tf.Tensor1D; hits: tf.Tensor1D } {
  return tf.tidy(() => {
    const walk = walkOf(model, batch, null, false)
    const { weights } = model.current
    const [input] = headInputs(walk, model.setup, encode(walk, weights, batch), batch)
    const scores = maskedLMScores(walk, weights, model.setup.active_heads[0]!, input!.x, batch)
    walk.dispose()
    return scores
  })
}

/**
 * Embeddings and every layer's output [B·S,H] (under Parallel [k·B·S,H]), lowest first, in evaluation mode; the caller's.
 */
export function hiddenStates(model: Model, batch: Batch): tf.Tensor2D[] {
  return tf.tidy(() => {
    const states: tf.Tensor2D[] = []
    const walk = walkOf(model, batch, null, false)
    encode(walk, model.current.weights, batch, { onState: ({ tensor }) => states.push(tf.clone(tensor)) })
    walk.dispose()
    return states
  })
}

/**
 * Evaluation mode: what the lowest `layers` layers make of a batch, [B·S,H], or, of the last hidden state, the vector
 * of each text that a head reads, [B,H]; the caller's.
 */
export function lowerLayers(
  model: Model,
  batch: Batch,
  layers: number,
  reading: Reading | null,
): tf.Tensor2D {
  return tf.tidy(() => {
    const walk = walkOf(model, batch, null, false)
    const reads = reading ? readBy(model.setup) : 'all'
    const x = encode(walk, model.current.weights, batch, { end: layers, reads })
    const read = reading ? readVectors(walk, reading, x, batch) : x.tensor
    walk.dispose()
    return read
  })
}

/**
 * Loss of a batch (the sum over active heads) and its gradient [n] in the layout's order, both the caller's. `noise`
 * null: no dropout. `saving`: how memory is saved at the cost of time or digits. Throws when a trained tensor gets no
 * gradient; nothing stays on the device then.
 */
export function lossAndGradient(
  model: Model,
  batch: Batch,
  noise: Noise | null,
  label_smoothing: number,
  saving: Saving = keepsAll,
): { loss: tf.Scalar; gradient: tf.Tensor1D } {
  return tf.tidy(() => {
    const walk = walkOf(model, batch, noise, true, null, saving)
    let grads: ReadonlyMap<Var, tf.Tensor> = new Map()
    try {
      const { setup, current } = model
      const x = encode(walk, current.weights, batch, { reads: readBy(setup) })
      const inputs = headInputs(walk, setup, x, batch)
      const { loss, seeds } = lossOf(walk, current.weights, setup, inputs, batch, label_smoothing)
      walk.tape.release(x)
      const { layout } = model
      const leaf = (key: string) => current.vars.get(key)!
      const slots = gradientSlots(layout)
      grads = walk.tape.backward(
        seeds,
        new Map([...(slots?.views ?? [])].map(([key, view]) => [leaf(key), view])),
      )
      const named: Views = new Map()
      for (const { key } of layout.slots) {
        const grad = grads.get(leaf(key))
        if (grad) named.set(key, grad)
      }
      return { loss, gradient: gather(layout, named, setup.skip_layers, slots) }
    } finally {
      tf.dispose([...grads.values()])
      walk.dispose()
    }
  })
}

function walkOf(
  { roberta, setup, current }: Model,
  batch: Batch,
  noise: Noise | null,
  learns: boolean,
  without: string | null = null,
  saving: Saving = keepsAll,
): ModelWalk {
  return new ModelWalk(roberta.config, { setup, vars: current.vars }, batch, noise, learns, without, saving)
}
