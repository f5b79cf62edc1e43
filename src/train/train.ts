/**
 * The training loop as an async generator (transformers `Trainer._inner_training_loop`): one optimiser step per pull,
 * so that pause, single step, stop and tests all use the same `next()`. What the caller passes to `next` is a wish.
 * Everything follows from the arguments and the seed: a run resumed from a checkpoint goes on as if never cut off.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterDrop, TensorMap } from '../config.ts'
import { rowsAtOnce, type TrainingArguments } from '../trainingArguments.ts'
import { paddingEfficiency, type Batch, type Encoded } from '../data/batches.ts'
import { epochBatches } from '../data/masking.ts'
import { inParts } from '../data/parts.ts'
import { togetherSteps } from '../data/tasks.ts'
import { uploadTensor } from '../kernels/backend.ts'
import { adamwState, type AdamWState } from '../kernels/adamw.ts'
import { copyInto } from '../kernels/copy.ts'
import { whereOf } from '../kernels/views.ts'
import { skippedLayers } from '../methods/adapterDrop.ts'
import { cuttable } from '../methods/padding.ts'
import { setParams, type Model } from '../model/model.ts'
import { compact, gather, spread, type Layout } from '../model/params.ts'
import { Best, readVector } from './best.ts'
import { evaluate } from './evaluate.ts'
import { FeatureCache, withFeatures } from './featureCache.ts'
import type { Metrics } from './metrics.ts'
import { missing, type Missed } from './adamwByLayer.ts'
import { startInPath, updateInPath, type InPath } from './inPath.ts'
import { memoryAlone, type RowRoom } from './keptRows.ts'
import { Readings, type StepReading } from './readings.ts'
import { learningRate, plan } from './schedule.ts'
import { optimiserStep, savingOf } from './step.ts'

export interface TrainData {
  train: Encoded
  /** Empty: nothing is evaluated, and the last weights are the best. */
  validation: Encoded
  /** Other tasks that train together with this one, each with the active head that answers it. */
  beside?: { head: string; train: Encoded }[]
}

export interface Evaluation {
  type: 'evaluation'
  step: number
  epoch: number
  metrics: Metrics
  /** Better than every evaluation before. */
  best: boolean
}

/** Everything a run needs to go on: `p`, `m`, `v` and `best`, each the trained tensors in the layout's order. */
export interface Checkpoint {
  type: 'checkpoint'
  /** It answers a wish; otherwise an evaluation brought it. */
  asked: boolean
  step: number
  state: { best: { step: number; value: number | null }; waited: number }
  tensors: TensorMap
}

/** `tick` ends every optimiser step; the other events come before the tick of the step that brought them. */
export type TrainEvent =
  { type: 'tick'; step: number; total: number } | StepReading | Evaluation | Checkpoint | InPath

/** `checkpoint` is answered at once; `stop` finishes the run with the best weights so far. */
export type Wish = 'checkpoint' | 'stop' | undefined

/** Why a run ended; `note` is a sentence when it is not simply finished. */
interface Ending {
  reason: 'finished' | 'stopped' | 'early' | 'diverged'
  note: string | null
}

const finished: Ending = { reason: 'finished', note: null }

export interface TrainResult extends Ending {
  step: number
  best_step: number
}

/**
 * Trains `model` in place and leaves the best weights in it (the last ones when nothing chooses). `resume` is an
 * earlier checkpoint of the same run. `room` is where features may be kept from epoch to epoch; null: nowhere. Frees all
 * it made when it ends or is abandoned, but not the model.
 */
