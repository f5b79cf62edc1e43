/**
 * The program: a base model, a data set, adapters, training, judgement. The tab's worker and the headless runner both
 * run this file; what differs is where bytes come from and where events go.
 */
import { keptOf, withDrop, type Assembled, type Own } from './assembly.ts'
import { refuseProblems } from './problems.ts'
import type { AdapterBundle, AdapterDrop, SetupBundle } from './config.ts'
import type { TrainingArguments } from './trainingArguments.ts'
import type { Base } from './base.ts'
import type { Encoded } from './data/batches.ts'
import type { Dataset } from './data/dataset.ts'
import { openScratchFile } from './io/scratchFile.ts'
import { initialTensors } from './model/initialise.ts'
import { createModel, disposeModel, tensorsOf, type Model } from './model/model.ts'
import { judge } from './predict.ts'
import type { Judged } from './protocol.ts'
import type { Metrics } from './train/metrics.ts'
import { encodeFor, labelsOf, type TaskOptions } from './task.ts'
import { refuseOversize } from './train/fitting.ts'
import { memoryAlone } from './train/keptRows.ts'
import { train, type Checkpoint, type TrainEvent, type TrainResult, type Wish } from './train/train.ts'

/** What a run needs, all of it plain data but the base. */
export interface Job {
  base: Base
  dataset: Dataset
  /** Other tasks that train together with this one, each with a head of its own in `assembled`. */
  beside?: { head: string; dataset: Dataset }[]
  /** The adapter and head that the run makes. */
  own: Own
  /** All that stands on the base, `own` among it, with the tensors of what was loaded; the rest starts from the seed. */
  assembled: Assembled
  args: TrainingArguments
  task: TaskOptions
  adapter_drop: AdapterDrop | null
  resume: Omit<Checkpoint, 'type' | 'asked'> | null
}

export interface Outcome extends TrainResult {
  model: Model
  /** The run's own adapter and head with the kept weights, or the whole setup where other adapters stand beside it. */
  kept: AdapterBundle | SetupBundle
  /** Of the kept weights, on the test split; null when it is empty. */
  test: Metrics | null
  judged: Judged[]
}

/** Trains and judges; every pull of the generator is at most one optimiser step. */
export async function* run(job: Job): AsyncGenerator<TrainEvent, Outcome, Wish> {
  const { base, dataset, assembled, args, adapter_drop, resume } = job
  const { given } = assembled
  const setup = withDrop(assembled.setup, adapter_drop)
  refuseProblems(job)
  const encoded = (rows: Dataset['train'], of = dataset): Encoded => encodeFor(base, of, rows, args, job.task)
  const start = await initialTensors(base.roberta, setup, given, args.seed, base.tokenizer.pieces)
  const model = createModel(base.roberta, setup, start)
  try {
    const beside = job.beside?.map(({ head, dataset: of }) => ({ head, train: encoded(of.train, of) }))
    const data = {
      train: encoded(dataset.train),
      validation: encoded(dataset.validation),
      ...(beside && { beside }),
    }
    refuseOversize(base.roberta, setup, data.train, args, adapter_drop?.mode === 'random')
    const room = { ...memoryAlone, openFile: openScratchFile }
    const result = yield* train(model, data, args, resume, adapter_drop, room)
    const { test, judged } = await judge(model, dataset.test, encoded(dataset.test), args)
    const done = { ...assembled, setup, given: await tensorsOf(model) }
    const kept = keptOf(job.own, done, labelsOf(job), base, args.max_length)
    return { ...result, model, kept, test, judged }
  } catch (error) {
    disposeModel(model)
    throw error
  }
}
