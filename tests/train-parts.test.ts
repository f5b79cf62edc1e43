/**
 * A step whose batches are computed in parts is the step of the whole batches: loss and gradient, for every kind of
 * target, under accumulation, and where gates or prompts heed the padding.
 */
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { classificationHead, type AdapterConfig, type HeadConfig, type ModelSetup } from '../src/config.ts'
import type { Encoded } from '../src/data/batches.ts'
import { maskingDefaults } from '../src/data/masking.ts'
import { openNodeBackend } from '../src/headless/node.ts'
import { cuttable } from '../src/methods/padding.ts'
import { presets } from '../src/methods/registry.ts'
import { maskedLMHead } from '../src/model/heads/maskedLM.ts'
import { initialTensors } from '../src/model/initialise.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { createModel, disposeModel, singleSetup, type Model } from '../src/model/model.ts'
import type { Roberta } from '../src/model/roberta.ts'
import { TorchGenerator } from '../src/random.ts'
import { train, type TrainEvent, type Wish } from '../src/train/train.ts'
import { trainingDefaults, type TrainingArguments } from '../src/trainingArguments.ts'
import { readModel } from './fixtures.ts'

const { config, weights } = await readModel('tests/fixtures/tiny-roberta')
let roberta: Roberta

beforeAll(async () => {
  await openNodeBackend('wasm')
  roberta = (await loadRoberta(config, weights, null)).roberta
})

/** Eleven texts of 4 to 19 tokens, which make batches of 4, 4 and 3. */
function texts(): Encoded {
  const generator = new TorchGenerator(6)
  const input_ids = Array.from({ length: 11 }, (_, i) => {
    const words = Array.from({ length: 2 + ((i * 7) % 16) }, () => 10 + (generator.next32() % 380))
    return Int32Array.from([0, ...words, 2])
  })
  return { input_ids, labels: Int32Array.from(input_ids.keys()).map((i) => i % 2) }
}

/** One step over all the texts: three accumulated batches. */
const oneStep: TrainingArguments = {
  ...trainingDefaults,
  max_steps: 1,
  per_device_train_batch_size: 4,
  gradient_accumulation_steps: 3,
  max_grad_norm: 0,
  eval_strategy: 'no',
  base_dropout: false,
  group_by_length: false,
  max_length: 20,
}
const limit = 24

const preset = (name: string): AdapterConfig => presets.find((one) => one.name === name)!.config
const head = (labels: number): HeadConfig => ({ ...classificationHead(labels), dropout_prob: 0 })

interface Case {
  adapter: AdapterConfig
  head: HeadConfig
  rows: Encoded
  args?: Partial<TrainingArguments>
}

function casesOf(rows: Encoded): Record<string, Case> {
  const n = rows.input_ids.length
  const vocabulary = {
    mask_token_id: 4,
    special_ids: new Set([0, 1, 2, 3, 4]),
    vocab_size: config.vocab_size,
  }
  const numbers = Float32Array.from({ length: n }, (_, i) => i / 3 - 1)
  const labels = Float32Array.from({ length: 3 * n }, (_, i) => (i * 5) % 2)
  const positions = Int32Array.from(rows.input_ids, (row) => row.length - 2)
  const words = Int32Array.of(20, 30)
  const lm = maskedLMHead(config)
  return {
    'seq_bn, classes, smoothed': {
      adapter: preset('seq_bn'),
      head: head(2),
      rows,
      args: { label_smoothing_factor: 0.1 },
    },
    'seq_bn, several labels': {
      adapter: preset('seq_bn'),
      head: { ...head(3), head_type: 'multilabel_classification' } as HeadConfig,
      rows: { ...rows, targets: { kind: 'multilabel', labels, num_labels: 3 } },
    },
    'seq_bn, a number': {
      adapter: preset('seq_bn'),
      head: head(1),
      rows: { ...rows, targets: { kind: 'regression', labels: numbers } },
    },
    'seq_bn, hidden words': {
      adapter: preset('seq_bn'),
      head: lm,
      rows: { ...rows, masking: { ...maskingDefaults, seed: 1, vocabulary } },
    },
    'seq_bn, label words': {
      adapter: preset('seq_bn'),
      head: lm,
      rows: { ...rows, targets: { kind: 'label_words', positions, words } },
    },
    'unipelt, whose gates heed the padding': { adapter: preset('unipelt'), head: head(2), rows },
    'prompt_tuning, whose prompt heeds it': { adapter: preset('prompt_tuning'), head: head(2), rows },
    'full fine-tuning': { adapter: { architecture: 'full' }, head: head(2), rows },
  }
}

