/** What a run promises, on a tiny model: it repeats, resumes, stops, frees, keeps the best, and says when it breaks. */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { classificationHead, type AdapterConfig } from '../src/config.ts'
import { trainingDefaults, type TrainingArguments } from '../src/trainingArguments.ts'
import { trainBatches, type Encoded } from '../src/data/batches.ts'
import { adamwState } from '../src/kernels/adamw.ts'
import { openNodeBackend } from '../src/headless/node.ts'
import { seqBn as seqBnDefaults } from '../src/methods/bottleneck.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { initialTensors } from '../src/model/initialise.ts'
import { disposeBatch, uploadBatch } from '../src/model/batch.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import {
  createModel,
  disposeModel,
  lossAndGradient,
  predict,
  singleSetup,
  tensorsOf,
  type Model,
} from '../src/model/model.ts'
import { gather } from '../src/model/params.ts'
import type { Roberta } from '../src/model/roberta.ts'
import { TorchGenerator } from '../src/random.ts'
import { evaluate } from '../src/train/evaluate.ts'
import { Readings } from '../src/train/readings.ts'
import { optimiserStep } from '../src/train/step.ts'
import { train, type Checkpoint, type TrainEvent, type TrainResult, type Wish } from '../src/train/train.ts'
import { readModel } from './fixtures.ts'

const seqBn: AdapterConfig = { ...seqBnDefaults, reduction_factor: 4 }
const lora: AdapterConfig = { ...loraConfig, r: 4, alpha: 8 }
const base: TrainingArguments = {
  ...trainingDefaults,
  learning_rate: 5e-3,
  per_device_train_batch_size: 4,
  num_train_epochs: 3,
  logging_steps: 3,
  max_length: 16,
}

let roberta: Roberta
let before = 0

beforeAll(async () => {
  await openNodeBackend('wasm')
  const { config, weights } = await readModel('tests/fixtures/tiny-roberta')
  roberta = (await loadRoberta(config, weights, null)).roberta
})

beforeEach(() => {
  before = tf.memory().numTensors
})

/** Nothing that a test makes may outlive it. */
afterEach(() => {
  expect(tf.memory().numTensors).toBe(before)
})

/** Rows of 4 to 12 tokens whose label says whether token 7 or token 8 stands second. */
function rows(n: number, seed: number): Encoded {
  const generator = new TorchGenerator(seed)
  const labels = Int32Array.from({ length: n }, (_, i) => i % 2)
  const input_ids = Array.from(labels, (label) => {
    const length = 2 + (generator.next32() % 9)
    const words = Array.from({ length }, () => 10 + (generator.next32() % 380))
    return Int32Array.from([0, 7 + label, ...words, 2])
  })
  return { input_ids, labels }
}

const trainRows = rows(18, 1)
const validation = rows(10, 2)
const data = { train: trainRows, validation }

async function fresh(adapter: AdapterConfig, seed = 42): Promise<Model> {
  const setup = singleSetup('t', adapter, classificationHead(2))
  return createModel(roberta, setup, await initialTensors(roberta, setup, new Map(), seed, () => []))
}

interface Ran {
  events: TrainEvent[]
  result: TrainResult
  weights: number[]
}

/** Runs to the end; `wish` answers each event of a step's end. */
async function ran(
  adapter: AdapterConfig,
  args: TrainingArguments,
  options: { resume?: Checkpoint; wish?: (event: TrainEvent) => Wish; data?: typeof data } = {},
): Promise<Ran> {
  const model = await fresh(adapter, args.seed)
  const program = train(model, options.data ?? data, args, options.resume ?? null)
  const events: TrainEvent[] = []
  let wish: Wish
  for (;;) {
    const { value, done } = await program.next(wish)
    if (done) {
      const tensors = await tensorsOf(model)
      disposeModel(model)
      return { events, result: value, weights: [...tensors.values()].flatMap((tensor) => [...tensor.data]) }
    }
    events.push(value)
    wish = options.wish?.(value)
  }
}

const of = <T extends TrainEvent['type']>(events: TrainEvent[], type: T) =>
  events.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type)