export async function* train(
  model: Model,
  data: TrainData,
  args: TrainingArguments,
  resume: Omit<Checkpoint, 'type' | 'asked'> | null = null,
  drop: AdapterDrop | null = null,
  room: RowRoom | null = memoryAlone,
): AsyncGenerator<TrainEvent, TrainResult, Wish> {
  const schedule = plan(args, longest(data))
  const { stepsPerEpoch, total } = schedule
  const evaluates = args.eval_strategy !== 'no' && data.validation.labels.length > 0
  const readings = new Readings(args.logging_steps)
  const start = await begin(model, args, resume)
  const { best } = start
  let { state } = start
  const features = room && FeatureCache.of(model, args, drop?.mode === 'random', room)
  let ending = best.exhausted ? earlyStop(args, best, state.step) : null
  let paths: InPath[] | null = null

  try {
    for (const { batches, ...facts } of stepsFrom(data, args, model, schedule, state.step)) {
      if (ending) break
      if (!paths) yield* (paths = await startInPath(model, batches[0]!, savingOf(args)))
      readings.startWatch()
      const learning_rate = learningRate(args, schedule, state.step)
      const call = state.step * passesPerStep(data, args)
      const { state: next, ...scalars } = await withFeatures(features, batches, (begun) =>
        atDepth(model, drop, args.seed, state.step, (missed) =>
          optimiserStep(model, state, begun, args, learning_rate, call, missed),
        ),
      )
      state = next
      const { step } = state
      const last = step === total
      const evaluateNow = evaluates && (last || isDue(args, step, stepsPerEpoch))
      const due = await readings.add({ step, ...facts, learning_rate, ...scalars, ...count(batches) })
      if (last || evaluateNow) due.push(...(await readings.drain()))
      yield* due
      ending = divergence(due, best)
      if (ending) break
      readings.stopWatch()

      if (evaluateNow) {
        const now = { state, best, epoch: facts.epoch, features, paths }
        yield* evaluation(model, data.validation, batches[0]!, args, now)
        if (best.exhausted) ending = earlyStop(args, best, step)
      }
      const wish = yield* tick(model.layout, state, best, readings, total)
      if (wish === 'stop')
        ending = { reason: 'stopped', note: `Stopped by hand after step ${step} of ${total}.` }
    }
    const rest = await readings.drain()
    yield* rest
    return leave(model, args, state, best, divergence(rest, best) ?? ending ?? finished)
  } finally {
    readings.dispose()
    tf.dispose([state.p, state.m, state.v])
    await features?.close()
  }
}

/** Leaves the best weights in the model, or the last ones when nothing chooses. */
function leave(
  model: Model,
  args: TrainingArguments,
  { p, step }: AdamWState,
  best: Best,
  ending: Ending,
): TrainResult {
  const keepBest = ending.reason === 'diverged' || (args.load_best_model_at_end && best.value !== null)
  if (keepBest) restore(model, best.flat)
  else settle(model, p)
  return { ...ending, step, best_step: keepBest ? best.step : step }
}

/** Rows of the longest of the tasks, which says how long an epoch is. */
function longest({ train, beside = [] }: TrainData): number {
  return Math.max(train.labels.length, ...beside.map((task) => task.train.labels.length))
}

/** Forward passes that one step may take: each has dropout of its own. */
function passesPerStep({ beside = [] }: TrainData, args: TrainingArguments): number {
  const rows = Math.min(
    args.per_device_train_batch_size,
    rowsAtOnce(args.max_tokens_per_batch, args.max_length),
  )
  const parts = Math.ceil(args.per_device_train_batch_size / rows)
  return args.gradient_accumulation_steps * parts * (1 + beside.length)
}

/** Ends an optimiser step and answers wishes for checkpoints until there are no more; returns the last wish. */
async function* tick(
  layout: Layout,
  state: AdamWState,
  best: Best,
  readings: Readings,
  total: number,
): AsyncGenerator<TrainEvent, Wish, Wish> {
  let wish = yield { type: 'tick', step: state.step, total }
  while (wish === 'checkpoint') {
    yield* await readings.drain()
    wish = yield await checkpoint(layout, state, best, true)
  }
  return wish
}

interface Now {
  state: AdamWState
  best: Best
  epoch: number
  features: FeatureCache | null
  paths: InPath[]
}

