/**
 * What a training step and an evaluation take, found by doing both on paper (kernels/paper.ts): the very walk, pool and
 * optimiser that the run will use, without its memory and without waiting.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { HeadConfig, ModelSetup, Targets } from '../config.ts'
import { adamwState } from '../kernels/adamw.ts'
import { blanksOf, blankTensor, onPaper, type Paper, type PaperPipeline } from '../kernels/paper.ts'
import { cuttable } from '../methods/padding.ts'
import { uploadBatch, type HostBatch } from '../model/batch.ts'
import {
  disposeModel,
  lossAndGradient,
  maskedScores,
  outlineModel,
  predict,
  setParams,
  type Model,
} from '../model/model.ts'
import { gather } from '../model/params.ts'
import { assemble, disposeRoberta, type Roberta } from '../model/roberta.ts'
import type { Matrix } from '../model/ops.ts'
import { Var } from '../model/tape.ts'
import { rowsAtOnce, type TrainingArguments } from '../trainingArguments.ts'
import { begunWith, computeFeatures, featuresOf, hasFeatures } from './featureCache.ts'
import { passedByAlone } from './inPath.ts'
import { memoryAlone } from './keptRows.ts'
import { optimiserStep, savingOf } from './step.ts'
import { settle } from './train.ts'

/** A run as far as its memory goes. */
export interface Sizes {
  setup: ModelSetup
  args: TrainingArguments
  /** Padded lengths of batches, special tokens included, the longest first; a few stand for all. */
  lengths: [number, ...number[]]
  /** With a masked-LM head: the share of the tokens that are hidden, or how many words answer for the classes. */
  hidden: { mlm_probability: number } | { label_words: number } | null
  /** AdapterDrop draws its layers. */
  random: boolean
  /** The rows whose features are kept where they can be, and their tokens; null: not known. */
  texts: { count: number; tokens: number } | null
}

/** Bytes on the device, the pool's free buffers included, but for `features`. */
export interface Need {
  /** The most at any time: at the start of the run, in a step, or in an evaluation. */
  total: number
  /** The base model, which stays whatever trains. */
  weights: number
  /** Everything that stands on it, with both moments of what trains. */
  trained: number
  /** The most that a training step takes beside these. */
  step: number
  /** The most that an evaluation takes beside these. */
  evaluation: number
  /** The largest part of a buffer that one program has to see. */
  largest: number
  /** Features that are kept from pass to pass outside the device, as far as there is room for them (keptRows.ts). */
  features: number
}

/** What a run of `sizes` on the open device, which must be webgpu, will take, and which programs it will run. */
export function needOf(roberta: Roberta, sizes: Sizes): { need: Need; programs: Map<string, PaperPipeline> } {
  return onPaper((paper) => {
    const base = blankRoberta(roberta)
    const weights = paper.used
    const model = outlineModel(base, sizes.setup, (shape) => blankTensor(shape))
    try {
      const state = begun(model, paper)
      const standing = paper.used
      const start = paper.peak
      paper.resetPeak()
      const end = steps(model, state, sizes, paper)
      const step = paper.peak
      paper.resetPeak()
      evaluated(model, sizes, paper)
      const evaluation = paper.peak
      settle(model, end.p)
      tf.dispose([end.p, end.m, end.v])
      const need = {
        total: Math.max(start, step, evaluation),
        weights,
        trained: standing - weights,
        step: step - standing,
        evaluation: evaluation - standing,
        largest: paper.largest,
        features: featureBytes(model, sizes),
      }
      return { need, programs: paper.programs() }
    } finally {
      disposeModel(model)
      disposeRoberta(base)
    }
  })
}

/** The same tree without values, each tensor as it lies on the open device. */
function blankRoberta({ config, vars, embeddings }: Roberta): Roberta {
  const blank = blanksOf()
  const alike = <V extends Var>({ tensor, trained, leaf, shape }: V) =>
    new Var(blank(tensor), trained, leaf, shape) as V
  const own = new Map([...vars].map(([key, one]) => [key, alike(one)]))
  const words = embeddings.word_embeddings.weight.map((block) => alike<Matrix>(block))
  const tree = assemble(
    config,
    words,
    (key) => own.has(key),
    (key) => own.get(key)!,
  )
  return { config, vars: own, ...tree }
}

/** The optimiser's state before the first step, as train.ts begins; the vector is read back once. */
function begun(model: Model, paper: Paper): ReturnType<typeof adamwState> {
  const { layout } = model
  const state = adamwState(tf.tidy(() => gather(layout, model.current.views, [], null)))
  setParams(model, state.p)
  paper.read(4 * layout.size)
  return state
}

/** What is asked of the gradient before the first step (inPath.ts). */
function lookedAt(model: Model, batch: HostBatch, args: TrainingArguments, paper: Paper): void {
  const { layout, roberta, setup } = model
  if (setup.train.adapters.length + setup.train.fusions.length === 0) return
  tf.tidy(() => {
    lossAndGradient(model, uploadBatch(roberta.config, batch), null, 0, savingOf(args))
    paper.read(4 * layout.size)
  })
}

