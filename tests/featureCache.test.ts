/** Features kept from epoch to epoch: how far up they go, that a run with them is the run without, and what they save. */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { classificationHead, type AdapterConfig, type ModelSetup } from '../src/config.ts'
import { trainBatches } from '../src/data/batches.ts'
import { openNodeBackend } from '../src/headless/node.ts'
import { seqBn, seqBnInv } from '../src/methods/bottleneck.ts'
import { dynamicFusion } from '../src/methods/fusion.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { prefixTuningConfig } from '../src/methods/prefixTuning.ts'
import { promptTuningConfig } from '../src/methods/promptTuning.ts'
import { loreft } from '../src/methods/reft.ts'
import { settledLayers } from '../src/methods/settledLayers.ts'
import { maskedLMHead } from '../src/model/heads/maskedLM.ts'
import { uploadBatch } from '../src/model/batch.ts'
import * as engine from '../src/model/model.ts'
import type { Roberta } from '../src/model/roberta.ts'
import { KeptRows } from '../src/train/keptRows.ts'
import { train } from '../src/train/train.ts'
import { args, config, countingFile, data, fourLayers, furthest, H, layers, memory, modelOf, ran, rows, setupOf, small, tensors, type Options } from './featureCache.runs.ts' // prettier-ignore

let roberta: Roberta
let before = 0

beforeAll(async () => {
  await openNodeBackend('wasm')
  roberta = await fourLayers()
})

beforeEach(() => {
  before = tensors()
})

/** Nothing that a test makes may outlive it. */
afterEach(() => {
  expect(tensors()).toBe(before)
})

const bn: AdapterConfig = { ...seqBn, reduction_factor: 4 }
const reft = { ...loreft, dropout: 0, layers: [1, 3] }
const head: AdapterConfig = { architecture: 'head' }
const frozenBelow: Partial<ModelSetup> = {
  adapters: { below: bn, t: { ...bn, leave_out: [0, 1] } },
  active: { type: 'Stack', children: ['below', 't'] },
}

/** Each setup with the layers whose outputs nothing in it changes, and whether what trains first acts right above. */
const cases: [name: string, setup: ModelSetup, expected: number][] = [
  ['a head alone', setupOf(head), 4],
  ['seq_bn', setupOf(bn), 0],
  ['seq_bn that leaves out 0 and 1', setupOf({ ...seqBn, leave_out: [0, 1] }), 2],
  ['seq_bn that leaves out 0 and 2', setupOf({ ...seqBn, leave_out: [0, 2] }), 1],
  ['AdapterDrop of 3', setupOf(bn, { skip_layers: [0, 1, 2] }), 3],
  ['lora that leaves out 0', setupOf({ ...loraConfig, leave_out: [0] }), 1],
  ['prefix tuning that leaves out 0 and 1', setupOf({ ...prefixTuningConfig, leave_out: [0, 1] }), 2],
  ['loreft after 1 and 3', setupOf(reft), 1],
  ['an adapter over a frozen one', setupOf(bn, frozenBelow), 2],
  ['a fusion of frozen adapters', setupOf(head, {
    adapters: { a: { ...bn, leave_out: [0] }, b: { ...bn, leave_out: [0] } },
    fusions: { 'a,b': dynamicFusion },
    active: { type: 'Fuse', children: ['a', 'b'] },
    train: { adapters: [], fusions: ['a,b'], heads: ['t'], base: 'none' },
  }), 1],
] // prettier-ignore

