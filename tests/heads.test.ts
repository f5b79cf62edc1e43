/** Heads against the real library's (tests/parity/heads.py): logits, losses, gradients, fresh values, and refusals. */
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import type { AdapterConfig, BnConfig, ClassificationHeadConfig, HeadConfig } from '../src/config.ts'
import type { ModelSetup, Targets } from '../src/config.ts'
import { openBackend } from '../src/kernels/backend.ts'
import { disposeBatch, uploadBatch, type Batch, type HostBatch } from '../src/model/batch.ts'
import {
  headForward,
  headLoss,
  headParameters,
  headProblems,
  initialiseHead,
  lossOf,
  maskedLMScores,
} from '../src/model/heads/head.ts'
import { maskedLMHead, pretrainedHead } from '../src/model/heads/maskedLM.ts'
import { vocabularyLoss } from '../src/model/heads/vocabularyLoss.ts'
import { Ops, type Matrix, type Vector } from '../src/model/ops.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import type { Linear, Weights } from '../src/model/roberta.ts'
import { constant, Tape, trained, type Var } from '../src/model/tape.ts'
import { ModelWalk } from '../src/model/walk.ts'
import { TorchGenerator } from '../src/random.ts'
import { decode, readFixture, type Stored } from './fixtures.ts'

interface Case {
  name: string
  label_smoothing?: number
  logits: Stored
  x: Stored
  weights: Record<string, Stored>
  loss: number
  grads: Record<string, Stored>
  dX: Stored
}

interface Base {
  config: object
  words: Stored
  input_ids: number[][]
  attention_mask: number[][]
}

interface ClassificationCase extends Case {
  head: ClassificationHeadConfig
  labels: number[] | number[][]
  pooler: Record<string, Stored>
}

interface MaskedLMCase extends Case {
  adapter: AdapterConfig | null
  prompt: number
  positions: number[]
  ids: number[]
}

interface LabelWordCase extends Case {
  words: number[]
  labels: number[]
  positions: number[]
}

interface MaskedLMFixture extends Base {
  trained: string[]
  cases: MaskedLMCase[]
  label_words: LabelWordCase[]
}

const configOf = (base: Base) => parseRobertaConfig(JSON.stringify(base.config))
const rows = await readFixture<Base & { cases: ClassificationCase[] }>('heads/classification')
const hidden = await readFixture<MaskedLMFixture>('heads/masked-lm')

function hostBatch(base: Base, labels: number[], targets: Targets | null): HostBatch {
  const [B, S] = [base.input_ids.length, base.input_ids[0]!.length]
  const flat = (rows: number[][]) => Int32Array.from(rows.flat())
  return {
    B,
    S,
    input_ids: flat(base.input_ids),
    attention_mask: flat(base.attention_mask),
    labels: Int32Array.from(labels),
    targets,
  }
}

const upload = ({ shape, data }: { shape: number[]; data: Float32Array }) => tf.tensor(data, shape)
const uploaded = (stored: Stored) => upload(decode(stored))

/** The largest difference, relative to the larger of 1 and the expected values. */
async function distance(tensor: tf.Tensor, stored: Stored): Promise<number> {
  const want = decode(stored)
  expect(tensor.shape).toEqual(want.shape)
  const got = await tensor.data()
  const scale = want.data.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-3)
  return want.data.reduce((worst, value, i) => Math.max(worst, Math.abs(value - got[i]!)), 0) / scale
}

interface Run {
  logits: tf.Tensor
  loss: tf.Tensor
  grads: Map<string, tf.Tensor>
  dX: tf.Tensor
}

/** The word table in `blocks` parts of about equal size. */
function wordBlocks(words: Stored, blocks: number, leaf: (tensor: tf.Tensor2D) => Matrix): Matrix[] {
  const whole = uploaded(words) as tf.Tensor2D
  const height = Math.ceil(whole.shape[0] / blocks)
  return Array.from({ length: blocks }, (_, b) => {
    const from = b * height
    return leaf(tf.slice(whole, [from, 0], [Math.min(height, whole.shape[0] - from), -1]))
  })
}

