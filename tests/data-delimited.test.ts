/** CSV, TSV and their kin, and the encodings that they come in. */
import fc from 'fast-check'
import Papa from 'papaparse'
import { describe, expect, it } from 'vitest'
import { guessMapping } from '../src/data/dataset.ts'
import { bytes, lines, one } from './data.files.ts'

describe('delimited text', () => {
  it('reads CSV with quoted commas, quotes and newlines, and the line of each row', async () => {
    const table = await one('r.csv', 'text,label\n"good, ""very"" good",1\n"two\r\nlines",0\n\nplain,1\n')
    expect(table.columns).toEqual(['text', 'label'])
    expect(table.rows).toEqual([
      ['good, "very" good', '1'],
      ['two\r\nlines', '0'],
      ['plain', '1'],
    ])
    expect(lines(table)).toEqual([2, 3, 6])
    expect(table.format).toBe('CSV, separated by commas')
    expect(table.encoding).toBe('UTF-8')
  })

  it.each([',', ';', '\t', '|', '^', '~', '::', '||', '\x1f'])('finds the delimiter %j', async (d) => {
    const rows = ['text', 'Wow, nice: it works; really', 'bad - and "sad"', 'fine', 'so so'].map((text, i) =>
      [
        i,
        d === ',' || d === ';' ? `"${text.replaceAll('"', '""')}"` : text,
        ['label', 'pos', 'neg', 'pos', 'neg'][i],
      ].join(d),
    )
    rows[0] = ['id', 'text', 'label'].join(d)
    const table = await one('r.csv', rows.join('\n'))
    expect(table.columns).toEqual(['id', 'text', 'label'])
    expect(table.rows[0]).toEqual(['1', 'Wow, nice: it works; really', 'pos'])
    expect(table.rows).toHaveLength(4)
  })

  it('obeys the line sep=; that Excel writes, and counts it', async () => {
    const table = await one('r.csv', 'sep=;\r\ntext;label\r\na, b;1\r\nc;0\r\n')
    expect(table.rows).toEqual([
      ['a, b', '1'],
      ['c', '0'],
    ])
    expect(lines(table)).toEqual([3, 4])
  })

  it('reads SST-2, whose quotes are letters', async () => {
    const table = await one(
      'train.tsv',
      'sentence\tlabel\n" hide new \t0\nit \'s a " fine " film \t1\n"odd\t0\n',
    )
    expect(table.rows).toEqual([
      ['" hide new ', '0'],
      ['it \'s a " fine " film ', '1'],
      ['"odd', '0'],
    ])
    expect(guessMapping([table])).toEqual({
      text: 'sentence',
      text_pair: null,
      label: 'label',
      threshold: null,
    })
  })

  it('reads CoLA, which has no header and an empty column', async () => {
    const cola = [
      "gj04\t1\t\tOur friends won't buy this.",
      'gj04\t0\t*\tThey drank the pub.',
      'cj99\t1\t\tThe more "we" do.',
    ]
    const table = await one('in_domain_train.tsv', [...cola, ...cola, ...cola].join('\n'))
    expect(table.columns).toEqual(['column 1', 'column 2', 'column 3', 'column 4'])
    expect(table.rows).toHaveLength(9)
    expect(lines(table)[0]).toBe(1)
    expect(guessMapping([table])).toMatchObject({ text: 'column 4', label: 'column 2' })
  })

  it('reads text, tab, label lines, and quotes escaped by a backslash', async () => {
    const labelled = await one(
      'yelp_labelled.txt',
      'Wow... Loved this place.\t1\nCrust is "not" good.\t0\nGreat, great.\t1\nBad.\t0\n',
    )
    expect(labelled.rows[1]).toEqual(['Crust is "not" good.', '0'])
    expect(guessMapping([labelled])).toMatchObject({ text: 'column 1', label: 'column 2' })
    const escaped = await one('r.csv', 'text,label\n"he said \\"no\\", and left",0\n"fine",1\n')
    expect(escaped.rows[0]).toEqual(['he said "no", and left', '0'])
  })

  it('takes pasted lines with and without a header', async () => {
    expect((await one('pasted text', 'great film,positive\nawful film,negative')).rows).toHaveLength(2)
    expect((await one('pasted text', 'review,stars\n"Good, nice",5\nBad,1')).columns).toEqual([
      'review',
      'stars',
    ])
  })

  it('reads the SMS spam set, whose header is mostly blank', async () => {
    const row = (i: number) =>
      `${i % 3 ? 'ham' : 'spam'},"Go until, number ${i}, only here and there",${i === 7 ? 'x' : ''},,`
    const table = await one(
      'spam.csv',
      ['v1,v2,,,', ...Array.from({ length: 30 }, (_, i) => row(i))].join('\r\n'),
    )
    expect([table.columns[0], table.rows.length]).toEqual(['v1', 30])
    expect(guessMapping([table])).toMatchObject({ text: 'v2', label: 'v1' })
  })

  it('leaves prose with commas whole', async () => {
    const prose = Array.from({ length: 20 }, (_, i) => `Well${', and so on'.repeat(i % 6)} ${i}`)
    for (const name of ['t.csv', 't.txt', 'pasted text']) {
      expect((await one(name, prose.join('\n'))).rows).toEqual(prose.map((line) => [line]))
    }
  })

  it('gives every column a name of its own', async () => {
    const table = await one('r.csv', 'text,,label,label,__proto__,constructor\na,b,1,2,3,4\nc,d,0,2,3,5\n')
    expect(table.columns).toEqual(['text', 'column 2', 'label', 'label (2)', '__proto__', 'constructor'])
    expect(table.rows[1]).toEqual(['c', 'd', '0', '2', '3', '5'])
  })

  it('reads back any table that a CSV writer wrote', async () => {
    const cell = fc.string({
      unit: fc.constantFrom('a', 'é', '👍', ' ', ',', ';', '|', '"', "'", '\n', '\r\n', '.'),
    })
    const table = fc.array(fc.tuple(fc.string({ unit: 'grapheme-ascii', maxLength: 5 }), cell, cell), {
      minLength: 1,
      maxLength: 20,
    })
    await fc.assert(
      fc.asyncProperty(
        table,
        fc.constantFrom(',', ';', '|'),
        fc.constantFrom('\n', '\r\n'),
        async (rows, delimiter, newline) => {
          const cells = rows.map(([a, b, c], i) => [`${i}`, a, b, c])
          const text = Papa.unparse([['id', 'x', 'text', 'label'], ...cells], {
            delimiter,
            newline,
            quotes: true,
          })
          const read = await one('t.csv', text)
          expect(read.columns).toEqual(['id', 'x', 'text', 'label'])
          expect(read.rows).toEqual(cells)
          const starts = cells.map((_, i) =>
            Papa.unparse([['id'], ...cells.slice(0, i)], { quotes: true, newline }),
          )
          expect(lines(read)).toEqual(starts.map((before) => before.split(/\r\n|\n|\r/).length + 1))
        },
      ),
      { numRuns: 200 },
    )
  })

  it('reads 50,000 rows in seconds', async () => {
    const row = (i: number) =>
      `${i},"Text number ${i}, with a comma, and some more words to make it long enough",${i % 5}`
    const start = performance.now()
    const table = await one(
      'big.csv',
      ['id,text,label', ...Array.from({ length: 50_000 }, (_, i) => row(i))].join('\n'),
    )
    expect(table.rows).toHaveLength(50_000)
    expect(table.lines[49_999]).toBe(50_001)
    expect(performance.now() - start).toBeLessThan(10_000)
  })
})

