/** What a batch may hide: padding at either end of a text, in front of it not under prefixes and prompts, nothing within. */
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { classificationHead, type AdapterSetup, type ModelSetup } from '../src/config.ts'
import { openBackend } from '../src/kernels/backend.ts'
import { parsePreset } from '../src/methods/registry.ts'
import { disposeBatch, uploadBatch, type HostBatch } from '../src/model/batch.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { createModel, disposeModel, predict, setupParameters } from '../src/model/model.ts'
import { disposeRoberta, type Roberta } from '../src/model/roberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { madeUpTensors, madeUpWeights } from './madeUp.ts'

const config = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 60,
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 32,
    max_position_embeddings: 40,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

/** Rows of ids; 1 is padding, and so is what `hidden` names, by row and token. */
function batchOf(rows: number[][], hidden: [number, number][] = []): HostBatch {
  const [B, S] = [rows.length, rows[0]!.length]
  const attention_mask = Int32Array.from(rows.flat(), (id) => Number(id !== 1))
  for (const [b, s] of hidden) attention_mask[b * S + s] = 0
  return { B, S, input_ids: Int32Array.from(rows.flat()), attention_mask, labels: new Int32Array(B) }
}

const adapters = Object.fromEntries(
  [3, 5, 2].map((P) => [`p${P}`, parsePreset(`prefix_tuning_flat[prefix_length=${P}]`)]),
)

describe('padding', () => {
  let roberta: Roberta
  let before = 0
  beforeAll(async () => {
    await openBackend('cpu')
    before = tf.memory().numTensors
    roberta = (await loadRoberta(config, madeUpWeights(config), null)).roberta
  })
  afterAll(() => {
    disposeRoberta(roberta)
    expect(tf.memory().numTensors).toBe(before)
  })

  /** Logits of each row, with everything made up. */
  function logits(
    adapters: ModelSetup['adapters'],
    active: AdapterSetup | null,
    host: HostBatch,
    pooling: 'first' | 'mean' = 'first',
  ): number[][] {
    const setup: ModelSetup = {
      adapters,
      active,
      fusions: {},
      heads: { h: { ...classificationHead(3), pooling } },
      active_heads: ['h'],
      train: { adapters: [], fusions: [], heads: ['h'], base: 'none' },
      skip_layers: [],
    }
    const shapes = setupParameters(config, setup).map(({ key, shape }): [string, number[]] => [key, shape])
    const model = createModel(roberta, setup, madeUpTensors(shapes))
    const batch = uploadBatch(config, host)
    try {
      return tf.tidy(() => predict(model, batch).logits.arraySync())
    } finally {
      disposeBatch(batch)
      disposeModel(model)
    }
  }

  const closeTo = (row: number[]) => row.map((value) => expect.closeTo(value, 5))

  it('at either end changes nothing of a text', () => {
    const rows = [
      [0, 7, 8, 2, 1, 1],
      [1, 1, 0, 7, 8, 2],
      [0, 9, 9, 9, 9, 2],
    ]
    const read = (host: HostBatch) => logits({}, null, host, 'mean')
    const [alone] = read(batchOf([[0, 7, 8, 2]]))
    expect(read(batchOf(rows)).slice(0, 2)).toEqual([closeTo(alone!), closeTo(alone!)])
    expect(read(batchOf(rows))[2]).not.toEqual(closeTo(alone!))
  })

  it('within a text is refused, and so is a mask of other numbers', () => {
    const rows = [
      [0, 7, 2, 1],
      [0, 7, 8, 2],
    ]
    const refused = 'The attention_mask of row 1 is not one run of 1 with 0 around it; leave out of the row'
    expect(() => uploadBatch(config, batchOf(rows, [[1, 2]]))).toThrow(refused)
    const odd = batchOf(rows)
    odd.attention_mask[5] = 2
    expect(() => uploadBatch(config, odd)).toThrow(refused)
  })

  it.each([
    ['prefix_tuning_flat', 'prefix tuning'],
    ['prompt_tuning', 'prompt tuning'],
  ])('in front of a text is refused under %s', (preset, method) => {
    const host = batchOf([
      [0, 7, 8, 2],
      [1, 0, 7, 2],
    ])
    expect(() => logits({ a: parsePreset(preset) }, 'a', host)).toThrow(
      `Row 1 is padded in front of its text, where ${method} puts its own; pad it behind instead.`,
    )
  })

  it('of parts with other numbers of prefixes is hidden, also from a prefix that comes after them', () => {
    const rows = [
      [0, 7, 8, 9, 2],
      [0, 5, 2, 1, 1],
    ]
    const split = { type: 'BatchSplit' as const, children: ['p3', 'p5'], batch_sizes: [1, 1] }
    const both = logits(adapters, { type: 'Stack', children: [split, 'p2'] }, batchOf(rows))
    const each = ['p3', 'p5'].map(
      (name, b) => logits(adapters, { type: 'Stack', children: [name, 'p2'] }, batchOf([rows[b]!]))[0]!,
    )
    expect(each[0]).not.toEqual(closeTo(logits(adapters, 'p3', batchOf([rows[0]!]))[0]!))
    expect(both).toEqual(each.map(closeTo))
  })
})