/** One head on the stored hidden state, everything of it trained, and the state itself too. */
function run(
  base: Base,
  head: HeadConfig,
  one: Case,
  host: HostBatch,
  more: {
    blocks?: number
    words?: Stored
    pooler?: Record<string, Stored>
    adapter?: AdapterConfig | null
    prompt?: number
  },
): Run {
  const config = configOf(base)
  const batch = uploadBatch(config, host)
  const vars = new Map<string, Var>()
  for (const [key, stored] of Object.entries(one.weights)) vars.set(key, trained(uploaded(stored)))
  const leaf = more.words ? trained<tf.Tensor2D> : constant<tf.Tensor2D>
  const words = wordBlocks(more.words ?? base.words, more.blocks ?? 1, leaf)
  const part = (name: string) => constant(uploaded(more.pooler![`roberta.pooler.dense.${name}`]!))
  const pooler =
    Object.keys(more.pooler ?? {}).length > 0
      ? { dense: { weight: part('weight'), bias: part('bias') } as Linear }
      : null
  const weights = { embeddings: { word_embeddings: { weight: words } }, pooler } as unknown as Weights
  const setup: ModelSetup = {
    adapters: more.adapter ? { a: more.adapter } : {},
    fusions: {},
    heads: { h: head },
    active: more.adapter ? 'a' : null,
    active_heads: ['h'],
    train: { adapters: [], fusions: [], heads: ['h'], base: 'none' },
    skip_layers: [],
  }
  const walk = new ModelWalk(config, { setup, vars }, batch, null, true)
  walk.layer = config.num_hidden_layers
  walk.S += more.prompt ?? 0
  const state = uploaded(one.x)
  const x = trained(tf.reshape<tf.Rank.R2>(state, [-1, config.hidden_size]))
  const logits = headForward(walk, weights, head, 'h', x, batch).tensor
  const loss = headLoss(walk, weights, head, 'h', x, batch, one.label_smoothing ?? 0)
  const found = walk.tape.backward([[loss, tf.scalar(1)]])
  const grads = new Map<string, tf.Tensor>()
  for (const [key, leaf] of vars) if (found.get(leaf)) grads.set(key, found.get(leaf)!)
  const blocks = words.map((block) => found.get(block)).filter((grad) => grad !== undefined)
  if (blocks.length > 0) grads.set('heads.h.3.weight', tf.concat(blocks, 0))
  walk.dispose()
  disposeBatch(batch)
  return { logits, loss: loss.tensor, grads, dX: tf.reshape(found.get(x)!, state.shape) }
}

async function compare(got: Run, want: Case): Promise<void> {
  expect(await distance(got.logits, want.logits)).toBeLessThan(1e-5)
  expect(Math.abs((await got.loss.data())[0]! - want.loss)).toBeLessThan(1e-5 * Math.max(1, want.loss))
  expect(await distance(got.dX, want.dX)).toBeLessThan(1e-4)
  expect([...got.grads.keys()].sort()).toEqual(Object.keys(want.grads).sort())
  for (const [key, grad] of got.grads) expect(await distance(grad, want.grads[key]!), key).toBeLessThan(1e-4)
}

