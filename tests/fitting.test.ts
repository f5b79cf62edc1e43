/** Runs that a device cannot hold: said before training, with changes that do fit, each tried. */
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { classificationHead, type AdapterConfig, type ModelSetup } from '../src/config.ts'
import { openBackend } from '../src/kernels/backend.ts'
import { maskedLMHead } from '../src/model/heads/maskedLM.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { singleSetup } from '../src/model/model.ts'
import type { Roberta } from '../src/model/roberta.ts'
import { fitOf, plannedSizes, refuseOversize, type Fit } from '../src/train/fitting.ts'
import { needOf, type Sizes } from '../src/train/need.ts'
import { trainingDefaults, type TrainingArguments } from '../src/trainingArguments.ts'
import { FakeGpu } from './bench/fakeDevice.ts'
import { adapterOf, config } from './savingChecks.ts'
import { madeUpWeights } from './madeUp.ts'

/** The base on a fake device that lets a program see so many bytes at once. */
async function open(maxStorageBufferBindingSize = 2 ** 31 - 4): Promise<Roberta> {
  const gpu = new FakeGpu()
  gpu.limits.maxStorageBufferBindingSize = maxStorageBufferBindingSize
  await openBackend('webgpu', { gpu: gpu as unknown as GPU, variants: 'gpu' })
  return (await loadRoberta(config, madeUpWeights(config), maxStorageBufferBindingSize)).roberta
}

const setupOf = (adapter: AdapterConfig): ModelSetup => singleSetup('a', adapter, classificationHead(2))
const args: TrainingArguments = {
  ...trainingDefaults,
  max_tokens_per_batch: 0,
  per_device_train_batch_size: 32,
  per_device_eval_batch_size: 32,
  max_length: 76,
}
const sizes: Sizes = {
  setup: setupOf(adapterOf('seq_bn')),
  args,
  lengths: [76],
  hidden: null,
  random: false,
  texts: null,
}

/** Each remedy, taken, fits by itself, and it takes what was said of it. */
function checkRemedies(roberta: Roberta, { remedies }: Fit, room: number): void {
  for (const { change, total } of remedies) {
    const taken = fitOf(roberta, { ...sizes, args: { ...args, ...change } }, room)
    expect(taken.problem).toBeNull()
    expect(taken.need.total).toBe(total)
    expect(total).toBeLessThanOrEqual(room)
  }
}

describe('a run that takes more than there is', () => {
  it('is said, with parts, accumulation and checkpointing that fit', async () => {
    const roberta = await open()
    const before = tf.memory().numTensors
    const { total } = needOf(roberta, sizes).need
    expect(fitOf(roberta, sizes, total)).toMatchObject({ problem: null, remedies: [] })
    expect(fitOf(roberta, sizes, null).problem).toBeNull()
    const fit = fitOf(roberta, sizes, 0.9 * total)
    expect(fit.problem).toMatch(/needs about .* MB, and you say that the device has/)
    const training = (change: object) =>
      Object.keys(change).filter((key) => key !== 'per_device_eval_batch_size')
    expect(fit.remedies.map(({ change }) => training(change))).toEqual([
      ['max_tokens_per_batch'],
      ['per_device_train_batch_size', 'gradient_accumulation_steps'],
      ['gradient_checkpointing'],
    ])
    const change: Partial<TrainingArguments> = fit.remedies[1]!.change
    const { per_device_train_batch_size: rows = 0, gradient_accumulation_steps: k = 0 } = change
    expect(rows * k).toBe(32)
    checkRemedies(roberta, fit, 0.9 * total)
    expect(tf.memory().numTensors).toBe(before)
  })

  it('says so when nothing helps', async () => {
    const roberta = await open()
    const fit = fitOf(roberta, sizes, 1e6)
    expect(fit.problem).toMatch(/1 MB/)
    expect(fit.remedies).toEqual([])
  })

  it('evaluates fewer rows where that alone is too much', async () => {
    const roberta = await open()
    const few = { ...args, per_device_train_batch_size: 2, per_device_eval_batch_size: 256 }
    const room = needOf(roberta, { ...sizes, args: { ...few, per_device_eval_batch_size: 64 } }).need.total
    const fit = fitOf(roberta, { ...sizes, args: few }, room)
    expect(fit.problem).not.toBeNull()
    expect(fit.remedies[0]?.change).toEqual({ per_device_eval_batch_size: expect.any(Number) })
  })
})