describe('settledLayers', () => {
  it.each(cases)('%s', async (_, setup, expected) => {
    expect(settledLayers(setup, layers, false)).toBe(expected)
    const model = await modelOf(roberta, setup)
    const [host] = trainBatches(rows(5, 3), {
      batch_size: 5,
      seed: 1,
      epoch: 0,
      group_by_length: false,
      pad_token_id: 1,
    })
    const outputs = async () => {
      const states = tf.tidy(() => engine.hiddenStates(model, uploadBatch(roberta.config, host!)))
      const values = await Promise.all(states.map(async (state) => [...(await state.data())]))
      tf.dispose(states)
      return values
    }
    const first = await outputs()
    const flat = tf.tidy(() =>
      tf.add<tf.Tensor1D>(tf.randomNormal([model.layout.size], 0, 0.1, 'float32', 5), 0.3),
    )
    engine.setParams(model, flat)
    const second = await outputs()
    flat.dispose()
    engine.disposeModel(model)
    expect(second.slice(0, expected + 1)).toEqual(first.slice(0, expected + 1))
    if (expected < layers) expect(second[expected + 1]).not.toEqual(first[expected + 1])
  })

  const never: [string, ModelSetup][] = [
    ['biases', setupOf({ architecture: 'bitfit' })],
    ['full fine-tuning', setupOf({ architecture: 'full' })],
    ['prompt tuning', setupOf(promptTuningConfig)],
    ['an invertible block', setupOf({ ...seqBnInv, leave_out: [0, 1] })],
    ['gates, which average over padding', setupOf({ ...bn, use_gating: true, leave_out: [0, 1] } as AdapterConfig)],
    ['a frozen adapter that drops', setupOf(head, { adapters: { a: small }, active: 'a' })],
    ['Parallel', setupOf(head, { adapters: { a: bn, b: bn }, active: { type: 'Parallel', children: ['a', 'b'] } })],
  ] // prettier-ignore
  it.each(never)('keeps nothing under %s', (_, setup) => {
    expect(settledLayers(setup, layers, false)).toBe(0)
  })

  it('counts a frozen adapter as changing where AdapterDrop draws its layers', () => {
    const setup = setupOf(bn, frozenBelow)
    expect([settledLayers(setup, layers, false), settledLayers(setup, layers, true)]).toEqual([2, 0])
  })
})

/**
 * On wasm the sum of a softmax is split by its width, so that a text's hidden states differ by up to 2e-6 when its batch is
 * padded otherwise; the size of the batch changes nothing.
 */
const near = 2e-5

const mean = { ...classificationHead(2), pooling: 'mean' as const }
const runs: [name: string, setup: ModelSetup, options?: Options][] = [
  ['a head alone, on the first token', setupOf(head)],
  ['a head alone, on the mean', setupOf(head, { heads: { t: mean } })],
  ['a head alone over a frozen adapter', setupOf(head, { adapters: { a: bn }, active: 'a' })],
  ['a head alone, batches in parts', setupOf(head), { args: { ...args, max_tokens_per_batch: 40, gradient_accumulation_steps: 2 } }],
  ['AdapterDrop of 2, with dropout in the adapter', setupOf(small, { skip_layers: [0, 1] })],
  ['lora that leaves out 0 to 2', setupOf({ ...loraConfig, dropout: 0.1, leave_out: [0, 1, 2] })],
  ['AdapterDrop that draws, over layers left out', setupOf({ ...seqBn, reduction_factor: 4, leave_out: [0, 1] }), { drop: { mode: 'random', layers: 3 } }],
  ['two heads that read differently', setupOf(head, {
    heads: { t: classificationHead(2), u: mean },
    active_heads: ['t', 'u'],
    train: { adapters: [], fusions: [], heads: ['t', 'u'], base: 'none' },
  }), { data: { ...data, beside: [{ head: 'u', train: rows(9, 4) }] } }],
  ['label words', setupOf(head, { heads: { t: maskedLMHead(config) } }), { data: wordsData() }],
] // prettier-ignore

/** Rows whose second token is to be one of two words. */
function wordsData(): typeof data {
  const withWords = (encoded: ReturnType<typeof rows>) => ({
    ...encoded,
    targets: {
      kind: 'label_words' as const,
      positions: Int32Array.from(encoded.input_ids, ({ length }) => length - 2),
      words: Int32Array.of(50, 60_000),
    },
  })
  return { train: withWords(data.train), validation: withWords(data.validation) }
}

