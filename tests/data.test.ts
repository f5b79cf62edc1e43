/** Tables to examples: guesses, classes and their order, and what is refused. */
import { describe, expect, it } from 'vitest'
import {
  buildDataset,
  guessMapping,
  guessRoles,
  guessText,
  type Mapping,
  type Role,
  type SplitArguments,
} from '../src/data/dataset.ts'
import { nearLabels, orderLabels } from '../src/data/labels.ts'
import type { Table } from '../src/data/parse.ts'
import { labelled, mapping, rowsOf, split, table, texts, whole } from './data.tables.ts'

describe('guesses', () => {
  const review = (i: number) =>
    `This is review number ${i} and it says a good deal about the film it is about`
  const guess = (columns: string[], row: (i: number) => string[]) =>
    guessMapping([
      table(
        columns,
        Array.from({ length: 60 }, (_, i) => row(i)),
      ),
    ])

  it.each<[string, string[], (i: number) => string[], [string, string | null, string]]>([
    [
      'helpfulness',
      ['id', 'text', 'label'],
      (i) => [`${i}`, review(i), i % 7 ? 'helpful' : 'unhelpful'],
      ['text', null, 'label'],
    ],
    [
      'IMDB from Kaggle',
      ['review', 'sentiment'],
      (i) => [review(i), i % 2 ? 'positive' : 'negative'],
      ['review', null, 'sentiment'],
    ],
    [
      'Amazon',
      ['reviewerID', 'asin', 'reviewText', 'overall', 'summary', 'unixReviewTime'],
      (i) => [`A${i}`, `B${i % 9}`, review(i), `${(i % 5) + 1}.0`, `sum ${i}`, `${1e9 + i}`],
      ['reviewText', null, 'overall'],
    ],
    [
      'Yelp',
      ['review_id', 'stars', 'useful', 'text', 'date'],
      (i) => [`r${i}`, `${(i % 5) + 1}`, `${i % 3}`, review(i), '2020-01-01'],
      ['text', null, 'stars'],
    ],
    [
      'airline tweets',
      ['tweet_id', 'airline_sentiment', 'airline', 'name', 'text'],
      (i) => [
        `${i}`,
        ['neutral', 'positive', 'negative'][i % 3]!,
        ['United', 'Delta'][i % 2]!,
        `n${i}`,
        review(i),
      ],
      ['text', null, 'airline_sentiment'],
    ],
    [
      'pairs',
      ['idx', 'sentence1', 'sentence2', 'label'],
      (i) => [`${i}`, review(i), review(i + 1), `${i % 2}`],
      ['sentence1', 'sentence2', 'label'],
    ],
    [
      'names that say nothing',
      ['a', 'b', 'c'],
      (i) => [review(i), `${i}`, ['x', 'y', 'z'][i % 3]!],
      ['a', null, 'c'],
    ],
    ['emoji', ['comment', 'mood'], (i) => [review(i), ['👍', '👎'][i % 2]!], ['comment', null, 'mood']],
    [
      'German',
      ['Kundenmeinung', 'Wertung'],
      (i) => [review(i), i % 2 ? 'gut' : 'schlecht'],
      ['Kundenmeinung', null, 'Wertung'],
    ],
  ])('%s', (_, columns, row, [text, text_pair, label]) => {
    expect(guess(columns, row)).toMatchObject({ text, text_pair, label })
  })

  it('sets a threshold for scores, not for stars', () => {
    expect(guess(['text', 'score'], (i) => [review(i), `${i / 59}`])?.threshold).toBe(0.5)
    expect(guess(['text', 'intent'], (i) => [review(i % 2), `${i % 28}`])?.threshold).toBeNull()
    expect(guess(['text', 'score'], (i) => [review(i), `${2 * i}`])?.threshold).toBe(59)
    expect(guess(['text', 'stars'], (i) => [review(i), `${(i % 5) + 1}`])?.threshold).toBeNull()
  })

  it('finds no label among texts only', () => {
    expect(guess(['text'], (i) => [review(i)])).toBeNull()
    expect(guess(['id', 'text'], (i) => [`${i}`, review(i)])).toBeNull()
  })

  it('finds the text of a file to predict, with and without labels', () => {
    const columns = ['id', 'stars', 'review']
    expect(
      guessText(
        table(columns, [
          ['1', '5', 'good'],
          ['2', '1', 'bad'],
        ]),
      ),
    ).toBe('review')
    expect(
      guessText(
        table(
          ['a', 'b'],
          [
            ['7', review(1)],
            ['8', review(2)],
          ],
        ),
      ),
    ).toBe('b')
    expect(guessText(table(['column'], [['']]))).toBe('column')
  })

  it('knows split files by their names, and ignores one without labels', () => {
    const names = [
      'sst2/train.tsv',
      'sst2/dev.tsv',
      'reviews_validation.csv',
      'TestData.json',
      'latest.csv',
      'contest.csv',
    ]
    const tables = names.map((name) =>
      labelled(
        [
          ['a', '0'],
          ['b', '1'],
        ],
        name,
      ),
    )
    const unlabelled = table(['index', 'text'], [['0', 'a']], 'test.tsv')
    expect(guessRoles([...tables, unlabelled])).toEqual([
      'train',
      'validation',
      'validation',
      'test',
      'all',
      'all',
      'ignore',
    ])
  })
})

