/** JSON, Parquet, plain text and archives, as published sets have them, become the tables that they are. */
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { gzipSync, zipSync } from 'fflate'
import { describe, expect, it } from 'vitest'
import { buildDataset, guessMapping, guessRoles } from '../src/data/dataset.ts'
import { preview } from '../src/data/parse.ts'
import { bytes, lines, one, parse } from './data.files.ts'

describe('JSON', () => {
  it('reads a list of objects, in the order in which columns appear', async () => {
    const table = await one(
      'r.json',
      '[{"text":"a","class":0},{"class":1,"text":"b","extra":{"k":[1]}},{"text":"","class":null}]',
    )
    expect(table.columns).toEqual(['text', 'class', 'extra'])
    expect(table.rows).toEqual([
      ['a', '0', ''],
      ['b', '1', '{"k":[1]}'],
      ['', '', ''],
    ])
  })

  it('reads SemEval, objects by id, as a pair', async () => {
    const content = {
      '1634_0': { polarity: 'positive', term: 'food', id: '1634_0', sentence: 'The food was great.' },
      '1634_1': { polarity: 'negative', term: 'service', id: '1634_1', sentence: 'The service was not.' },
    }
    const table = await one('test.json', JSON.stringify(content))
    expect(table.columns).toEqual(['polarity', 'term', 'id', 'sentence'])
    expect(guessMapping([table])).toEqual({
      text: 'term',
      text_pair: 'sentence',
      label: 'polarity',
      threshold: null,
    })
    expect(
      (await one('x.json', '{"k1":{"text":"a","label":1},"k2":{"text":"b","label":0}}')).rows[0],
    ).toEqual(['k1', 'a', '1'])
  })

  it.each([
    ['columns', '{"text":["a","b"],"label":[1,0]}'],
    ['pandas columns', '{"text":{"0":"a","1":"b"},"label":{"0":1,"1":0}}'],
    ['pandas split', '{"columns":["text","label"],"index":[0,1],"data":[["a",1],["b",0]]}'],
    ['wrapped', '{"version":"1","data":[{"text":"a","label":1},{"text":"b","label":0}]}'],
    [
      'hub rows',
      '{"rows":[{"row_idx":0,"row":{"text":"a","label":1}},{"row_idx":1,"row":{"text":"b","label":0}}]}',
    ],
  ])('reads %s', async (_, content) => {
    const table = await one('r.json', content)
    expect([table.columns, table.rows]).toEqual([
      ['text', 'label'],
      [
        ['a', '1'],
        ['b', '0'],
      ],
    ])
  })

  it('reads texts by label', async () => {
    const table = await one('r.json', '{"good":["a","b"],"bad":["c"]}')
    expect(table.rows).toEqual([
      ['a', 'good'],
      ['b', 'good'],
      ['c', 'bad'],
    ])
  })

  it('reads JSON Lines under either name, with line numbers', async () => {
    const content =
      '{"id":"1","text":"a","label":"helpful"}\n\n{"id":"2","text":"b\\nc","label":"unhelpful"}\n'
    for (const name of ['train.jsonl', 'train.json', 'train.txt']) {
      const table = await one(name, content)
      expect(table.rows).toEqual([
        ['1', 'a', 'helpful'],
        ['2', 'b\nc', 'unhelpful'],
      ])
      expect(lines(table)).toEqual([1, 3])
    }
  })

  it('treats __proto__ and constructor as columns like any other', async () => {
    const content =
      '[{"__proto__":"a","constructor":"x","text":"t"},{"__proto__":"b","constructor":"y","text":"u"}]'
    const table = await one('r.json', content)
    expect(table.columns).toEqual(['__proto__', 'constructor', 'text'])
    expect(table.rows).toEqual([
      ['a', 'x', 't'],
      ['b', 'y', 'u'],
    ])
    const mapping = { text: 'text', text_pair: null, label: '__proto__', threshold: null }
    const split = { validation: 0, test: 0, fraction: 1, sampling: 'stratified', seed: 0 } as const
    expect(buildDataset([table], ['all'], mapping, split).id2label).toEqual(['a', 'b'])
    expect((await one('c.json', '{"__proto__":["a","b"],"text":["t","u"]}')).rows[1]).toEqual(['b', 'u'])
  })

  it('reads any list of records that JSON can write', async () => {
    const record = fc.dictionary(fc.constantFrom('text', 'label', '__proto__', 'é'), fc.string(), {
      minKeys: 1,
      noNullPrototype: true,
    })
    await fc.assert(
      fc.asyncProperty(fc.array(record, { minLength: 1, maxLength: 10 }), async (records) => {
        const table = await one('r.json', JSON.stringify(records))
        const back = table.rows.map((row) => new Map(table.columns.map((column, i) => [column, row[i]!])))
        expect(back.map((row) => records[0] && row.get('text'))).toEqual(
          records.map((r) =>
            Object.hasOwn(r, 'text') ? r.text : table.columns.includes('text') ? '' : undefined,
          ),
        )
        expect(table.rows).toHaveLength(records.length)
      }),
      { numRuns: 100 },
    )
  })
})