/** Judges the present weights and keeps them when they are the best so far; then says what is in the path of `batch`. */
async function* evaluation(
  model: Model,
  validation: Encoded,
  batch: Batch,
  args: TrainingArguments,
  { state, best, epoch, features, paths }: Now,
): AsyncGenerator<Evaluation | InPath | Checkpoint, void> {
  const { metrics } = await evaluate(model, validation, args.per_device_eval_batch_size, features)
  const { step, p } = state
  yield { type: 'evaluation', step, epoch, metrics, best: await best.offer(metrics, p, step) }
  yield* await updateInPath(model, batch, paths)
  yield await checkpoint(model.layout, state, best, false)
}

/** Does a step's work with the layers passed by that AdapterDrop draws for it, and what they have missed before. */
function atDepth<T>(
  model: Model,
  drop: AdapterDrop | null,
  seed: number,
  step: number,
  work: (missed: Missed | null) => T,
): T {
  if (drop?.mode !== 'random') return work(null)
  const { setup } = model
  const before = Array.from({ length: step }, (_, earlier) => skippedLayers(drop, seed, earlier))
  model.setup = { ...setup, skip_layers: skippedLayers(drop, seed, step) }
  try {
    return work(before.reduce<Missed>(missing, new Map()))
  } finally {
    model.setup = setup
  }
}

/** Micro-batches of each optimiser step from step `from` on, with the epochs that will be done after it. */
function* stepsFrom(
  data: TrainData,
  args: TrainingArguments,
  model: Model,
  { stepsPerEpoch, total }: { stepsPerEpoch: number; total: number },
  from: number,
): Generator<{ batches: Batch[]; epoch: number; padding_efficiency: number }> {
  let steps: Batch[][] = []
  let padding_efficiency = 1
  for (let step = from; step < total; step++) {
    const within = step % stepsPerEpoch
    if (within === 0 || step === from) {
      steps = epochSteps(data, args, model, Math.floor(step / stepsPerEpoch))
      padding_efficiency = paddingEfficiency(steps.flat())
    }
    yield { batches: steps[within]!, epoch: (step + 1) / stepsPerEpoch, padding_efficiency }
  }
}

/** One epoch as its optimiser steps, each of micro-batches, and of these the large ones in parts. */
function epochSteps(data: TrainData, args: TrainingArguments, model: Model, epoch: number): Batch[][] {
  const cut = cuttable(model.setup)
  const most = cut === 'never' ? 0 : args.max_tokens_per_batch
  return microBatches(data, args, model, epoch).map((batches) =>
    batches.flatMap((batch) => inParts(batch, most, cut === 'same_length')),
  )
}

/** One epoch as the micro-batches of its optimiser steps; of several tasks, one of each to a step. */
function microBatches(
  { train, beside = [] }: TrainData,
  args: TrainingArguments,
  { roberta, setup }: Model,
  epoch: number,
): Batch[][] {
  const batchesOf = (rows: Encoded) =>
    epochBatches(rows, {
      batch_size: args.per_device_train_batch_size,
      seed: args.seed,
      epoch,
      group_by_length: args.group_by_length,
      pad_token_id: roberta.config.pad_token_id,
    })
  const own = batchesOf(train)
  const k = args.gradient_accumulation_steps
  if (beside.length === 0)
    return Array.from({ length: Math.ceil(own.length / k) }, (_, i) => own.slice(i * k, (i + 1) * k))
  if (k > 1)
    throw new Error(
      'Tasks that train together fill a step with one batch of each; set gradient_accumulation_steps to 1.',
    )
  const others = beside.map(({ head, train: rows }) => ({ head, batches: batchesOf(rows) }))
  return togetherSteps([{ head: setup.active_heads[0]!, batches: own }, ...others])
}

