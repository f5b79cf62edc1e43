/** A batch in parts: every row once, no part above the limit, shares that add up, targets that move with their rows. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Targets } from '../src/config.ts'
import { paddingEfficiency, trainBatches, type Batch, type RowTargets } from '../src/data/batches.ts'
import { inParts } from '../src/data/parts.ts'
import { rowsAtOnce, trainingDefaults, trainingProblems } from '../src/trainingArguments.ts'

/** One batch of rows of these lengths; token t of row i is `100·(i + 1) + t`. */
function batchOf(lengths: number[], targets: RowTargets | null = null): Batch {
  const input_ids = lengths.map((length, i) => Int32Array.from({ length }, (_, t) => 100 * (i + 1) + t))
  const encoded = { input_ids, labels: Int32Array.from(lengths.keys()), targets }
  const args = { batch_size: lengths.length, seed: 3, epoch: 0, group_by_length: false, pad_token_id: 1 }
  return trainBatches(encoded, args)[0]!
}

/** Row i of a batch without its padding. */
function textOf({ S, input_ids, attention_mask }: Batch, b: number): number[] {
  return Array.from(input_ids.subarray(b * S, (b + 1) * S)).filter((_, t) => attention_mask[b * S + t] === 1)
}

const shareOf = (parts: Batch[]) => parts.reduce((sum, { share = 1 }) => sum + share, 0)
const lengths = fc.array(fc.integer({ min: 2, max: 60 }), { minLength: 1, maxLength: 40 })

describe('a batch in parts', () => {
  it('holds every row once, whole, within the limit, with shares by rows', () => {
    fc.assert(
      fc.property(lengths, fc.integer({ min: 1, max: 500 }), fc.boolean(), (list, most, same_length) => {
        const batch = batchOf(list)
        const parts = inParts(batch, most, same_length)
        expect(parts.flatMap((part) => [...part.indices]).sort((a, b) => a - b)).toEqual([...list.keys()])
        for (const part of parts) {
          const { B, S, indices, labels, tokens, input_ids } = part
          expect(B * S <= most || B === 1).toBe(true)
          expect(input_ids).toHaveLength(B * S)
          expect(S).toBe(same_length ? batch.S : Math.max(...[...indices].map((row) => list[row]!)))
          expect(tokens).toBe(part.attention_mask.reduce((a, b) => a + b, 0))
          expect(labels).toEqual(indices)
          indices.forEach((row, b) =>
            expect(textOf(part, b)).toEqual(
              Array.from({ length: list[row]! }, (_, t) => 100 * (row + 1) + t),
            ),
          )
          if (parts.length > 1) expect(part.share).toBeCloseTo(B / list.length, 12)
        }
        expect(shareOf(parts)).toBeCloseTo(1, 12)
        expect(paddingEfficiency(parts)).toBeGreaterThanOrEqual(paddingEfficiency([batch]) - 1e-12)
        expect(inParts(batch, most, same_length)).toEqual(parts)
      }),
      { numRuns: 100 },
    )
  })

  it('is the batch itself where that fits or nothing limits it', () => {
    const batch = batchOf([5, 9, 7])
    expect(inParts(batch, 27, false)).toEqual([batch])
    expect(inParts(batch, 0, false)).toEqual([batch])
    expect(inParts(batch, 26, false).map(({ B, S }) => [B, S])).toEqual([
      [2, 9],
      [1, 5],
    ])
  })

  it('takes numbers, several labels and label words along with their rows', () => {
    const list = [4, 9, 6, 9]
    const targetsIn = (targets: RowTargets) =>
      inParts(batchOf(list, targets), 18, false).map((part) => ({ part, targets: part.targets! }))
    const numbers = Float32Array.of(0.5, 1.5, 2.5, 3.5)
    for (const { part, targets } of targetsIn({ kind: 'regression', labels: numbers }))
      expect('labels' in targets && [...targets.labels]).toEqual([...part.indices].map((row) => row + 0.5))
    const labels = Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7)
    for (const { part, targets } of targetsIn({ kind: 'multilabel', labels, num_labels: 2 }))
      expect('labels' in targets && [...targets.labels]).toEqual(
        [...part.indices].flatMap((row) => [2 * row, 2 * row + 1]),
      )
    const positions = Int32Array.of(1, 8, 3, 5)
    for (const { part, targets } of targetsIn({ kind: 'label_words', positions, words: Int32Array.of(7) })) {
      if (targets.kind !== 'label_words') throw new Error('The kind has changed.')
      const found = [...targets.positions].map((at) => part.input_ids[at])
      expect(found).toEqual([...part.indices].map((row) => 100 * (row + 1) + positions[row]!))
    }
  })

  it('counts hidden words, and leaves out a part that hides none', () => {
    const whole = batchOf([4, 9, 6, 8])
    const at = (row: number, t: number) => [...whole.indices].indexOf(row) * whole.S + t
    const positions = Int32Array.of(at(1, 2), at(3, 4), at(3, 7))
    const targets: Targets = { kind: 'masked_lm', positions, ids: Int32Array.of(21, 34, 37) }
    const parts = inParts({ ...whole, targets }, 9, false)
    expect(parts.map(({ indices, share }) => [[...indices], share])).toEqual([
      [[1], 1 / 3],
      [[3], 2 / 3],
    ])
    expect(parts.map((part) => part.targets)).toEqual([
      { kind: 'masked_lm', positions: Int32Array.of(2), ids: Int32Array.of(21) },
      { kind: 'masked_lm', positions: Int32Array.of(4, 7), ids: Int32Array.of(34, 37) },
    ])
  })
})

it('computes as many rows at once as fit, and never none', () => {
  expect(rowsAtOnce(4096, 512)).toBe(8)
  expect(rowsAtOnce(100, 512)).toBe(1)
  expect(rowsAtOnce(0, 512)).toBe(Infinity)
  expect(trainingProblems(trainingDefaults)).toEqual([])
  expect(trainingProblems({ ...trainingDefaults, max_tokens_per_batch: -1 })).toEqual([
    'max_tokens_per_batch is -1; it must be a whole number, or 0 for no limit.',
  ])
})
