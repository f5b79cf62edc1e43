/**
 * The training loop as an async generator (transformers `Trainer._inner_training_loop`): one optimiser step per pull,
 * so that pause, single step, stop and tests all use the same `next()`. What the caller passes to `next` is a wish.
 * Everything follows from the arguments and the seed: a run resumed from a checkpoint goes on as if never cut off.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterDrop, TensorMap } from '../config.ts'
import type { TrainingArguments } from '../trainingArguments.ts'
import type { Batch, Encoded } from '../data/batches.ts'
import { epochBatches } from '../data/masking.ts'
import { togetherSteps } from '../data/tasks.ts'
import { adamwState, type AdamWState } from '../kernels/adamw.ts'
import { skippedLayers } from '../methods/adapterDrop.ts'
import { setParams, type Model } from '../model/model.ts'
import { Best, readVector } from './best.ts'
import { evaluate } from './evaluate.ts'
import type { Metrics } from './metrics.ts'
import { missing, type Missed } from './adamwByLayer.ts'
import { startInPath, updateInPath, type InPath } from './inPath.ts'
import { Readings, type StepReading } from './readings.ts'
import { learningRate, plan } from './schedule.ts'
import { optimiserStep } from './step.ts'

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

/** Everything a run needs to go on: `p`, `m`, `v` and `best`, each [n] in the layout's order. */
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

export interface TrainResult extends Ending {
  step: number
  best_step: number
}

/**
 * Trains `model` in place and leaves the best weights in it (the last ones when nothing chooses). `resume` is an
 * earlier checkpoint of the same run. Frees all it made when it ends or is abandoned, but not the model.
 */
export async function* train(
  model: Model,
  data: TrainData,
  args: TrainingArguments,
  resume: Omit<Checkpoint, 'type' | 'asked'> | null = null,
  drop: AdapterDrop | null = null,
): AsyncGenerator<TrainEvent, TrainResult, Wish> {
  const schedule = plan(args, longest(data))
  const { stepsPerEpoch, total } = schedule
  const evaluates = args.eval_strategy !== 'no' && data.validation.labels.length > 0
  const readings = new Readings(args.logging_steps)
  const start = await begin(model, args, resume)
  const { best } = start
  let { state } = start
  let ending = best.exhausted ? earlyStop(args, best, state.step) : null
  let paths: InPath[] | null = null

  try {
    for (const { batches, epoch } of stepsFrom(data, args, model, schedule, state.step)) {
      if (ending) break
      if (!paths) yield* (paths = await startInPath(model, batches[0]!))
      readings.startWatch()
      const learning_rate = learningRate(args, schedule, state.step)
      const call = state.step * args.gradient_accumulation_steps
      const { state: next, ...scalars } = atDepth(model, drop, args.seed, state.step, (missed) =>
        optimiserStep(model, state, batches, args, learning_rate, call, missed),
      )
      state = next
      const { step } = state
      const last = step === total
      const evaluateNow = evaluates && (last || isDue(args, step, stepsPerEpoch))
      const due = await readings.add({ step, epoch, learning_rate, ...scalars, ...count(batches) })
      if (last || evaluateNow) due.push(...(await readings.drain()))
      yield* due
      ending = divergence(due, best)
      if (ending) break
      readings.stopWatch()

      if (evaluateNow) {
        yield* evaluation(model, data.validation, args, { state, best, epoch })
        yield* await updateInPath(model, batches[0]!, paths)
        yield await checkpoint(state, best, false)
        if (best.exhausted) ending = earlyStop(args, best, step)
      }
      const wish = yield* tick(state, best, readings, total)
      if (wish === 'stop')
        ending = { reason: 'stopped', note: `Stopped by hand after step ${step} of ${total}.` }
      if (ending) break
    }
    const rest = await readings.drain()
    yield* rest
    ending = divergence(rest, best) ?? ending ?? { reason: 'finished', note: null }
    const keepBest = ending.reason === 'diverged' || (args.load_best_model_at_end && best.value !== null)
    if (keepBest) restore(model, best.flat)
    return { ...ending, step: state.step, best_step: keepBest ? best.step : state.step }
  } finally {
    readings.dispose()
    tf.dispose([state.p, state.m, state.v])
  }
}

/** Rows of the longest of the tasks, which says how long an epoch is. */
function longest({ train, beside = [] }: TrainData): number {
  return Math.max(train.labels.length, ...beside.map((task) => task.train.labels.length))
}

/** Ends an optimiser step and answers wishes for checkpoints until there are no more; returns the last wish. */
async function* tick(
  state: AdamWState,
  best: Best,
  readings: Readings,
  total: number,
): AsyncGenerator<TrainEvent, Wish, Wish> {
  let wish = yield { type: 'tick', step: state.step, total }
  while (wish === 'checkpoint') {
    yield* await readings.drain()
    wish = yield await checkpoint(state, best, true)
  }
  return wish
}

/** Judges the present weights and keeps them when they are the best so far. */
async function* evaluation(
  model: Model,
  validation: Encoded,
  args: TrainingArguments,
  { state, best, epoch }: { state: AdamWState; best: Best; epoch: number },
): AsyncGenerator<Evaluation, void> {
  const { metrics } = await evaluate(model, validation, args.per_device_eval_batch_size)
  const { step, p } = state
  yield { type: 'evaluation', step, epoch, metrics, best: await best.offer(metrics, p, step) }
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
): Generator<{ batches: Batch[]; epoch: number }> {
  for (let step = from, steps: Batch[][] = []; step < total; step++) {
    const within = step % stepsPerEpoch
    if (within === 0 || step === from) steps = epochSteps(data, args, model, Math.floor(step / stepsPerEpoch))
    yield { batches: steps[within]!, epoch: (step + 1) / stepsPerEpoch }
  }
}

/** One epoch as the micro-batches of its optimiser steps; of several tasks, one of each to a step. */
function epochSteps(
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
  if (!resume) {
    const { layout, current } = model
    const flatten = ({ key }: { key: string }) => tf.reshape(current.views.get(key)!, [-1]) as tf.Tensor1D
    const p = tf.tidy(() => tf.concat1d(layout.slots.map(flatten)))
    return { state: adamwState(p), best: new Best(args, await readVector(p), 0, null, 0) }
  }
  const vector = (key: string): Float32Array => {
    const { size } = model.layout
    const data = resume.tensors.get(key)?.data ?? new Float32Array(0)
    if (data.length !== size)
      throw new Error(
        `The checkpoint does not fit this adapter: ${key} has ${data.length} values, expected ${size}.`,
      )
    return data
  }
  const [p, m, v] = [tf.tensor1d(vector('p')), tf.tensor1d(vector('m')), tf.tensor1d(vector('v'))]
  setParams(model, p)
  const { best, waited } = resume.state
  return {
    state: { p, m, v, step: resume.step },
    best: new Best(args, vector('best'), best.step, best.value, waited),
  }
}

async function checkpoint({ p, m, v, step }: AdamWState, best: Best, asked: boolean): Promise<Checkpoint> {
  const { flat, value, waited } = best
  const entry = (data: Float32Array) => ({ shape: [data.length], data })
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
  const p = tf.tensor1d(flat)
  setParams(model, p)
  p.dispose()
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
