/**
 * The program: a base model, a data set, an adapter, training, judgement. The tab's worker and the headless runner
 * both run this file; what differs is where bytes come from and where events go.
 */
import {
  adapterProblems,
  classificationHead,
  trainingProblems,
  type AdapterBundle,
  type AdapterConfig,
  type TrainingArguments,
} from './config.ts'
import type { Base } from './base.ts'
import { encode, type Encoded } from './data/batches.ts'
import type { Dataset } from './data/dataset.ts'
import { initialise } from './model/adapters.ts'
import { bundleOf, createModel, disposeModel, type Model } from './model/model.ts'
import { maxTokens } from './model/robertaConfig.ts'
import { judge } from './predict.ts'
import type { Judged } from './protocol.ts'
import type { Metrics } from './train/metrics.ts'
import { train, type Checkpoint, type TrainEvent, type TrainResult, type Wish } from './train/train.ts'

/** What a run needs, all of it plain data but the base. */
export interface Job {
  base: Base
  dataset: Dataset
  name: string
  adapter: AdapterConfig
  args: TrainingArguments
  resume: Omit<Checkpoint, 'type' | 'asked'> | null
}

export interface Outcome extends TrainResult {
  model: Model
  bundle: AdapterBundle
  /** Of the kept weights, on the test split; null when it is empty. */
  test: Metrics | null
  judged: Judged[]
}

/** Trains and judges; every pull of the generator is at most one optimiser step. */
export async function* run({
  base,
  dataset,
  name,
  adapter,
  args,
  resume,
}: Job): AsyncGenerator<TrainEvent, Outcome, Wish> {
  refuseProblems(base, adapter, args)
  const encoded = (rows: Dataset['train']): Encoded => encode(rows, base.tokenizer, args.max_length)
  const head = classificationHead(dataset.id2label.length)
  const start = initialise(base.config, adapter, head, name, args.seed)
  const model = createModel(base.roberta, name, adapter, head, start)
  try {
    const data = { train: encoded(dataset.train), validation: encoded(dataset.validation) }
    const result = yield* train(model, data, args, resume)
    const { test, judged } = await judge(model, dataset.test, encoded(dataset.test), args)
    const bundle = await bundleOf(model, dataset.id2label, base.identity, args.max_length)
    return { ...result, model, bundle, test, judged }
  } catch (error) {
    disposeModel(model)
    throw error
  }
}

/** Throws what is wrong with a job before anything is made of it. */
function refuseProblems({ config }: Base, adapter: AdapterConfig, args: TrainingArguments): void {
  const [problem] = [...adapterProblems(adapter), ...trainingProblems(args)]
  if (problem !== undefined) throw new Error(problem)
  if (args.max_length > maxTokens(config))
    throw new Error(
      `max_length is ${args.max_length}, but this model reads at most ${maxTokens(config)} tokens; lower it.`,
    )
}
