/** Who goes where: a partition, stratified, the same for the same seed, identical texts together. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { summarise, type Dataset } from '../src/data/dataset.ts'
import type { Table } from '../src/data/parse.ts'
import { labelled, mapping, perClass, rowsOf, split, texts } from './data.tables.ts'

describe('splits', () => {
  const counts = fc
    .array(fc.integer({ min: 1, max: 60 }), { minLength: 2, maxLength: 5 })
    .filter((list) => list.some((n) => n > 1))
  const shares = fc.tuple(
    fc.double({ min: 0, max: 0.45, noNaN: true }),
    fc.double({ min: 0, max: 0.45, noNaN: true }),
  )

  it('are a partition, stratified within one row, and the same for the same seed', () => {
    fc.assert(
      fc.property(counts, shares, fc.nat(), (sizes, [validation, test], seed) => {
        const tables = [labelled(rowsOf(sizes))]
        const dataset = split(tables, { validation, test, seed })
        const all = [...dataset.train, ...dataset.validation, ...dataset.test]
        expect(texts(all).sort()).toEqual(tables[0]!.rows.map((row) => row[0]!).sort())
        for (const [share, part] of [
          [validation, dataset.validation],
          [test, dataset.test],
        ] as const) {
          perClass(dataset, part).forEach((n, c) =>
            expect(Math.abs(n - share * sizes[c]!)).toBeLessThanOrEqual(1),
          )
        }
        expect(perClass(dataset, dataset.train).every((n) => n >= 1)).toBe(true)
        expect(split(tables, { validation, test, seed })).toEqual(dataset)
      }),
      { numRuns: 150 },
    )
  })

  it('depend on the seed', () => {
    const tables = [labelled(rowsOf([50, 50]))]
    const drawn = [1, 2, 3].map((seed) => texts(split(tables, { test: 0.2, seed }).test).join())
    expect(new Set(drawn).size).toBe(3)
  })

  it('keep identical texts together, whatever their labels and outer spaces', () => {
    const repeated = fc.array(
      fc.tuple(fc.integer({ min: 0, max: 15 }), fc.integer({ min: 0, max: 1 }), fc.constantFrom('', ' ')),
      { minLength: 8, maxLength: 80 },
    )
    fc.assert(
      fc.property(repeated, fc.nat(), (picks, seed) => {
        const rows = picks.map(([text, label, end]): [string, string] => [`t${text}${end}`, `${label}`])
        fc.pre(new Set(rows.map((row) => row[1])).size === 2)
        const dataset = buildOrNull([labelled([...rows, ['only 0', '0'], ['only 1', '1']])], seed)
        fc.pre(dataset !== null)
        const summary = summarise([labelled(rows)], ['all'], mapping, dataset!, new Int32Array(0), 10)
        expect(summary.leakage).toEqual({ count: 0, examples: [] })
      }),
      { numRuns: 100 },
    )
  })

  /** null when repeated texts left a class without training rows, which is refused as it should be. */
  function buildOrNull(tables: Table[], seed: number): Dataset | null {
    try {
      return split(tables, { validation: 0.2, test: 0.2, seed })
    } catch (error) {
      expect(String(error)).toContain('in no training row')
      return null
    }
  }

  it('leave given files alone, and take only what is not given', () => {
    const [train, test] = [labelled(rowsOf([50, 50]), 'train.csv'), labelled(rowsOf([5, 5]), 'test.csv')]
    const dataset = split([train, test], { validation: 0.1, test: 0.3 }, ['train', 'test'])
    expect([dataset.train.length, dataset.validation.length, dataset.test.length]).toEqual([90, 10, 10])
    expect(dataset.test.every((example) => example.table === 1)).toBe(true)
    const joined = split([train, test], { test: 0.5 }, ['all', 'all'])
    expect([joined.train.length, joined.test.length]).toEqual([55, 55])
    expect(split([train, test], { test: 0.5 }, ['all', 'ignore']).train).toHaveLength(50)
  })

  it('fractions: stratified within one row, or the first rows as Python rounds', () => {
    fc.assert(
      fc.property(counts, fc.double({ min: 0.01, max: 1, noNaN: true }), (sizes, fraction) => {
        const dataset = split([labelled(rowsOf(sizes))], { fraction })
        perClass(dataset, dataset.train).forEach((n, c) => {
          expect(n).toBeGreaterThanOrEqual(1)
          expect(Math.abs(n - fraction * sizes[c]!)).toBeLessThanOrEqual(1)
        })
      }),
      { numRuns: 100 },
    )
    const ordered = labelled([
      ...Array.from({ length: 5 }, (_, i): [string, string] => [`p${i}`, '1']),
      ...Array.from({ length: 5 }, (_, i): [string, string] => [`n${i}`, '0']),
    ])
    const first = split([ordered], { fraction: 0.25, sampling: 'first' })
    expect(texts(first.train)).toEqual(['p0', 'p1'])
    expect(first.id2label).toEqual(['0', '1'])
    expect(split([ordered], { fraction: 0.35, sampling: 'first' }).train).toHaveLength(4)
  })
})