describe.each([
  ['seq_bn', seqBn],
  ['lora', lora],
])('%s', (_, adapter) => {
  it('repeats bit for bit from its seed, dropout included, and differs with another', async () => {
    const first = await ran(adapter, base)
    const second = await ran(adapter, base)
    const other = await ran(adapter, { ...base, seed: 43 })
    expect(second.weights).toEqual(first.weights)
    expect(of(second.events, 'step').map(({ loss }) => loss)).toEqual(
      of(first.events, 'step').map(({ loss }) => loss),
    )
    expect(other.weights).not.toEqual(first.weights)
  })

  it('goes on from a checkpoint in mid-epoch as if it had never been cut off', async () => {
    const args = { ...base, gradient_accumulation_steps: 2 }
    const whole = await ran(adapter, args)
    const cut = await ran(adapter, args, {
      wish: (event) => (event.type === 'tick' && event.step === 4 ? 'checkpoint' : undefined),
    })
    const checkpoint = of(cut.events, 'checkpoint').find(({ step }) => step === 4)!
    const resumed = await ran(adapter, args, { resume: checkpoint })
    expect(resumed.weights).toEqual(whole.weights)
    expect(resumed.result).toEqual(whole.result)
    expect(of(resumed.events, 'step').at(-1)).toMatchObject({ loss: of(whole.events, 'step').at(-1)!.loss })
  })

  it('learns eight rows by heart', async () => {
    const eight = rows(8, 5)
    const args = {
      ...base,
      learning_rate: 1e-2,
      num_train_epochs: 30,
      eval_strategy: 'no' as const,
      base_dropout: false,
    }
    const { events } = await ran(adapter, args, { data: { train: eight, validation: rows(0, 0) } })
    expect(of(events, 'step').at(-1)!.loss).toBeLessThan(0.05)
  })
})

it('takes one step a pull and reports every step once, late', async () => {
  const { events, result } = await ran(seqBn, { ...base, eval_strategy: 'no' })
  const total = 15
  expect(result).toMatchObject({ reason: 'finished', step: total, best_step: total })
  expect(of(events, 'tick').map(({ step }) => step)).toEqual(Array.from({ length: total }, (_, i) => i + 1))
  expect(of(events, 'step').map(({ step }) => step)).toEqual(Array.from({ length: total }, (_, i) => i + 1))
  const firstReading = events.findIndex(({ type }) => type === 'step')
  expect(of(events.slice(0, firstReading), 'tick').length).toBeGreaterThanOrEqual(base.logging_steps)
})

it('leaves the best weights in the model, those whose validation metric it reported', async () => {
  const model = await fresh(seqBn)
  const program = train(model, data, { ...base, metric_for_best_model: 'loss', learning_rate: 2e-2 })
  let best = Infinity
  let result: TrainResult | undefined
  while (!result) {
    const { value, done } = await program.next()
    if (done) result = value
    else if (value.type === 'evaluation') {
      expect(value.best).toBe(value.metrics.loss < best)
      best = Math.min(best, value.metrics.loss)
    }
  }
  const { metrics } = await evaluate(model, validation, 4)
  expect(metrics.loss).toBeCloseTo(best, 6)
  disposeModel(model)
})

it('stops when asked, keeping what it has', async () => {
  const { events, result } = await ran(lora, base, {
    wish: (event) => (event.type === 'tick' && event.step === 7 ? 'stop' : undefined),
  })
  expect(result).toMatchObject({ reason: 'stopped', step: 7, best_step: 5 })
  expect(result.note).toContain('step 7 of 15')
  expect(of(events, 'step')).toHaveLength(7)
})

it('frees everything when it is abandoned in mid-run', async () => {
  const model = await fresh(seqBn)
  const program = train(model, data, base)
  for (let i = 0; i < 4; i++) await program.next()
  await program.throw(new Error('the device is gone')).catch(() => undefined)
  disposeModel(model)
})

it('stops early when the metric stands still', async () => {
  const args = { ...base, learning_rate: 0, num_train_epochs: 9, early_stopping_patience: 2 }
  const { result } = await ran(seqBn, args)
  expect(result).toMatchObject({ reason: 'early', step: 15, best_step: 5 })
  expect(result.note).toContain('f1_macro has not improved for 2 evaluations')
})

it('says at which step the loss stopped being a number, and keeps finite weights', async () => {
  const { result, weights } = await ran(seqBn, {
    ...base,
    learning_rate: 1e30,
    warmup_ratio: 0,
    max_grad_norm: 0,
  })
  expect(result.reason).toBe('diverged')
  expect(result.note).toMatch(/at step \d+;.*weights of step 0 were kept/)
  expect(weights.every(Number.isFinite)).toBe(true)
})

it('accumulates micro-batches into the step of the whole batch', async () => {
  const [batch] = trainBatches(rows(8, 3), {
    batch_size: 8,
    seed: 1,
    epoch: 0,
    group_by_length: true,
    pad_token_id: 1,
  })
  const { B, S, input_ids, attention_mask, labels } = batch!
  const half = (from: number) => ({
    ...{ B: B / 2, S, tokens: 0, indices: new Int32Array(0) },
    input_ids: input_ids.slice(from * S, (from + B / 2) * S),
    attention_mask: attention_mask.slice(from * S, (from + B / 2) * S),
    labels: labels.slice(from, from + B / 2),
  })
  const stepped = async (batches: Parameters<typeof optimiserStep>[2]) => {
    const model = await fresh(lora)
    const flat = tf.tidy(() => gather(model.layout, model.current.views, [], null))
    const { state, loss, grad_norm } = optimiserStep(model, adamwState(flat), batches, base, 1e-3, null)
    const numbers = [(await loss.data())[0]!, (await grad_norm.data())[0]!]
    const p = Float32Array.from(await state.p.data())
    tf.dispose([state.p, state.m, state.v, loss, grad_norm])
    disposeModel(model)
    return { numbers, p }
  }
  const whole = await stepped([{ B, S, input_ids, attention_mask, labels }])
  const parts = await stepped([half(0), half(B / 2)])
  parts.numbers.forEach((value, i) => expect(value).toBeCloseTo(whole.numbers[i]!, 5))
  parts.p.forEach((value, i) => expect(Math.abs(value - whole.p[i]!)).toBeLessThan(1e-5))
})