/** The state before the first step, or a checkpoint's. */
async function begin(
  model: Model,
  args: TrainingArguments,
  resume: Omit<Checkpoint, 'type' | 'asked'> | null,
): Promise<{ state: AdamWState; best: Best }> {
  const { layout } = model
  const started = (p: tf.Tensor1D, earlier: Omit<AdamWState, 'p'> | null = null) => {
    const state = adamwState(p, earlier)
    setParams(model, state.p)
    return state
  }
  if (!resume) {
    const state = started(tf.tidy(() => gather(layout, model.current.views, [], null)))
    return { state, best: new Best(args, await readVector(state.p), 0, null, 0) }
  }
  const size = layout.slots.reduce((sum, slot) => sum + slot.size, 0)
  const vector = (key: string): Float32Array => {
    const data = resume.tensors.get(key)?.data ?? new Float32Array(0)
    if (data.length !== size)
      throw new Error(
        `The checkpoint does not fit this adapter: ${key} has ${data.length} values, expected ${size}.`,
      )
    return spread(layout, data)
  }
  const [p, m, v, flat] = [vector('p'), vector('m'), vector('v'), vector('best')]
  const { best, waited } = resume.state
  return {
    state: started(tf.tensor1d(p), { m: tf.tensor1d(m), v: tf.tensor1d(v), step: resume.step }),
    best: new Best(args, flat, best.step, best.value, waited),
  }
}

async function checkpoint(
  layout: Layout,
  { p, m, v, step }: AdamWState,
  best: Best,
  asked: boolean,
): Promise<Checkpoint> {
  const { flat, value, waited } = best
  const entry = (values: Float32Array) => {
    const data = compact(layout, values)
    return { shape: [data.length], data }
  }
  const tensors: TensorMap = new Map([
    ['p', entry(await readVector(p))],
    ['m', entry(await readVector(m))],
    ['v', entry(await readVector(v))],
    ['best', entry(flat)],
  ])
  return {
    type: 'checkpoint',
    asked,
    step,
    state: { best: { step: best.step, value }, waited },
    tensors,
  }
}

/** Puts weights from the host into the model. */
function restore(model: Model, flat: Float32Array): void {
  const p = uploadTensor<tf.Rank.R1>(flat.slice(), [flat.length])
  setParams(model, p)
  p.dispose()
}

/** Gives the model its present values in memory of their own: where they lay, the optimiser's moments would stay. */
export function settle(model: Model, p: tf.Tensor1D): void {
  if (!whereOf(p)) return
  const own = tf.fill<tf.Rank.R1>(p.shape, 0)
  copyInto(own, p)
  setParams(model, own)
  own.dispose()
}

function isDue(args: TrainingArguments, step: number, stepsPerEpoch: number): boolean {
  return args.eval_strategy === 'epoch' ? step % stepsPerEpoch === 0 : step % args.eval_steps === 0
}

function count(batches: Batch[]): { rows: number; tokens: number } {
  return {
    rows: batches.reduce((sum, { B }) => sum + B, 0),
    tokens: batches.reduce((sum, { tokens }) => sum + tokens, 0),
  }
}

/** The end of a run whose loss or gradient is no longer a number, else null. */
function divergence(readings: StepReading[], best: Best): Ending | null {
  const bad = readings.find(({ loss, grad_norm }) => !Number.isFinite(loss) || !Number.isFinite(grad_norm))
  if (!bad) return null
  const what = Number.isFinite(bad.loss) ? 'The gradient' : 'The loss'
  const note = `${what} stopped being a number at step ${bad.step}; training ended and the weights of step ${best.step} were kept. A lower learning rate usually helps.`
  return { reason: 'diverged', note }
}

function earlyStop(
  { metric_for_best_model: metric }: TrainingArguments,
  { waited }: Best,
  step: number,
): Ending {
  return {
    reason: 'early',
    note: `Stopped early at step ${step}: ${metric} has not improved for ${waited} evaluations.`,
  }
}