/** Optimiser steps on batches of every length, and on the longest again: the pool then holds what fits none of them. */
function steps(model: Model, state: ReturnType<typeof adamwState>, sizes: Sizes, paper: Paper): typeof state {
  const { args, lengths } = sizes
  const [longest] = lengths
  lookedAt(model, fullBatch(model, sizes, rowsOf(model, sizes, longest), longest), args, paper)
  for (const S of [...lengths, longest]) {
    const batches = begunBatches(model, sizes, microBatches(model, sizes, S), paper)
    const next = optimiserStep(model, state, batches, args, args.learning_rate, 0)
    tf.dispose([next.loss, next.grad_norm, ...startsOf(batches)])
    state = next.state
  }
  // As readings.ts reads the losses of several steps at once.
  tf.tidy(() => void tf.stack(new Array<tf.Tensor>(2 * args.logging_steps).fill(blankTensor([]))))
  return state
}

/** The run's evaluations begin with features, the test at its end does not. */
function evaluated(model: Model, sizes: Sizes, paper: Paper): void {
  const { roberta, setup } = model
  const { per_device_eval_batch_size: B } = sizes.args
  const [longest] = sizes.lengths
  const run = (batch: HostBatch, without: string | null) =>
    tf.tidy(() => {
      const uploaded = uploadBatch(roberta.config, batch)
      if (batch.targets?.kind === 'masked_lm' && without === null) maskedScores(model, uploaded)
      else predict(model, uploaded, without)
    })
  for (const S of sizes.lengths) {
    const batch = fullBatch(model, sizes, B, S)
    const begun = begunBatches(model, sizes, [batch], paper)
    for (const one of new Set([...begun, batch])) run(one, null)
    tf.dispose(startsOf(begun))
  }
  const train = fullBatch(model, sizes, rowsOf(model, sizes, longest), longest)
  for (const name of passedByAlone(setup)) run(train, name)
}

/** Rows of S tokens that are computed at once. */
function rowsOf({ setup }: Model, { args }: Sizes, S: number): number {
  const most = cuttable(setup) === 'never' ? 0 : args.max_tokens_per_batch
  return Math.min(args.per_device_train_batch_size, rowsAtOnce(most, S))
}

/** Batches as the run begins them: features are computed or uploaded for all of a step, and kept outside the device. */
function begunBatches(
  model: Model,
  { args, random }: Sizes,
  batches: HostBatch[],
  paper: Paper,
): HostBatch[] {
  const features = featuresOf(model, args, random)
  if (!features) return batches
  return batches.map((host) => {
    if (!hasFeatures(features, host)) return host
    const x = computeFeatures(model, features, host)
    paper.read(4 * x.size)
    return begunWith(features, host, x)
  })
}

function startsOf(batches: HostBatch[]): tf.Tensor[] {
  return batches.flatMap(({ start }) => (start ? [start.x] : []))
}

/** Each text's features once, as far as there is room in memory; more of them go to a file. */
function featureBytes(model: Model, { args, random, texts, hidden }: Sizes): number {
  const features = featuresOf(model, args, random)
  if (!features || !texts || (hidden && 'mlm_probability' in hidden)) return 0
  const vectors = features.reading ? texts.count : texts.tokens
  return Math.min(4 * vectors * model.roberta.config.hidden_size, memoryAlone.memoryBytes)
}

/** The batches of one step; more than two take no more memory than two, but for the features that they begin with. */
function microBatches(model: Model, sizes: Sizes, S: number): HostBatch[] {
  const { per_device_train_batch_size: size, gradient_accumulation_steps: k } = sizes.args
  const rows = rowsOf(model, sizes, S)
  const whole = k * Math.ceil(size / rows)
  const count = featuresOf(model, sizes.args, sizes.random) ? whole : Math.min(whole, 2)
  const batch = fullBatch(model, sizes, rows, S)
  return Array.from({ length: count }, () => batch)
}

function headOf({ setup }: Model): HeadConfig {
  return setup.heads[setup.active_heads[0]!]!
}

/** A batch of B rows of S tokens, none of them padding. */
function fullBatch(model: Model, { hidden }: Sizes, B: number, S: number): HostBatch {
  const { pad_token_id } = model.roberta.config
  const head = headOf(model)
  const attention_mask = new Int32Array(B * S).fill(1)
  // Any word but padding.
  const input_ids = new Int32Array(B * S).fill(pad_token_id === 0 ? 1 : 0)
  const targets = targetsOf(head, hidden, B, S)
  return { B, S, input_ids, attention_mask, labels: new Int32Array(B), targets }
}

function targetsOf(head: HeadConfig, hidden: Sizes['hidden'], B: number, S: number): Targets | null {
  if (head.head_type === 'masked_lm') {
    if (hidden && 'label_words' in hidden) {
      const positions = Int32Array.from({ length: B }, (_, b) => b * S)
      return { kind: 'label_words', positions, words: new Int32Array(hidden.label_words) }
    }
    const count = Math.max(1, Math.ceil((hidden?.mlm_probability ?? 1) * B * S))
    return {
      kind: 'masked_lm',
      positions: Int32Array.from({ length: count }, (_, i) => i),
      ids: new Int32Array(count),
    }
  }
  const { num_labels } = head
  if (head.head_type === 'multilabel_classification')
    return { kind: 'multilabel', labels: new Float32Array(B * num_labels), num_labels }
  return num_labels === 1 ? { kind: 'regression', labels: new Float32Array(B) } : null
}