describe('encodings', () => {
  const text = 'text,label\ncafé “fine” – 10 €,ja\nnaïve,nein\nüber,ja\n'
  const utf16 = (order: 'le' | 'be', mark: boolean) => {
    const out = new Uint8Array(2 * (text.length + (mark ? 1 : 0)))
    const view = new DataView(out.buffer)
    Array.from(mark ? `\ufeff${text}` : text, (c, i) =>
      view.setUint16(2 * i, c.charCodeAt(0), order === 'le'),
    )
    return out
  }
  const windows = new Map([
    ['“', 0x93],
    ['”', 0x94],
    ['–', 0x96],
    ['€', 0x80],
  ])
  const latin = Uint8Array.from(text, (c) => windows.get(c) ?? c.charCodeAt(0))
  it.each<[string, Uint8Array<ArrayBuffer>]>([
    ['UTF-8', bytes(text)],
    ['UTF-8 with BOM', bytes(`\ufeff${text}`)],
    ['UTF-16 LE', utf16('le', true)],
    ['UTF-16 BE', utf16('be', true)],
    ['UTF-16 LE', utf16('le', false)],
    ['UTF-16 BE', utf16('be', false)],
    ['Latin-1 (windows-1252)', latin],
  ])('%s', async (encoding, content) => {
    const table = await one('r.csv', content)
    expect(table.encoding).toBe(encoding)
    expect(table.columns).toEqual(['text', 'label'])
    expect(table.rows[0]).toEqual(['café “fine” – 10 €', 'ja'])
  })

  it('keeps UTF-8 with a broken byte and says so', async () => {
    const content = bytes(`text,label\n${'größer,ja\nüber,nein\n'.repeat(20)}b?d,ja\n`)
    content[content.indexOf(63)] = 0xff
    const table = await one('r.csv', content)
    expect(table.encoding).toBe('UTF-8')
    expect(table.rows[0]).toEqual(['größer', 'ja'])
    expect(table.warnings[0]).toContain('line 42')
  })
})