describe('classes', () => {
  it.each([
    [
      ['1', '0'],
      ['0', '1'],
    ],
    [
      ['10', '9', '-1', '2.5'],
      ['-1', '2.5', '9', '10'],
    ],
    [
      ['positive', 'negative'],
      ['negative', 'positive'],
    ],
    [
      ['Positive', 'neutral', 'Negative'],
      ['Negative', 'neutral', 'Positive'],
    ],
    [
      ['helpful', 'unhelpful'],
      ['unhelpful', 'helpful'],
    ],
    [
      ['pos', 'neg'],
      ['neg', 'pos'],
    ],
    [
      ['yes', 'no'],
      ['no', 'yes'],
    ],
    [
      ['👍', '👎'],
      ['👎', '👍'],
    ],
    [
      ['b', 'a', 'B', 'é', 'z'],
      ['B', 'a', 'b', 'z', 'é'],
    ],
    [
      ['😀', '\uff21'],
      ['\uff21', '😀'],
    ],
    [
      ['\uff21', '😀'],
      ['\uff21', '😀'],
    ],
    [
      ['positive', 'negative', 'conflict'],
      ['conflict', 'negative', 'positive'],
    ],
  ])('%j in the order %j', (labels, expected) => {
    expect(orderLabels(labels)).toEqual(expected)
  })

  it('trims labels, keeps texts as they are', () => {
    const dataset = split([
      labelled([
        [' a ', ' x'],
        ['b', 'x '],
        ['c', 'y'],
      ]),
    ])
    expect([dataset.id2label, texts(dataset.train)]).toEqual([
      ['x', 'y'],
      [' a ', 'b', 'c'],
    ])
  })

  it('divides numbers at a threshold', () => {
    const stars = table(
      ['text', 'stars'],
      [
        ['a', '1'],
        ['b', '3'],
        ['c', '4'],
        ['d', '5.0'],
      ],
    )
    const dataset = buildDataset([stars], ['all'], { ...mapping, label: 'stars', threshold: 4 }, whole)
    expect([dataset.id2label, dataset.train.map((row) => row.label)]).toEqual([
      ['negative', 'positive'],
      [0, 0, 1, 1],
    ])
  })

  it('knows labels that are nearly the same', () => {
    expect(nearLabels(['pos', 'Pos', 'neg', '1', '1.0', 'very good', 'verygood', '❤', '❤️', 'x'])).toEqual([
      ['pos', 'Pos'],
      ['1', '1.0'],
      ['very good', 'verygood'],
      ['❤', '❤️'],
    ])
  })

  it('pairs, the table and the line travel with the text', () => {
    const pairs = table(
      ['term', 'sentence', 'label'],
      [
        ['food', 'Good food.', '1'],
        ['staff', 'Good food.', '0'],
      ],
    )
    const map = { ...mapping, text: 'term', text_pair: 'sentence' }
    expect(buildDataset([pairs], ['all'], map, whole).train[1]).toEqual({
      text: 'staff',
      text_pair: 'Good food.',
      label: 0,
      table: 0,
      line: 3,
    })
  })
})

describe('refused', () => {
  const refuse = (
    tables: Table[],
    change: Partial<SplitArguments> = {},
    roles?: Role[],
    map: Partial<Mapping> = {},
  ) => {
    const call = () =>
      buildDataset(tables, roles ?? tables.map(() => 'all'), { ...mapping, ...map }, { ...whole, ...change })
    return expect(call)
  }
  const good = labelled(rowsOf([10, 10]))

  it('texts without labels', () => {
    refuse([table(['text'], [['a'], ['b']], 'domain.txt')]).toThrow('domain.txt holds texts without labels')
    refuse([table(['id', 'text'], [['1', 'a']])]).toThrow(
      'reviews.csv has no label column "label", only "id", "text"',
    )
    refuse([
      labelled([
        ['a', ''],
        ['', 'x'],
      ]),
    ]).toThrow('no row has both a text in "text" and a label in "label"')
  })
  it('one class only', () => {
    refuse([
      labelled([
        ['a', 'x'],
        ['b', ' x'],
      ]),
    ]).toThrow('every row has the label "x"')
    refuse(
      [
        labelled([
          ['a', '4'],
          ['b', '5'],
        ]),
      ],
      {},
      ['all'],
      { threshold: 3 },
    ).toThrow('every row has the label "positive" with the threshold 3')
  })
  it('a label that is no label', () => {
    refuse([labelled(Array.from({ length: 100 }, (_, i) => [`t${i}`, `name ${i % 60}`]))]).toThrow(
      /"label" is no usable label: it has 60 different values in 100 rows/,
    )
    refuse([
      labelled([
        ['a', 'x'],
        ['b', 'y'],
        ['c', 'z'],
      ]),
    ]).toThrow('no usable label')
    refuse([good], {}, ['all'], { label: 'text' }).toThrow('the same column')
    refuse(
      [
        labelled([
          ['a', '1'],
          ['b', 'many'],
        ]),
      ],
      {},
      ['all'],
      { threshold: 3 },
    ).toThrow('reviews.csv, line 3: the label "many" is not a number')
  })
  it('a class that training would never see', () => {
    const test = labelled(
      [
        ['x', '0'],
        ['y', '-1'],
      ],
      'test.csv',
    )
    refuse([good, test], {}, ['train', 'test']).toThrow('the class "-1" is in test and in no training row')
    refuse([good], {}, ['test']).toThrow('no rows to train on')
    refuse([good], {}, ['ignore']).toThrow('every file is set to be ignored')
  })
  it('shares and seeds that make no sense', () => {
    refuse([good], { validation: 0.5, test: 0.5 }).toThrow('leave no rows to train on')
    refuse([good], { validation: -0.1 }).toThrow('the share validation is -0.1')
    refuse([good], { fraction: 0 }).toThrow('fraction')
    refuse([good], { seed: 1.5 }).toThrow('the seed is 1.5')
  })
})