describe('Parquet (fixtures by tests/parity/make_parquet.py)', () => {
  it.each(['none', 'snappy', 'gzip', 'zstd', 'brotli'])('reads pyarrow with compression %s', async (name) => {
    const file = readFileSync(`tests/fixtures/parquet/topics-${name}.parquet`) as Uint8Array<ArrayBuffer>
    const table = await one('test.parquet', file)
    expect(table.columns).toEqual(['text', 'label', 'score', 'tokens', 'meta', 'day', '__proto__'])
    const rest = ['["a","b"]', '{"k":1,"v":"x"}', '2024-01-02T00:00:00.000Z']
    expect(table.rows).toHaveLength(12)
    expect(table.rows[1]).toEqual(['The home side wins 3–1', '1', '', ...rest, 'p1'])
    expect(table.rows[9]).toEqual(['Talks "resume" in\nthe capital', '1', '4.5', ...rest, 'p9'])
    expect(guessMapping([table])).toEqual({ text: 'text', text_pair: null, label: 'label', threshold: null })
  })
})

describe('plain text', () => {
  it('joins a pair of files into one labelled set', async () => {
    const neg = Uint8Array.from('simplistic , silly .\ncaf\xe9 noir\n', (c) => c.charCodeAt(0))
    const [table, ...more] = await parse({
      'rt-polarity.neg': neg,
      'rt-polarity.pos': 'the rock is destined\n',
    })
    expect(more).toEqual([])
    expect(table).toMatchObject({
      name: 'rt-polarity',
      columns: ['text', 'label'],
      encoding: 'UTF-8, Latin-1 (windows-1252)',
    })
    expect(table!.rows).toEqual([
      ['the rock is destined', 'pos'],
      ['simplistic , silly .', 'neg'],
      ['café noir', 'neg'],
    ])
    expect(lines(table!)).toEqual([1, 1, 2])
    expect(guessMapping([table!])).toEqual({ text: 'text', text_pair: null, label: 'label', threshold: null })
  })

  it('names labels by what differs, and leaves split names alone', async () => {
    const joined = await parse({ 'reviews_good.txt': 'I liked it\nfine', 'reviews_bad.txt': 'I did not' })
    expect(joined[0]!.rows.map((row) => row[1])).toEqual(['good', 'good', 'bad'])
    const names = ['test/neg.txt', 'test/pos.txt', 'train/neg.txt', 'train/pos.txt']
    const folders = await parse(Object.fromEntries(names.map((name) => [name, `a text of ${name}`])))
    expect(folders.map((table) => [table.name, ...table.rows.map((row) => row[1])])).toEqual([
      ['test', 'pos', 'neg'],
      ['train', 'pos', 'neg'],
    ])
    expect(guessRoles(folders)).toEqual(['test', 'train'])
    const apart = await parse({ 'train.txt': 'some text\nmore', 'test.txt': 'other text' })
    expect(apart.map((table) => table.columns)).toEqual([['text'], ['text']])
  })

  it('reads fastText marks', async () => {
    const table = await one('x.txt', '__label__2 Great, really\n__label__1 Bad\n')
    expect(table.rows).toEqual([
      ['Great, really', '2'],
      ['Bad', '1'],
    ])
  })

  const folder = '../shared/data/rotten_tomatoes'
  it.skipIf(!existsSync(folder))('reads rt-polarity itself (skipped without ../shared)', async () => {
    const file = (end: string) => readFileSync(join(folder, `rt-polarity.${end}`)) as Uint8Array<ArrayBuffer>
    const [table] = await parse({ 'rt-polarity.neg': file('neg'), 'rt-polarity.pos': file('pos') })
    expect(table!.rows).toHaveLength(10_662)
    const split = { validation: 0.1, test: 0.1, fraction: 1, sampling: 'stratified', seed: 42 } as const
    const dataset = buildDataset([table!], ['all'], guessMapping([table!])!, split)
    expect(dataset.id2label).toEqual(['neg', 'pos'])
    expect([dataset.validation.length, dataset.test.length]).toEqual([1066, 1066])
  })
})