describe('a run with kept features is the run without', () => {
  it.each(runs)('%s', async (_, setup, options) => {
    const live = await ran(roberta, setup, null, options)
    const kept = await ran(roberta, setup, memory(1 << 20), options)
    expect(live.losses.length).toBeGreaterThan(8)
    expect(furthest(live, kept)).toBeLessThan(near)
    expect(kept.result).toEqual(live.result)
  })

  it('bit for bit, where batches are padded alike', async () => {
    const alike = { train: rows(18, 1, 16), validation: rows(11, 2, 16) }
    for (const setup of [setupOf(head), setupOf(small, { skip_layers: [0, 1] })]) {
      const live = await ran(roberta, setup, null, { data: alike })
      for (const room of [memory(1 << 20), memory(12_000)])
        expect(furthest(live, await ran(roberta, setup, room, { data: alike }))).toBe(0)
    }
  })

  it('whatever the room: none, for some rows, or for the rest in a file that fills up', async () => {
    const setup = setupOf(small, { skip_layers: [0, 1] })
    const live = await ran(roberta, setup, null)
    const files = [countingFile(1 << 20), countingFile(5000), countingFile(1 << 20, 4000)]
    const rooms = [
      memory(0),
      memory(6000),
      ...files.map((file) => ({ memoryBytes: 6000, openFile: async () => file })),
    ]
    for (const room of rooms) expect(furthest(live, await ran(roberta, setup, room))).toBeLessThan(near)
    const all = [...data.train.input_ids, ...data.validation.input_ids]
    const bytes = [...new Set(all.map(String))].reduce((sum, text) => sum + text.split(',').length * H * 4, 0)
    expect(files[0]!.written).toBeGreaterThan(bytes - 6000)
    expect(files[0]!.written).toBeLessThanOrEqual(bytes)
    expect(files[1]!.written).toBeGreaterThan(2000)
    expect(files[1]!.written).toBeLessThanOrEqual(5000)
    expect(files[2]!.written).toBeLessThanOrEqual(4000)
    for (const file of files) expect([file.given > file.written, file.closed]).toEqual([true, true])
  })
})

describe('what is computed', () => {
  /** How many numbers are kept of each row that comes from the device. */
  async function computed(setup: ModelSetup, room = memory(1 << 20), own = args): Promise<number[]> {
    const sizes: number[] = []
    const original = KeptRows.prototype.put
    const put = vi.spyOn(KeptRows.prototype, 'put').mockImplementation(async function (
      this: KeptRows,
      key,
      values,
    ) {
      sizes.push(values.length)
      await original.call(this, key, values)
    })
    await ran(roberta, setup, room, { args: own })
    put.mockRestore()
    return sizes
  }

  it('is each text once: a vector for a head, its own tokens where layers train above', async () => {
    const texts = [...data.train.input_ids, ...data.validation.input_ids]
    const lengths = texts.map(({ length }) => length)
    const vectors = await computed(setupOf(head))
    expect(vectors.length).toBeLessThanOrEqual(texts.length)
    expect(new Set(vectors)).toEqual(new Set([H]))
    const states = await computed(setupOf(small, { skip_layers: [0, 1] }))
    expect(states.length).toBeLessThanOrEqual(texts.length)
    expect(new Set(states)).toEqual(new Set(lengths.map((length) => length * H)))
  })

  it('is nothing to keep with the base’s dropout', async () => {
    expect(
      await computed(setupOf(head), memory(1 << 20), { ...args, base_dropout: true, num_train_epochs: 1 }),
    ).toEqual([])
  })
})

it('goes on from a checkpoint in the second epoch as if it had never been cut off', async () => {
  const setup = setupOf(small, { skip_layers: [0, 1] })
  const whole = await ran(roberta, setup, memory(1 << 20))
  const cut = await ran(roberta, setup, memory(1 << 20), {
    wish: (event) => (event.type === 'tick' && event.step === 7 ? 'checkpoint' : undefined),
  })
  const checkpoint = cut.events.find((event) => event.type === 'checkpoint' && event.step === 7)
  if (checkpoint?.type !== 'checkpoint') throw new Error('There is no checkpoint.')
  const resumed = await ran(roberta, setup, memory(1 << 20), { resume: checkpoint })
  const off = resumed.weights.map((value, i) => Math.abs(value - whole.weights[i]!))
  expect(Math.max(...off)).toBeLessThan(near)
  expect(resumed.result).toEqual(whole.result)
})

it('frees tensors and file when a run is stopped or abandoned', async () => {
  const file = countingFile(1 << 20)
  const room = { memoryBytes: 0, openFile: async () => file }
  const stopped = await ran(roberta, setupOf(head), room, {
    wish: (event) => (event.type === 'tick' && event.step === 6 ? 'stop' : undefined),
  })
  expect([stopped.result.reason, file.closed]).toEqual(['stopped', true])

  const other = countingFile(1 << 20)
  const model = await modelOf(roberta, setupOf(small, { skip_layers: [0, 1] }))
  const program = train(model, data, args, null, null, { memoryBytes: 0, openFile: async () => other })
  for (let i = 0; i < 9; i++) await program.next()
  expect(other.written).toBeGreaterThan(0)
  await program.throw(new Error('the device is gone')).catch(() => undefined)
  expect(other.closed).toBe(true)
  engine.disposeModel(model)
})

it('says so when a row is read that was never kept', () => {
  const kept = new KeptRows(memory(100))
  expect(() => kept.read('a', new Float32Array(1))).toThrow('never kept')
})
