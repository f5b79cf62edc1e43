/** Batches: every row once, padding masked, order from the seed, no padding beyond the longest row. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readFileSync } from 'node:fs'
import {
  encode,
  evalBatches,
  paddingEfficiency,
  trainBatches,
  type Batch,
  type Encoded,
} from '../src/data/batches.ts'
import { loadTokenizer } from '../src/data/tokenizer.ts'
import { TorchGenerator } from '../src/random.ts'

const PAD = 1

/** Rows of these lengths; row i holds `1000 + i` throughout, so that it can be recognised. */
function encodedOf(lengths: number[]): Encoded {
  return {
    input_ids: lengths.map((length, i) => new Int32Array(length).fill(1000 + i)),
    labels: Int32Array.from(lengths, (_, i) => i % 3),
  }
}

const args = { batch_size: 4, seed: 42, epoch: 0, group_by_length: false, pad_token_id: PAD }
const order = (batches: Batch[]) => batches.flatMap((batch) => Array.from(batch.indices))
const lengths = fc.array(fc.integer({ min: 2, max: 600 }), { minLength: 1, maxLength: 120 })
const sizes = fc.integer({ min: 1, max: 40 })

/** Each row is whole, in its place, padded with PAD under a mask of 0; the counts are right. */
function checkRows(batches: Batch[], encoded: Encoded): void {
  expect(order(batches).sort((a, b) => a - b)).toEqual(encoded.input_ids.map((_, i) => i))
  for (const batch of batches) {
    const { B, S, indices, input_ids, attention_mask } = batch
    expect([input_ids.length, attention_mask.length, batch.labels.length, indices.length]).toEqual([
      B * S,
      B * S,
      B,
      B,
    ])
    expect(S).toBe(Math.max(...Array.from(indices, (row) => encoded.input_ids[row]!.length)))
    let tokens = 0
    indices.forEach((row, b) => {
      const ids = encoded.input_ids[row]!
      const padding = S - ids.length
      expect(padding).toBeGreaterThanOrEqual(0)
      expect(Array.from(input_ids.subarray(b * S, b * S + S))).toEqual([
        ...ids,
        ...Array<number>(padding).fill(PAD),
      ])
      const mask = [...Array<number>(ids.length).fill(1), ...Array<number>(padding).fill(0)]
      expect(Array.from(attention_mask.subarray(b * S, b * S + S))).toEqual(mask)
      expect(batch.labels[b]).toBe(encoded.labels[row])
      tokens += ids.length
    })
    expect(batch.tokens).toBe(tokens)
  }
}

describe('training batches', () => {
  it('hold every row once, whole, and keep the smaller last batch', () => {
    fc.assert(
      fc.property(lengths, sizes, fc.nat(1000), fc.boolean(), (list, batch_size, epoch, group_by_length) => {
        const encoded = encodedOf(list)
        const batches = trainBatches(encoded, { ...args, batch_size, epoch, group_by_length })
        checkRows(batches, encoded)
        const counts = batches.map((batch) => batch.B).sort((a, b) => b - a)
        expect(counts).toHaveLength(Math.ceil(list.length / batch_size))
        expect(counts.slice(0, -1).every((B) => B === batch_size)).toBe(true)
      }),
      { numRuns: 60 },
    )
  })

  it('follow torch.randperm of seed + epoch', () => {
    const encoded = encodedOf([5, 9, 3, 7, 2, 8, 4])
    for (const epoch of [0, 1, 5]) {
      const expected = Array.from(new TorchGenerator(42 + epoch).randperm(7))
      expect(order(trainBatches(encoded, { ...args, epoch }))).toEqual(expected)
    }
    // torch.randperm(10, generator=torch.Generator().manual_seed(42))
    const ten = trainBatches(encodedOf(Array<number>(10).fill(4)), args)
    expect(order(ten)).toEqual([2, 6, 1, 8, 4, 5, 0, 9, 3, 7])
  })

  it('waste little padding when grouped by length, and differ from epoch to epoch', () => {
    const encoded = encodedOf(Array.from({ length: 2000 }, (_, i) => 3 + ((i * 7919) % 250)))
    const grouped = trainBatches(encoded, { ...args, batch_size: 16, group_by_length: true })
    expect(paddingEfficiency(grouped)).toBeGreaterThan(0.97)
    expect(paddingEfficiency(trainBatches(encoded, { ...args, batch_size: 16 }))).toBeLessThan(0.6)
    const next = trainBatches(encoded, { ...args, batch_size: 16, group_by_length: true, epoch: 1 })
    expect(order(next)).not.toEqual(order(grouped))
    expect(order(trainBatches(encoded, { ...args, batch_size: 16, group_by_length: true }))).toEqual(
      order(grouped),
    )
    const longest = grouped.map((batch) => batch.S)
    expect(longest).not.toEqual(longest.slice().sort((a, b) => b - a))
  })

  it('sort no further than windows of 50 batches of the shuffled order', () => {
    const encoded = encodedOf(Array.from({ length: 1000 }, (_, i) => 3 + ((i * 7919) % 97)))
    const shuffled = Array.from(new TorchGenerator(42).randperm(1000))
    const windowOf = new Map(shuffled.map((row, at) => [row, Math.floor(at / (50 * 4))]))
    for (const { indices } of trainBatches(encoded, { ...args, group_by_length: true }))
      expect(new Set(Array.from(indices, (row) => windowOf.get(row))).size).toBe(1)
  })

  it('refuse a batch size that is none', () => {
    expect(() => trainBatches(encodedOf([3]), { ...args, batch_size: 0 })).toThrow('the batch size is 0')
    expect(trainBatches(encodedOf([]), args)).toEqual([])
  })
})

describe('evaluation batches', () => {
  it('hold every row once, longest first', () => {
    fc.assert(
      fc.property(lengths, sizes, (list, batch_size) => {
        const encoded = encodedOf(list)
        const batches = evalBatches(encoded, batch_size, PAD)
        checkRows(batches, encoded)
        const sorted = order(batches).map((i) => list[i]!)
        expect(sorted).toEqual(sorted.slice().sort((a, b) => b - a))
      }),
      { numRuns: 40 },
    )
  })
})

it('encode makes one row of ids for each example, cut to max_length', () => {
  const tokenizer = loadTokenizer(readFileSync('tests/fixtures/tiny-roberta/tokenizer.json', 'utf8'), null)
  const example = (text: string, text_pair: string | null, label: number) => ({
    text,
    text_pair,
    label,
    table: 0,
    line: 1,
  })
  const examples = [
    example('good', null, 1),
    example('a long text of many words', null, 0),
    example('food', 'good food', 1),
  ]
  const encoded = encode(examples, tokenizer, 8)
  expect(encoded.labels).toEqual(Int32Array.of(1, 0, 1))
  expect(encoded.input_ids.map((row) => Array.from(row))).toEqual(
    examples.map((row) => tokenizer.encode(row.text, row.text_pair, 8)),
  )
  expect(encoded.input_ids.every((row) => row.length <= 8)).toBe(true)
})
