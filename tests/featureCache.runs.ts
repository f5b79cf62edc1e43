/** Small runs for the tests of the feature cache: a made-up model of four layers, rows of many lengths, and their results. */
import * as tf from '@tensorflow/tfjs-core'
import { classificationHead, type AdapterConfig, type AdapterDrop, type ModelSetup } from '../src/config.ts'
import type { Encoded } from '../src/data/batches.ts'
import { seqBn } from '../src/methods/bottleneck.ts'
import { initialTensors } from '../src/model/initialise.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { createModel, disposeModel, singleSetup, tensorsOf, type Model } from '../src/model/model.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import type { Roberta } from '../src/model/roberta.ts'
import { TorchGenerator } from '../src/random.ts'
import type { RowFile, RowRoom } from '../src/train/keptRows.ts'
import {
  train,
  type Checkpoint,
  type TrainData,
  type TrainEvent,
  type TrainResult,
  type Wish,
} from '../src/train/train.ts'
import { trainingDefaults, type TrainingArguments } from '../src/trainingArguments.ts'
import { madeUpWeights } from './madeUp.ts'

export const layers = 4
export const H = 32

export const config = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 70_000,
    hidden_size: H,
    num_hidden_layers: layers,
    num_attention_heads: 4,
    intermediate_size: 64,
    max_position_embeddings: 40,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

export async function fourLayers(): Promise<Roberta> {
  return (await loadRoberta(config, madeUpWeights(config), null)).roberta
}

/** Three epochs of 18 rows in batches of 4, evaluated after each, without the base's dropout. */
export const args: TrainingArguments = {
  ...trainingDefaults,
  learning_rate: 5e-3,
  per_device_train_batch_size: 4,
  per_device_eval_batch_size: 5,
  num_train_epochs: 3,
  logging_steps: 2,
  max_length: 24,
  base_dropout: false,
}

/** Rows of 3 to 20 tokens, or of `length`, ids beyond 16 bits among them; two are equal. */
export function rows(n: number, seed: number, length?: number): Encoded {
  const generator = new TorchGenerator(seed)
  const input_ids = Array.from({ length: n }, () => {
    const words = Array.from(
      { length: length ? length - 2 : 1 + (generator.next32() % 18) },
      () => 10 + (generator.next32() % 69_990),
    )
    return Int32Array.from([0, ...words, 2])
  })
  input_ids[n - 1] = input_ids[0]!.slice()
  return { input_ids, labels: Int32Array.from({ length: n }, (_, i) => i % 2) }
}

export const data: TrainData = { train: rows(18, 1), validation: rows(11, 2) }

export const small: AdapterConfig = { ...seqBn, reduction_factor: 4, dropout: 0.2 }

export async function modelOf(roberta: Roberta, setup: ModelSetup): Promise<Model> {
  return createModel(roberta, setup, await initialTensors(roberta, setup, new Map(), 7, () => []))
}

export function setupOf(adapter: AdapterConfig, more: Partial<ModelSetup> = {}): ModelSetup {
  return { ...singleSetup('t', adapter, classificationHead(2)), ...more }
}

export interface Ran {
  losses: number[]
  norms: number[]
  evaluations: number[]
  weights: number[]
  events: TrainEvent[]
  result: TrainResult
}

export interface Options {
  args?: TrainingArguments
  data?: TrainData
  resume?: Checkpoint
  drop?: AdapterDrop
  wish?: (event: TrainEvent) => Wish
}

/** A run to its end; `room` null: nothing is kept from epoch to epoch. */
export async function ran(
  roberta: Roberta,
  setup: ModelSetup,
  room: RowRoom | null,
  options: Options = {},
): Promise<Ran> {
  const model = await modelOf(roberta, setup)
  const program = train(
    model,
    options.data ?? data,
    options.args ?? args,
    options.resume ?? null,
    options.drop ?? null,
    room,
  )
  const events: TrainEvent[] = []
  let wish: Wish
  for (;;) {
    const { value, done } = await program.next(wish)
    if (!done) {
      events.push(value)
      wish = options.wish?.(value)
      continue
    }
    const tensors = await tensorsOf(model)
    disposeModel(model)
    return {
      losses: events.flatMap((event) => (event.type === 'step' ? [event.loss] : [])),
      norms: events.flatMap((event) => (event.type === 'step' ? [event.grad_norm] : [])),
      evaluations: events.flatMap((event) => (event.type === 'evaluation' ? [event.metrics.loss] : [])),
      weights: [...tensors.values()].flatMap((tensor) => [...tensor.data]),
      events,
      result: value,
    }
  }
}

/** The largest difference between two runs: of losses, norms and evaluations relative to 1, of weights as it is. */
export function furthest(a: Ran, b: Ran): number {
  const numbers = ({ losses, norms, evaluations, weights }: Ran) => [
    ...losses,
    ...norms,
    ...evaluations,
    ...weights,
  ]
  const [own, other] = [numbers(a), numbers(b)]
  if (own.length !== other.length) throw new Error(`The runs have ${own.length} and ${other.length} numbers.`)
  return own.reduce((most, value, i) => Math.max(most, Math.abs(value - other[i]!)), 0)
}

/** What a `countingFile` has seen, in bytes. */
interface Counted extends RowFile {
  written: number
  given: number
  closed: boolean
}

/** A file in memory of which the disk takes `diskBytes`. */
export function countingFile(capacity: number, diskBytes = Infinity): Counted {
  const bytes = new Map<number, Float32Array>()
  const file: Counted = {
    capacity,
    written: 0,
    given: 0,
    closed: false,
    write(values: Float32Array<ArrayBuffer>, at: number) {
      if (at + values.byteLength > diskBytes) return false
      bytes.set(at, values.slice())
      file.written += values.byteLength
      return true
    },
    read(values: Float32Array<ArrayBuffer>, at: number) {
      const found = bytes.get(at)
      if (found?.length !== values.length) throw new Error('Read from where nothing was written.')
      values.set(found)
      file.given += values.byteLength
    },
    async close() {
      file.closed = true
    },
  }
  return file
}

/** Memory alone. */
export function memory(memoryBytes: number): RowRoom {
  return { memoryBytes, openFile: async () => null }
}

export function tensors(): number {
  return tf.memory().numTensors
}