it('starts LoRA as the identity and seq_bn near it', async () => {
  const logitsOf = async (adapter: AdapterConfig) => {
    const head = singleSetup('t', { architecture: 'head' }, classificationHead(2))
    const given = await initialTensors(roberta, head, new Map(), 9, () => [])
    const setup = singleSetup('t', adapter, classificationHead(2))
    const model = createModel(roberta, setup, await initialTensors(roberta, setup, given, 3, () => []))
    const [host] = trainBatches(trainRows, {
      batch_size: 18,
      seed: 1,
      epoch: 0,
      group_by_length: false,
      pad_token_id: 1,
    })
    const batch = uploadBatch(roberta.config, host!)
    const { logits } = predict(model, batch)
    const values = [...(await logits.data())]
    logits.dispose()
    disposeBatch(batch)
    disposeModel(model)
    return values
  }
  const plain = await logitsOf({ architecture: 'head' })
  expect(await logitsOf(lora)).toEqual(plain)
  const bottleneck = await logitsOf(seqBn)
  expect(bottleneck).not.toEqual(plain)
})

it('has the adapter in the path: every trained tensor of both methods gets a gradient', async () => {
  for (const adapter of [seqBn, lora]) {
    const model = await fresh(adapter)
    const [host] = trainBatches(trainRows, {
      batch_size: 18,
      seed: 1,
      epoch: 0,
      group_by_length: false,
      pad_token_id: 1,
    })
    const batch = uploadBatch(roberta.config, host!)
    const { loss, gradient } = lossAndGradient(model, batch, null, 0)
    const flat = await gradient.data()
    for (const { key, offset, size } of model.layout.slots) {
      // lora_A's gradient is zero only while lora_B still is.
      if (!key.endsWith('lora_A'))
        expect(Math.max(...flat.slice(offset, offset + size).map(Math.abs)), key).toBeGreaterThan(0)
    }
    tf.dispose([loss, gradient])
    disposeBatch(batch)
    disposeModel(model)
  }
})

describe('the speed', () => {
  const facts = { epoch: 0, learning_rate: 1, rows: 4, tokens: 40, padding_efficiency: 0.9 }

  /** Steps of 4 rows, each with `waitMs` of training time; the samples a second that they report. */
  async function take(readings: Readings, steps: number, waitMs: number): Promise<number[]> {
    const speeds: number[] = []
    for (let step = 1; step <= steps; step++) {
      readings.startWatch()
      await new Promise((resolve) => setTimeout(resolve, waitMs))
      const scalars = { loss: tf.scalar(1), grad_norm: tf.scalar(1) }
      const due = await readings.add({ ...facts, step, ...scalars })
      speeds.push(...due.map(({ samples_per_second }) => samples_per_second))
      readings.stopWatch()
    }
    return speeds
  }
  const drained = async (readings: Readings) =>
    (await readings.drain()).map(({ samples_per_second }) => samples_per_second)

  it('leaves pauses out', async () => {
    const readings = new Readings(5)
    const speeds = await take(readings, 8, 20)
    await new Promise((resolve) => setTimeout(resolve, 1500))
    speeds.push(...(await take(readings, 9, 20)), ...(await drained(readings)))
    expect(speeds).toHaveLength(17)
    // 4 rows in 20 ms are 200 a second; a busy machine may be slower, never much faster.
    expect(Math.max(...speeds)).toBeLessThan(260)
    expect(Math.min(...speeds)).toBeGreaterThan(30)
  })

  it('does not leap when a half-full group is read right after a full one', async () => {
    const readings = new Readings(5)
    const speeds = await take(readings, 5, 40)
    // Four more steps that the host hands over at once: their time has gone to the group before.
    for (let step = 6; step <= 9; step++) {
      readings.startWatch()
      const scalars = { loss: tf.scalar(1), grad_norm: tf.scalar(1) }
      await readings.add({ ...facts, step, ...scalars })
      readings.stopWatch()
    }
    speeds.push(...(await drained(readings)))
    expect(speeds).toHaveLength(9)
    // 36 rows in no less than 200 ms.
    expect(Math.max(...speeds)).toBeLessThan(200)
  })
})