describe.for(['cpu', 'wasm'] as const)('heads on %s', (backend) => {
  beforeAll(async () => void (await openBackend(backend)))

  test.for(rows.cases.map(({ name }) => name))('classification: %s', async (name) => {
    const one = rows.cases.find((other) => other.name === name)!
    const numbers = Float32Array.from(one.labels.flat())
    const several = one.head.head_type === 'multilabel_classification'
    const targets: Targets | null = several
      ? { kind: 'multilabel', labels: numbers, num_labels: one.head.num_labels }
      : one.head.num_labels === 1
        ? { kind: 'regression', labels: numbers }
        : null
    const labels = targets ? one.labels.map(() => 0) : one.labels.flat()
    await compare(run(rows, one.head, one, hostBatch(rows, labels, targets), { pooler: one.pooler }), one)
  })

  test.for(hidden.cases.flatMap(({ name }) => [1, 3].map((blocks) => [name, blocks] as const)))(
    'masked-LM: %s, words in %i blocks',
    async ([name, blocks]) => {
      const one = hidden.cases.find((other) => other.name === name)!
      const words = one.weights['heads.h.3.weight']!
      const { 'heads.h.3.weight': _tied, ...weights } = one.weights
      const targets: Targets = {
        kind: 'masked_lm',
        positions: Int32Array.from(one.positions),
        ids: Int32Array.from(one.ids),
      }
      const head = maskedLMHead(configOf(hidden))
      const adapter =
        one.prompt > 0 ? null : one.adapter && ({ ...one.adapter, architecture: null } as BnConfig)
      const more = { blocks, words, adapter, prompt: one.prompt }
      await compare(run(hidden, head, { ...one, weights }, hostBatch(hidden, [0, 0, 0], targets), more), one)
    },
  )

  test.for(hidden.label_words.map(({ name }) => name))('label words: %s', async (name) => {
    const one = hidden.label_words.find((other) => other.name === name)!
    const targets: Targets = {
      kind: 'label_words',
      positions: Int32Array.from(one.positions),
      words: Int32Array.from(one.words),
    }
    const host = hostBatch(hidden, one.labels, targets)
    await compare(
      run(hidden, maskedLMHead(configOf(hidden)), one, host, { blocks: backend === 'cpu' ? 1 : 2 }),
      one,
    )
  })

  test('the loss over the vocabulary is the same a few rows at a time', async () => {
    const one = hidden.cases[0]!
    const words = one.weights['heads.h.3.weight']!
    const bias = constant(uploaded(one.weights['heads.h.3.bias']!)) as Vector
    const results = [1e6, 30, 1].map((atOnce) => {
      const tape = new Tape({ records: true, halves: false, inHalf: false })
      const blocks = wordBlocks(words, 2, constant)
      const h = trained(uploaded({ ...one.x, shape: [33, 24] }) as tf.Tensor2D)
      const ids = tf.tensor1d(
        Int32Array.from({ length: 33 }, (_, i) => (i * 7) % 41),
        'int32',
      )
      const loss = vocabularyLoss(new Ops(tape, null), h, { blocks, bias }, ids, 0.1, atOnce)
      return [loss.tensor, tape.backward([[loss, tf.scalar(2)]]).get(h)!] as const
    })
    const [whole, ...others] = await Promise.all(
      results.map(async ([loss, dH]) => [...(await loss.data()), ...(await dH.data())]),
    )
    for (const other of others)
      expect(Math.max(...other!.map((value, i) => Math.abs(value - whole![i]!)))).toBeLessThan(2e-6)
  })

  test('two heads: their losses add up, and a batch for one leaves the other at rest', async () => {
    const config = configOf(rows)
    const one = rows.cases[0]!
    const results = [null, 'h', 'other'].map((head) => {
      const batch = uploadBatch(config, { ...hostBatch(rows, one.labels.flat(), null), head })
      const vars = new Map<string, Var>()
      for (const [key, stored] of Object.entries(one.weights))
        for (const name of ['h', 'other'])
          vars.set(key.replace('.h.', `.${name}.`), trained(uploaded(stored)))
      const heads = { h: one.head, other: one.head }
      const setup = { adapters: {}, active: null, heads, active_heads: ['h', 'other'], skip_layers: [] }
      const walk = new ModelWalk(config, { setup: setup as unknown as ModelSetup, vars }, batch, null, true)
      const x = constant(tf.reshape<tf.Rank.R2>(uploaded(one.x), [-1, config.hidden_size]))
      const run = (batch: Batch) =>
        lossOf(
          walk,
          {} as Weights,
          walk.model.setup,
          [
            { x, batch },
            { x, batch },
          ],
          batch,
          0,
        )
      expect(() => run({ ...batch, head: 'z' })).toThrow('“z”')
      const { loss, seeds } = run(batch)
      const grads = walk.tape.backward(seeds)
      const norm = (name: string) => tf.norm(grads.get(vars.get(`heads.${name}.4.weight`)!)!)
      return tf.stack([loss, norm('h'), norm('other')] as tf.Tensor[])
    })
    const [both, first, second] = await Promise.all(results.map(async (values) => [...(await values.data())]))
    expect(both![0]).toBeCloseTo(2 * one.loss, 5)
    expect([first![0], second![0]]).toEqual([expect.closeTo(one.loss, 5), expect.closeTo(one.loss, 5)])
    expect([first![2], second![1]]).toEqual([0, 0])
    expect([first![1], second![2]]).toEqual([both![1], both![2]])
  })

  test('scores of hidden words: mean of their losses is the loss, hits are the likeliest words', async () => {
    const one = hidden.cases[0]!
    const config = configOf(hidden)
    const positions = Int32Array.from(one.positions)
    const targets: Targets = { kind: 'masked_lm', positions, ids: Int32Array.from(one.ids) }
    const batch = uploadBatch(config, hostBatch(hidden, [0, 0, 0], targets))
    const vars = new Map(
      Object.entries(one.weights).map(([key, stored]) => [key, constant(uploaded(stored))]),
    )
    const head = maskedLMHead(config)
    const setup = { adapters: {}, active: null, heads: { h: head }, skip_layers: [] } as unknown as ModelSetup
    const walk = new ModelWalk(config, { setup, vars }, batch, null, true)
    const blocks = wordBlocks(one.weights['heads.h.3.weight']!, 2, constant)
    const weights = { embeddings: { word_embeddings: { weight: blocks } } } as unknown as Weights
    const x = constant(tf.reshape<tf.Rank.R2>(uploaded(one.x), [-1, config.hidden_size]))
    const { losses, hits } = maskedLMScores(walk, weights, 'h', x, batch)
    const mean = [...(await losses.data())].reduce((a, b) => a + b, 0) / one.ids.length
    expect(mean).toBeCloseTo(one.loss, 5)
    const best = await tf.argMax(uploaded(one.logits), 1).data()
    expect([...(await hits.data())]).toEqual(one.ids.map((id, i) => (best[i] === id ? 1 : 0)))
  })
})