const cases = casesOf(texts())

async function modelOf({ adapter, head }: Case): Promise<Model> {
  const setup = singleSetup('t', adapter, head)
  return createModel(roberta, setup, await initialTensors(roberta, setup, new Map(), 5, () => []))
}

interface Stepped {
  loss: number
  grad_norm: number
  /** (1 - β1) times the gradient. */
  m: Float32Array
  padding_efficiency: number
}

async function stepped(one: Case, args: Partial<TrainingArguments>): Promise<Stepped> {
  const model = await modelOf(one)
  const validation = { input_ids: [], labels: new Int32Array(0) }
  const program = train(model, { train: one.rows, validation }, { ...oneStep, ...one.args, ...args })
  const found: Partial<Stepped> = {}
  let wish: Wish
  for (;;) {
    const { value, done } = await program.next(wish)
    if (done) break
    wish = value.type === 'tick' ? 'checkpoint' : undefined
    note(value, found)
  }
  disposeModel(model)
  return found as Stepped
}

function note(event: TrainEvent, found: Partial<Stepped>): void {
  if (event.type === 'step') Object.assign(found, event)
  if (event.type === 'checkpoint') found.m = event.tensors.get('m')!.data
}

const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)

describe('a step in parts', () => {
  it.for(Object.entries(cases))(
    'is the step of the whole batches: %s',
    { timeout: 60_000 },
    async ([, one]) => {
      const before = tf.memory().numTensors
      const whole = await stepped(one, { max_tokens_per_batch: 0 })
      const parts = await stepped(one, { max_tokens_per_batch: limit })
      expect(tf.memory().numTensors).toBe(before)
      expect(Math.abs(parts.loss - whole.loss)).toBeLessThan(1e-5 * Math.max(1, whole.loss))
      expect(largest(whole.m)).toBeGreaterThan(0)
      expect(largest(whole.m.map((value, i) => value - parts.m[i]!))).toBeLessThan(1e-5 * largest(whole.m))
      if (cuttable(singleSetup('t', one.adapter, one.head)) === 'freely')
        expect(parts.padding_efficiency).toBeGreaterThan(whole.padding_efficiency + 0.1)
      else expect(parts.padding_efficiency).toBeCloseTo(whole.padding_efficiency, 12)
    },
  )

  it('repeats bit for bit from its seed, dropout included, which differs from part to part', async () => {
    const one = cases['seq_bn, classes, smoothed']!
    const args = { max_tokens_per_batch: limit, base_dropout: true, max_steps: 3 }
    const first = await stepped(one, args)
    expect((await stepped(one, args)).m).toEqual(first.m)
    // Twice one text, a part each: with one mask for both, both would have the gradient of one alone.
    const text = Int32Array.of(0, 7, 8, 9, 2)
    const alike = (count: number): Case => ({
      ...one,
      rows: { input_ids: new Array<Int32Array>(count).fill(text), labels: new Int32Array(count) },
    })
    const dropped = { ...args, max_steps: 1, max_tokens_per_batch: text.length }
    const [single, double] = [await stepped(alike(1), dropped), await stepped(alike(2), dropped)]
    expect(largest(single.m.map((value, i) => value - double.m[i]!))).toBeGreaterThan(
      1e-3 * largest(single.m),
    )
  })
})

it('cuts no batch whose rows are told apart by their place, and keeps the length where that matters', () => {
  const setup = singleSetup('a', preset('seq_bn'), head(2))
  const active = (type: 'Split' | 'BatchSplit'): ModelSetup['active'] => ({
    type: 'Stack',
    children: [
      'a',
      type === 'Split'
        ? { type, children: ['a', 'b'], splits: [3, 4] }
        : { type, children: ['a', 'b'], batch_sizes: [1, 2] },
    ],
  })
  expect(cuttable(setup)).toBe('freely')
  expect(cuttable({ ...setup, active: active('Split') })).toBe('same_length')
  expect(cuttable({ ...setup, active: active('BatchSplit') })).toBe('never')
  expect(cuttable(singleSetup('a', preset('unipelt'), head(2)))).toBe('same_length')
})
