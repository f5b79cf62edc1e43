/** What is said about a data set before training. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { summarise } from '../src/data/dataset.ts'
import { labelled, mapping, rowsOf, said, split, summaryOf } from './data.tables.ts'

describe('the summary', () => {
  it('counts classes, blanks, repeats and conflicts', () => {
    const rows: [string, string][] = [
      ['good', '1'],
      ['', ''],
      ['good ', '1'],
      ['bad', '0'],
      ['bad', '1'],
      ['no label', ' '],
      ['  ', '0'],
      ['fine', '1'],
    ]
    const summary = summaryOf([labelled(rows)])
    expect(summary.splits[0]).toEqual({ split: 'train', rows: 5, per_class: [1, 4] })
    expect(summary.empty).toEqual({ count: 3, lines: [3, 7, 8] })
    expect(summary.duplicates).toEqual({
      count: 2,
      examples: [
        { text: 'good', count: 2 },
        { text: 'bad', count: 2 },
      ],
    })
    expect(summary.conflicting).toEqual({ count: 1, examples: [{ text: 'bad', labels: ['0', '1'] }] })
    expect(said(summary)).toMatch(
      /2 rows without a text or a label left out: reviews.csv line 7, reviews.csv line 8\./,
    )
    expect(said(summary)).toMatch(/Under more than one label: 1 text\./)
  })

  it('finds texts in more than one split', () => {
    const tables = [
      labelled(
        [
          ['a', '0'],
          ['b', '1'],
          ['c', '1'],
        ],
        'train.csv',
      ),
      labelled(
        [
          ['b ', '1'],
          ['d', '0'],
        ],
        'test.csv',
      ),
    ]
    const summary = summaryOf(tables, {}, mapping, ['train', 'test'])
    expect(summary.leakage).toEqual({ count: 1, examples: [{ text: 'b', splits: ['train', 'test'] }] })
    expect(said(summary)).toMatch(/In more than one split: 1 text\./)
  })

  it('warns of classes missing from a split, and of a split with one class', () => {
    const train = labelled(rowsOf([10, 10, 10]), 'train.csv')
    const test = labelled(
      [
        ['x', '0'],
        ['y', '1'],
      ],
      'test.csv',
    )
    expect(said(summaryOf([train, test], {}, mapping, ['train', 'test']))).toMatch(
      /The test split has no rows of "2"/,
    )
    const single = labelled(
      [
        ['x', '0'],
        ['y', '0'],
      ],
      'test.csv',
    )
    expect(said(summaryOf([train, single], {}, mapping, ['train', 'test']))).toMatch(
      /The test split has one class only, "0"/,
    )
    const ordered = labelled([...rowsOf([20, 0]), ...rowsOf([0, 20])])
    expect(said(summaryOf([ordered], { fraction: 0.4, sampling: 'first' }))).toMatch(
      /The train split has one class only, "0"/,
    )
    expect(said(summaryOf([ordered]))).toMatch(/The validation split has no rows/)
  })

  it('warns of labels that are nearly the same, and says that it trimmed', () => {
    const summary = summaryOf([
      labelled([
        ['a', 'Pos'],
        ['b', 'pos'],
        ['c', 'neg '],
        ['d', 'neg'],
      ]),
    ])
    expect(summary.id2label).toHaveLength(3)
    expect(summary.near_labels).toEqual([['Pos', 'pos']])
    expect(said(summary)).toMatch(/"Pos" and "pos" differ only in/)
    expect(said(summary)).toMatch(/Spaces around labels were removed in 1 row \("neg "\)/)
  })

  it('says when one class is nearly all', () => {
    expect(said(summaryOf([labelled(rowsOf([90, 10]))]))).toMatch(/90 % of the training rows are "0"/)
    expect(said(summaryOf([labelled(rowsOf([60, 40]))]))).not.toMatch(/always saying/)
  })

  it('draws lengths so that every row is in one bin', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 2, max: 700 }), { minLength: 1, maxLength: 200 }),
        fc.integer({ min: 2, max: 512 }),
        (lengths, max_length) => {
          const tables = [
            labelled([
              ['a', '0'],
              ['b', '1'],
            ]),
          ]
          const summary = summarise(
            tables,
            ['all'],
            mapping,
            split(tables),
            Int32Array.from(lengths),
            max_length,
          )
          const { edges, counts, truncated_share, median, p95 } = summary.lengths
          expect(edges).toHaveLength(counts.length + 1)
          const expected = counts.map(
            (_, i) => lengths.filter((n) => n >= edges[i]! && n < edges[i + 1]!).length,
          )
          expect(counts).toEqual(expected)
          expect(counts.reduce((a, b) => a + b)).toBe(lengths.length)
          expect(truncated_share).toBeCloseTo(lengths.filter((n) => n > max_length).length / lengths.length)
          const sorted = lengths.slice().sort((a, b) => a - b)
          expect([median, p95]).toEqual([0.5, 0.95].map((q) => sorted[Math.ceil(q * sorted.length) - 1]))
        },
      ),
      { numRuns: 100 },
    )
  })

  it('finds nothing wrong with good data', () => {
    expect(
      summaryOf([labelled(rowsOf([100, 100]).map(([, label], i) => [`t${i}`, label]))], {
        validation: 0.1,
        test: 0.2,
      }).problems,
    ).toEqual([])
  })

  it('takes 50,000 rows in seconds', () => {
    const tables = [labelled(rowsOf([20_000, 20_000, 10_000]))]
    const start = performance.now()
    expect(summaryOf(tables, { validation: 0.1, test: 0.1 }).splits.map((part) => part.rows)).toEqual([
      40_000, 5000, 5000,
    ])
    expect(performance.now() - start).toBeLessThan(5000)
  })
})
