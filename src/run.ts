/**
 * The program: a base model, a data set, an adapter, training, judgement. The tab's worker and the headless runner
 * both run this file; what differs is where bytes come from and where events go.
 */
import {
  classificationHead,
  type AdapterBundle,
  type AdapterConfig,
  type TrainingArguments,
} from './config.ts'
import type { Base } from './base.ts'
import { encode, type Encoded } from './data/batches.ts'
import type { Dataset, Example } from './data/dataset.ts'
import { initialise } from './model/adapters.ts'
import { bundleOf, createModel, disposeModel, type Model } from './model/model.ts'
import type { Judged } from './protocol.ts'
import { argMax, evaluate } from './train/evaluate.ts'
import type { Metrics } from './train/metrics.ts'
import { train, type Checkpoint, type TrainEvent, type TrainResult, type Wish } from './train/train.ts'

/** What a run needs, all of it plain data but the base. */
export interface Job {
  base: Base
  dataset: Dataset
  name: string
  adapter: AdapterConfig
  args: TrainingArguments
  resume: Omit<Checkpoint, 'type'> | null
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

/** The kept weights on rows that neither training nor the choice of weights has seen. */
async function judge(
  model: Model,
  examples: Example[],
  encoded: Encoded,
  args: TrainingArguments,
): Promise<Pick<Outcome, 'test' | 'judged'>> {
  if (examples.length === 0) return { test: null, judged: [] }
  const { metrics, rows } = await evaluate(model, encoded, args.per_device_eval_batch_size)
  const judged = examples.map(({ text, label }, i) => {
    const predicted = argMax(rows[i]!)
    return { text, label, predicted, score: rows[i]![predicted]! }
  })
  return { test: metrics, judged }
}
