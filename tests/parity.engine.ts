/**
 * Runs the engine on stored inputs and measures how far it is from what PyTorch stored: hidden states, logits, loss,
 * gradients, updates, loss curves. Works on whatever backend is open. Limits are those of the project's promise.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { ModelSetup, RobertaConfig, TensorMap } from '../src/config.ts'
import { trainingDefaults, type TrainingArguments } from '../src/trainingArguments.ts'
import { sha256Hex } from '../src/io/digest.ts'
import { adamwState } from '../src/kernels/adamw.ts'
import type { DeviceReport } from '../src/kernels/backend.ts'
import { disposeBatch, uploadBatch, type HostBatch } from '../src/model/batch.ts'
import { loadRoberta, type WeightSource } from '../src/model/loadRoberta.ts'
import {
  createModel,
  disposeModel,
  hiddenStates as statesOf,
  lossAndGradient,
  predict,
  setupParameters,
  type Model,
} from '../src/model/model.ts'
import { flatten, unflatten } from '../src/model/params.ts'
import { disposeRoberta, type Roberta } from '../src/model/roberta.ts'
import { missing, type Missed } from '../src/train/adamwByLayer.ts'
import { learningRate } from '../src/train/schedule.ts'
import { optimiserStep } from '../src/train/step.ts'
import { decode, readModel, type Stored, type StoredBatch } from './fixtures.ts'
import { madeUpTensors } from './madeUp.ts'

/** The worst difference of one quantity and how far it may go. */
export interface Difference {
  what: string
  worst: number
  limit: number
  /** Where the worst is. */
  at?: string
}

export interface Curve {
  name: string
  setup: ModelSetup
  args: Partial<TrainingArguments>
  losses: number[]
  grad_norms: number[]
  learning_rates: number[]
  /** AdapterDrop: the layers that each step passes by. */
  skip_layers?: number[][]
  after_first?: Record<string, Stored>
  after_last?: Record<string, Stored>
}

export const absolute = 1e-4
export const relative = 1e-4
const curve = 1e-3

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

/** Everything that a setup puts on the base made up, as tests/parity/models.py gives it to the library. */
export function madeUpModel(roberta: Roberta, setup: ModelSetup): Model {
  const shapes = setupParameters(roberta.config, setup).map(({ key, shape }): [string, number[]] => [
    key,
    shape,
  ])
  return createModel(roberta, setup, madeUpTensors(shapes))
}

export async function read(tensor: tf.Tensor): Promise<Float32Array> {
  const values = (await tensor.data()) as Float32Array
  tensor.dispose()
  return values
}

/** Embeddings and every layer's output [B·S,H], lowest first; no adapter. */
export async function hiddenStates(roberta: Roberta, host: HostBatch): Promise<Float32Array[]> {
  const nothing: ModelSetup = {
    adapters: {},
    fusions: {},
    heads: {},
    active: null,
    active_heads: [],
    train: { adapters: [], fusions: [], heads: [], base: 'none' },
    skip_layers: [],
  }
  const model = createModel(roberta, nothing, new Map())
  const batch = uploadBatch(roberta.config, host)
  const states = statesOf(model, batch)
  disposeBatch(batch)
  disposeModel(model)
  return Promise.all(states.map(read))
}

export async function predicted(
  model: Model,
  host: HostBatch,
): Promise<{ logits: Float32Array; others: Float32Array[]; hidden: Float32Array }> {
  const batch = uploadBatch(model.roberta.config, host)
  const { logits, others } = predict(model, batch)
  const states = statesOf(model, batch)
  disposeBatch(batch)
  const hidden = await read(states.pop()!)
  states.forEach((state) => state.dispose())
  return { logits: await read(logits), others: await Promise.all(others.map(read)), hidden }
}

export async function gradients(model: Model, host: HostBatch): Promise<{ loss: number; grads: TensorMap }> {
  const batch = uploadBatch(model.roberta.config, host)
  const { loss, gradient } = lossAndGradient(model, batch, null, 0)
  disposeBatch(batch)
  return { loss: (await read(loss))[0]!, grads: unflatten(model.layout, await read(gradient)) }
}

/** Runs a stored list of batches through the trainer's step and compares every step. Frees the model. */
export async function compareCurve(model: Model, batches: HostBatch[], stored: Curve): Promise<Difference[]> {
  const args: TrainingArguments = { ...trainingDefaults, ...stored.args, base_dropout: false }
  const k = args.gradient_accumulation_steps
  const total = Math.ceil(batches.length / k)
  const plan = { batches: batches.length, stepsPerEpoch: total, total, warmup: args.warmup_steps }
  const start = madeUpTensors(model.layout.slots.map(({ key, shape }) => [key, shape]))
  let state = adamwState(tf.tensor1d(flatten(model.layout, start)))
  let missed: Missed = new Map()
  const losses: number[] = []
  const norms: number[] = []
  const rates: number[] = []
  const moved: Difference[] = []
  for (let step = 0; step < total; step++) {
    const rate = learningRate(args, plan, step)
    const skip_layers = stored.skip_layers?.[step]
    if (skip_layers) model.setup = { ...model.setup, skip_layers }
    const group = batches.slice(step * k, (step + 1) * k)
    const result = optimiserStep(model, state, group, args, rate, null, skip_layers ? missed : null)
    missed = missing(missed, skip_layers ?? [])
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
