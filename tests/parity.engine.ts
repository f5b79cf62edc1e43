/**
 * Runs the engine on stored inputs and measures how far it is from what PyTorch stored: hidden states, logits, loss,
 * gradients, updates, loss curves. Works on whatever backend is open. Limits are those of the project's promise.
 */
import * as tf from '@tensorflow/tfjs-core'
import {
  classificationHead,
  trainingDefaults,
  type AdapterConfig,
  type RobertaConfig,
  type TensorMap,
  type TrainingArguments,
} from '../src/config.ts'
import { sha256Hex } from '../src/io/digest.ts'
import { adamwState } from '../src/kernels/adamw.ts'
import type { DeviceReport } from '../src/kernels/backend.ts'
import { adapterShapes, headShapes } from '../src/model/adapters.ts'
import { uploadBatch, type HostBatch } from '../src/model/batch.ts'
import { forwardLayer } from '../src/model/layer.ts'
import { loadRoberta, type WeightSource } from '../src/model/loadRoberta.ts'
import { createModel, disposeModel, lossAndGradient, predict, type Model } from '../src/model/model.ts'
import { flatten, unflatten } from '../src/model/params.ts'
import { disposeRoberta, embed, type Roberta } from '../src/model/roberta.ts'
import { learningRate } from '../src/train/schedule.ts'
import { optimiserStep } from '../src/train/step.ts'
import { decode, readModel, type Stored, type StoredBatch } from './fixtures.ts'
import { madeUpTensors } from './madeUp.ts'

/** The worst difference of one quantity and how far it may go. */
export interface Difference {
  what: string
  worst: number
  limit: number
}

/** What Python made of a batch in evaluation mode. */
export interface Evaluated {
  logits: Float32Array
  loss: number
  last_hidden_state: Float32Array
  grads: TensorMap
}

export interface Curve {
  name: string
  adapter: AdapterConfig
  args: Partial<TrainingArguments>
  losses: number[]
  grad_norms: number[]
  learning_rates: number[]
  after_first?: Record<string, Stored>
  after_last?: Record<string, Stored>
}

export const absolute = 1e-4
const relative = 1e-4
const curve = 1e-3
const adapterName = 'parity'

/** Largest |a - b|; NaN when any is not a number, which no limit allows. */
export function furthest(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  if (ours.length !== theirs.length) throw new Error(`${ours.length} values, expected ${theirs.length}.`)
  let worst = 0
  for (let i = 0; i < ours.length; i++) {
    const difference = Math.abs(ours[i]! - theirs[i]!)
    if (!(difference <= worst)) worst = difference
    if (Number.isNaN(difference)) return NaN
  }
  return worst
}

/** Length of a - b, in units of b's. */
function distance(ours: Float32Array, theirs: Float32Array): number {
  const difference = length(ours.map((value, i) => value - theirs[i]!))
  return difference === 0 ? 0 : difference / length(theirs)
}

function length(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
}

function largest(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
}

export function hostBatch({ input_ids, attention_mask, labels }: StoredBatch): HostBatch {
  return {
    B: input_ids.length,
    S: input_ids[0]!.length,
    input_ids: Int32Array.from(input_ids.flat()),
    attention_mask: Int32Array.from(attention_mask.flat()),
    labels: Int32Array.from(labels),
  }
}

/** Opens a base, hands it to `use`, frees it. Throws when anything of it is left on the device. */
export async function withBase<T>(
  { limits }: DeviceReport,
  config: RobertaConfig,
  weights: WeightSource,
  use: (roberta: Roberta) => Promise<T>,
): Promise<T> {
  const before = tf.memory().numTensors
  const { roberta } = await loadRoberta(config, weights, limits.maxStorageBufferBindingSize)
  const result = await use(roberta)
  disposeRoberta(roberta)
  if (tf.memory().numTensors !== before)
    throw new Error(`${tf.memory().numTensors - before} tensors were left behind.`)
  return result
}

/** The same from a folder of the repository; with `sha256`, only of that very model.safetensors. */
export async function withFolder<T>(
  device: DeviceReport,
  folder: string,
  use: (roberta: Roberta) => Promise<T>,
  sha256?: string,
): Promise<T> {
  const { config, weights, bytes } = await readModel(folder)
  if (sha256 !== undefined && sha256 !== (await sha256Hex(new Blob([bytes]))))
    throw new Error(`${folder} holds other weights than the fixture was made from: npm run parity -- mini.`)
  return withBase(device, config, weights, use)
}

/** Made-up adapter and head, as tests/parity/models.py gives them to the library. */
export function madeUpModel(roberta: Roberta, adapter: AdapterConfig, num_labels: number): Model {
  const head = classificationHead(num_labels)
  const { config } = roberta
  const shapes = [...adapterShapes(config, adapter, adapterName), ...headShapes(config, head, adapterName)]
  return createModel(roberta, adapterName, adapter, head, madeUpTensors(shapes))
}

async function read(tensor: tf.Tensor): Promise<Float32Array> {
  const values = (await tensor.data()) as Float32Array
  tensor.dispose()
  return values
}