describe('archives', () => {
  const csv = bytes('text,label\na,1\nb,0\n')
  it('opens gz', async () => {
    const table = await one('r.csv.gz', gzipSync(csv) as Uint8Array<ArrayBuffer>)
    expect([table.name, table.rows.length]).toEqual(['r.csv', 2])
    const two = [gzipSync(csv), gzipSync(bytes('c,1\n'))]
    expect((await one('r.csv.gz', Buffer.concat(two) as Uint8Array<ArrayBuffer>)).rows).toHaveLength(3)
  })

  it('opens zip, with folders, gz inside, and files that are no data', async () => {
    const zip = zipSync({
      'sst2/train.csv': csv,
      'sst2/test.csv.gz': gzipSync(csv),
      'README.md': bytes('# x'),
      '__MACOSX/._train.csv': csv,
    })
    const tables = await parse({ 'data.zip': zip as Uint8Array<ArrayBuffer> })
    expect(tables.map((table) => table.name)).toEqual(['sst2/train.csv', 'sst2/test.csv'])
    expect(guessRoles(tables)).toEqual(['train', 'test'])
    expect(tables[0]!.warnings).toEqual(['left out of data.zip: README.md'])
  })
})

describe('samples and previews', () => {
  const fixtures = join(
    dirname(createRequire(import.meta.url).resolve('sentiment/package.json')),
    'test/fixtures',
  )
  it.each(['amazon', 'imdb', 'yelp'])(
    'reads the %s fixture and passes over its last element',
    async (name) => {
      const table = await one(
        `${name}.json`,
        readFileSync(join(fixtures, `${name}.json`)) as Uint8Array<ArrayBuffer>,
      )
      const mapping = guessMapping([table])!
      expect(mapping).toEqual({ text: 'text', text_pair: null, label: 'class', threshold: null })
      const split = { validation: 0.1, test: 0.2, fraction: 1, sampling: 'stratified', seed: 1 } as const
      const dataset = buildDataset([table], ['all'], mapping, split)
      expect(dataset.id2label).toEqual(['0', '1'])
      expect(dataset.train.length + dataset.validation.length + dataset.test.length).toBe(1000)
    },
  )

  it('previews twenty rows and cuts long cells', async () => {
    const table = await one('r.csv', `text,label\n${`${'x'.repeat(1000)},1\n`.repeat(30)}`)
    const shown = preview(table)
    expect([shown.rows.length, shown.row_count, shown.rows[0]![0]!.length]).toEqual([20, 30, 301])
  })
})