describe('heads as data', () => {
  const config = configOf(hidden)

  test('what trains of a masked-LM head is what the library trains', () => {
    const own = headParameters(config, maskedLMHead(config), 'a')
    expect(own.filter(({ role }) => role === undefined).map(({ key }) => key)).toEqual(hidden.trained)
    expect(own.at(-1)).toEqual({ key: 'heads.a.3.bias', shape: [41], role: 'buffer' })
  })

  test('fresh heads one after another are the library’s, draw for draw', async () => {
    const fresh = await readFixture<{
      seed: number
      heads: Record<string, HeadConfig>
      tensors: Record<string, Stored>
    }>('heads/fresh')
    const generator = new TorchGenerator(fresh.seed)
    const start = {
      generator,
      base: config,
      weight: () => Promise.reject(new Error('no weight is needed')),
      tokens: () => [],
    }
    const made = Object.entries(fresh.heads).flatMap(([name, head]) => [...initialiseHead(start, head, name)])
    expect(made.map(([key]) => key).sort()).toEqual(Object.keys(fresh.tensors).sort())
    for (const [key, { shape, data }] of made) {
      const want = decode(fresh.tensors[key]!)
      expect(shape, key).toEqual(want.shape)
      const worst = want.data.reduce((most, value, i) => Math.max(most, Math.abs(value - data[i]!)), 0)
      expect(worst, key).toBeLessThan(2e-8)
    }
  })

  test('the checkpoint’s own masked-LM head is read, wherever its bias is', async () => {
    const shapes: Record<string, number[]> = {
      'lm_head.dense.weight': [24, 24],
      'lm_head.dense.bias': [24],
      'lm_head.layer_norm.weight': [24],
      'lm_head.layer_norm.bias': [24],
      'lm_head.decoder.bias': [41],
    }
    const source = (held: Record<string, number[]>) => ({
      names: () => Object.keys(held),
      shape: (name: string) => held[name]!,
      read: async (name: string) =>
        new Float32Array(held[name]!.reduce((a, b) => a * b, 1)).fill(name.length),
      async *readChunks() {},
    })
    const tensors = (await pretrainedHead(config, source(shapes), 'm'))!
    expect([...tensors].map(([key, { shape }]) => [key, shape])).toEqual(
      headParameters(config, maskedLMHead(config), 'm').map(({ key, shape }) => [key, shape]),
    )
    expect(tensors.get('heads.m.3.bias')!.data[0]).toBe('lm_head.decoder.bias'.length)
    expect(await pretrainedHead(config, source({ 'roberta.x': [1] }), 'm')).toBeNull()
    const { 'lm_head.dense.bias': _without, ...lacking } = shapes
    await expect(pretrainedHead(config, source(lacking), 'm')).rejects.toThrow('lm_head.dense.bias')
    const other = { ...shapes, 'lm_head.decoder.bias': [40] }
    await expect(pretrainedHead(config, source(other), 'm')).rejects.toThrow('[40]')
  })

  test('heads that cannot work are refused in a sentence', () => {
    const head = rows.cases[0]!.head
    expect(headProblems(head, config, false)).toEqual([])
    expect(headProblems({ ...head, use_pooler: true }, config, false)[0]).toContain('pooler')
    expect(headProblems({ ...head, use_pooler: true }, config, true)).toEqual([])
    expect(headProblems({ ...head, layers: 0 }, config, null)[0]).toContain('layers is 0')
    expect(headProblems({ ...head, activation_function: 'prelu' }, config, null)[0]).toContain('prelu')
    expect(headProblems({ ...head, dropout_prob: 1 }, config, null)[0]).toContain('dropout_prob')
    expect(
      headProblems({ ...maskedLMHead(config), vocab_size: 50 } as HeadConfig, config, null)[0],
    ).toContain('50')
  })

  test('a head refuses a batch that is not for it, and a batch targets that do not fit', async () => {
    await openBackend('cpu')
    const one = rows.cases[0]!
    const regression: Targets = { kind: 'regression', labels: Float32Array.of(1, 2, 3) }
    const host = (targets: Targets | null) => hostBatch(rows, [0, 0, 0], targets)
    expect(() => run(rows, one.head, one, host(regression), {})).toThrow('one class a text')
    expect(() => run(hidden, maskedLMHead(config), hidden.cases[0]!, host(null), {})).toThrow(
      'without hidden words',
    )
    const short: Targets = { kind: 'regression', labels: Float32Array.of(1, 2) }
    expect(() => uploadBatch(config, host(short))).toThrow('3 rows has 2 labels')
    const none: Targets = { kind: 'masked_lm', positions: new Int32Array(), ids: new Int32Array() }
    expect(() => uploadBatch(config, host(none))).toThrow('hides no word')
    const outside: Targets = { kind: 'masked_lm', positions: Int32Array.of(33), ids: Int32Array.of(4) }
    expect(() => uploadBatch(config, host(outside))).toThrow('position table')
  })
})