/** Embeddings and every layer's output [B·S,H], lowest first; no adapter. */
export async function hiddenStates(roberta: Roberta, host: HostBatch): Promise<Float32Array[]> {
  const states = tf.tidy(() => {
    const batch = uploadBatch(roberta.config, host)
    const pass = { config: roberta.config, batch, noise: null }
    const states = [embed(pass, roberta)]
    for (const layer of roberta.encoder.layer) states.push(forwardLayer(pass, layer, states.at(-1)!, {}).x)
    return states
  })
  return Promise.all(states.map(read))
}

export async function predicted(
  model: Model,
  host: HostBatch,
): Promise<{ logits: Float32Array; hidden: Float32Array }> {
  const { logits, last_hidden_state } = tf.tidy(() => predict(model, uploadBatch(model.roberta.config, host)))
  return { logits: await read(logits), hidden: await read(last_hidden_state) }
}

async function gradients(model: Model, host: HostBatch): Promise<{ loss: number; grads: TensorMap }> {
  const { loss, gradient } = tf.tidy(() =>
    lossAndGradient(model, uploadBatch(model.roberta.config, host), null, 0),
  )
  return { loss: (await read(loss))[0]!, grads: unflatten(model.layout, await read(gradient)) }
}

/** Logits, hidden state, loss and every gradient of `model` against what Python stored. Frees the model. */
export async function compareEvaluated(
  model: Model,
  host: HostBatch,
  stored: Evaluated,
): Promise<Difference[]> {
  const { logits, hidden } = await predicted(model, host)
  const { loss, grads } = await gradients(model, host)
  disposeModel(model)
  const names = [...stored.grads.keys()].sort()
  if ([...grads.keys()].sort().join() !== names.join())
    throw new Error(`Gradients of ${[...grads.keys()].join()}, expected ${names.join()}.`)
  const worst = names.map((name) => {
    const theirs = stored.grads.get(name)!.data
    return furthest(grads.get(name)!.data, theirs) / (largest(theirs) || 1)
  })
  return [
    { what: 'logits', worst: furthest(logits, stored.logits), limit: absolute },
    { what: 'hidden', worst: furthest(hidden, stored.last_hidden_state), limit: absolute },
    { what: 'loss', worst: Math.abs(loss - stored.loss) / stored.loss, limit: relative },
    { what: 'grads', worst: Math.max(...worst), limit: relative },
  ]
}

/** Runs a stored list of batches through the trainer's step and compares every step. Frees the model. */
export async function compareCurve(
  model: Model,
  batches: StoredBatch[],
  stored: Curve,
): Promise<Difference[]> {
  const args: TrainingArguments = { ...trainingDefaults, ...stored.args, base_dropout: false }
  const k = args.gradient_accumulation_steps
  const total = Math.ceil(batches.length / k)
  const plan = { batches: batches.length, stepsPerEpoch: total, total, warmup: args.warmup_steps }
  const start = madeUpTensors(model.layout.slots.map(({ key, shape }) => [key, shape]))
  let state = adamwState(tf.tensor1d(flatten(model.layout, start)))
  const losses: number[] = []
  const norms: number[] = []
  const rates: number[] = []
  const moved: Difference[] = []
  for (let step = 0; step < total; step++) {
    const rate = learningRate(args, plan, step)
    const group = batches.slice(step * k, (step + 1) * k).map(hostBatch)
    const result = optimiserStep(model, state, group, args, rate, null)
    state = result.state
    losses.push((await read(result.loss))[0]!)
    norms.push((await read(result.grad_norm))[0]!)
    rates.push(rate)
    const after = step === 0 ? stored.after_first : step === total - 1 ? stored.after_last : undefined
    if (after) {
      const params = unflatten(model.layout, (await state.p.data()) as Float32Array)
      moved.push({
        what: step === 0 ? 'first update' : 'whole movement',
        worst: furthestMovement(start, params, after),
        limit: relative,
      })
    }
  }
  tf.dispose([state.p, state.m, state.v])
  disposeModel(model)
  const apart = (ours: number[], theirs: number[]) =>
    ours.map((value, i) => Math.abs(value - theirs[i]!) / (theirs[i]! || 1))
  return [
    { what: 'first loss', worst: apart(losses, stored.losses)[0]!, limit: relative },
    { what: 'losses', worst: Math.max(...apart(losses, stored.losses)), limit: curve },
    { what: 'grad norms', worst: Math.max(...apart(norms, stored.grad_norms)), limit: curve },
    { what: 'learning rates', worst: Math.max(...apart(rates, stored.learning_rates)), limit: 1e-12 },
    ...moved,
  ]
}

/** Over all tensors, the largest error of a movement in units of the movement itself. */
function furthestMovement(start: TensorMap, ours: TensorMap, theirs: Record<string, Stored>): number {
  const names = Object.keys(theirs).sort()
  if ([...ours.keys()].sort().join() !== names.join())
    throw new Error(`Trained ${[...ours.keys()]}, expected ${names}.`)
  const worst = names.map((name) => {
    const from = start.get(name)!.data
    const path = (to: Float32Array) => to.map((value, i) => value - from[i]!)
    return distance(path(ours.get(name)!.data), path(decode(theirs[name]!).data))
  })
  return Math.max(...worst)
}