describe('a piece that no program may see as a whole', () => {
  const train = {
    input_ids: Array.from({ length: 40 }, () => new Int32Array(76).fill(5)),
    labels: new Int32Array(40),
  }

  it('is refused before training, with a batch that fits', async () => {
    const roberta = await open(2 ** 20)
    const refused = () => refuseOversize(roberta, sizes.setup, train, args)
    expect(refused).toThrow(
      /a piece of 4 MB .* lets it see 2 MB\. Nothing was begun: it fits with max_tokens_per_batch \d+/,
    )
    const [, tokens] = /max_tokens_per_batch (\d+)/.exec(String(attempt(refused))) ?? []
    const [, rows] = /per_device_eval_batch_size (\d+)/.exec(String(attempt(refused))) ?? []
    const change = { max_tokens_per_batch: Number(tokens), per_device_eval_batch_size: Number(rows) }
    refuseOversize(roberta, sizes.setup, train, { ...args, ...change })
  })

  it('is no matter where everything is small enough', async () => {
    refuseOversize(await open(), sizes.setup, train, args)
  })
})

function attempt(f: () => void): unknown {
  try {
    return f()
  } catch (error) {
    return error
  }
}

it('plans with what is known of the rows', async () => {
  const lengths = Int32Array.of(9, 30, 12, 11, 50)
  const plan = (task: Parameters<typeof plannedSizes>[2], known: Int32Array | null) =>
    plannedSizes(
      sizes.setup,
      { ...args, max_length: 40 },
      task,
      known && { lengths: known, dataset: { test: [] } },
    )
  const none = { masked_lm: null, label_words: null }
  expect(plan(none, lengths).lengths).toEqual([40, 12])
  expect(plan(none, null).lengths).toEqual([40])
  expect(plan({ ...none, label_words: { words: ['a', 'b'] } }, lengths)).toMatchObject({
    lengths: [40],
    hidden: { label_words: 2 },
  })
})

it('counts the texts that are learnt from, as far as they are read', () => {
  const short = { ...args, max_length: 40 }
  const plan = (label_words: { words: string[] } | null, tests: number) =>
    plannedSizes(
      sizes.setup,
      short,
      { masked_lm: null, label_words },
      { lengths: Int32Array.of(9, 30, 12, 11, 50), dataset: { test: new Array(tests) } },
    )
  expect(plan(null, 0).texts).toEqual({ count: 5, tokens: 102 })
  expect(plan(null, 2).texts).toEqual({ count: 3, tokens: 51 })
  expect(plan({ words: ['a', 'b'] }, 2).texts).toEqual({ count: 3, tokens: 120 })
  expect(plannedSizes(sizes.setup, short, { masked_lm: null, label_words: null }, null).texts).toBeNull()
})

it('knows masked words, words for labels, several labels and numbers', async () => {
  const roberta = await open()
  const lm = singleSetup('a', adapterOf('seq_bn'), maskedLMHead(config))
  for (const hidden of [{ mlm_probability: 0.15 }, { label_words: 2 }])
    expect(needOf(roberta, { ...sizes, setup: lm, hidden }).need.total).toBeGreaterThan(1e6)
  for (const head of [
    { ...classificationHead(3), head_type: 'multilabel_classification' as const },
    classificationHead(1),
  ]) {
    const setup = singleSetup('a', adapterOf('lora'), head)
    expect(needOf(roberta, { ...sizes, setup }).need.total).toBeGreaterThan(1e6)
  }
})
