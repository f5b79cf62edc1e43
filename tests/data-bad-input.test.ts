/** Every kind of bad file gets one clear sentence that names it and, where there is one, the line. */
import { readFileSync } from 'node:fs'
import { gzipSync, strToU8, zipSync } from 'fflate'
import { describe, expect, it } from 'vitest'
import { parseSources } from '../src/data/parse.ts'

type Content = string | Uint8Array<ArrayBuffer>

/** The sentence with which a file is refused. */
async function refusal(name: string, content: Content | Blob): Promise<string> {
  const blob = content instanceof Blob ? content : new Blob([content])
  const error: unknown = await parseSources([{ name, blob }]).then(
    () => null,
    (reason: unknown) => reason,
  )
  expect(error, `${name} must be refused`).toBeInstanceOf(Error)
  const { message } = error as Error
  expect(message).toContain(name.split('/').at(-1)!.replace(/\.gz$/, ''))
  expect(message).not.toMatch(/\n|undefined|\[object|NaN/)
  expect(message.length).toBeLessThan(400)
  return message
}

const zip = (files: Record<string, Uint8Array | string>) => {
  const entries = Object.entries(files).map(([name, data]) => [
    name,
    typeof data === 'string' ? strToU8(data) : data,
  ])
  return zipSync(Object.fromEntries(entries)) as Uint8Array<ArrayBuffer>
}
const gz = (data: Uint8Array | string) =>
  gzipSync(typeof data === 'string' ? strToU8(data) : data) as Uint8Array<ArrayBuffer>
const csv = 'text,label\ngood,1\nbad,0\n'

describe('no data', () => {
  it.each(['', ' \n\n', '\ufeff', '\ufeff\r\n'])('an empty file: %j', async (content) => {
    for (const name of ['r.csv', 'r.json', 'r.jsonl', 'r.txt', 'r.pos'])
      expect(await refusal(name, content)).toMatch(/is empty/)
  })
  it('a header and nothing else', async () => {
    expect(await refusal('r.csv', 'text,label\n')).toMatch(/no rows/)
    expect(await refusal('r.json', '[]')).toMatch(/not a table/)
  })
  it('no file', async () => {
    await expect(parseSources([])).rejects.toThrow('no file was given')
  })
})

describe('binary files', () => {
  const noise = Uint8Array.from({ length: 3000 }, (_, i) => (i * 7919) % 251)
  it.each<[string, number[], RegExp]>([
    ['photo.png', [0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10], /PNG image/],
    ['setup.exe', [0x4d, 0x5a, 0x90, 0, 3, 0, 0, 0], /Windows program/],
    ['paper.pdf', [...strToU8('%PDF-1.7\n')], /PDF/],
    ['old.xls', [0xd0, 0xcf, 0x11, 0xe0], /Excel/],
    ['data.tar', [...new Uint8Array(257), ...strToU8('ustar')], /tar archive/],
    ['model.bin', [1, 2, 3, 0, 0, 0], /binary file/],
  ])('%s', async (name, start, pattern) => {
    const content = new Uint8Array(start.length + noise.length)
    content.set(start)
    content.set(noise, start.length)
    expect(await refusal(name, content)).toMatch(pattern)
    expect(await refusal('renamed.csv', content)).toMatch(pattern)
  })
  it('a Word document, which is a zip', async () => {
    const docx = zip({ '[Content_Types].xml': '<Types/>', 'word/document.xml': '<w/>' })
    expect(await refusal('essay.docx', docx)).toMatch(/Word, Excel or PowerPoint/)
  })
  it('text that is no data: a web page, XML, a Git LFS pointer', async () => {
    expect(await refusal('r.csv', '<!DOCTYPE html><html>Sign in</html>')).toMatch(/web page/)
    expect(await refusal('Restaurants.xml', '<?xml version="1.0"?><sentences/>')).toMatch(/XML/)
    expect(await refusal('r.csv', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\n')).toMatch(
      /Git LFS/,
    )
  })
})

describe('tables that are broken', () => {
  it('a row of another width, with its line', async () => {
    expect(await refusal('r.csv', 'text,label\n"two\nlines",1\ngood, really good,1\nbad,0\nx\n')).toMatch(
      /^r\.csv, line 4: 3 cells where the first line has 2 \(and 1 more such lines\)/,
    )
    expect(await refusal('r.csv', 'id,text,label\n1,a,x\n2,b\n3,c,y\n')).toMatch(/^r\.csv, line 3: 2 cells/)
  })
  it('a quote that is never closed, with its line', async () => {
    const message = await refusal(
      'r.csv',
      'text,label\n"fine, really",1\n"not closed, at all,0\nmore, of it,1\n',
    )
    expect(message).toMatch(/^r\.csv, line 3: .*a quote is opened and never closed/)
  })
  it('JSON with a syntax error, with line and column', async () => {
    const at = async (text: string) =>
      (await refusal('r.json', text)).replace('r.json is not valid JSON; ', '')
    expect(await at('[{"text": "a", "label": 1},\n {"text": "b" "label": 0}]')).toMatch(
      /^line 2, column 15: found "label" where ","/,
    )
    expect(await at('[{"text": "a"},\n]')).toMatch(/^line 2, column 1: found "\]" where a value/)
    expect(await at('[{"text": "a", }]')).toMatch(/^line 1, column 16: .*a key in double quotes/)
    expect(await at("[{'text': 'a'}]")).toMatch(/^line 1, column 3/)
    expect(await at('[{"text": None}]')).toMatch(/^line 1, column 11: found "None"/)
    expect(await at('[{"text": "a\nb"}]')).toMatch(/^line 1, column 11: found a string that is not closed/)
    expect(await at('[{"text": "a\\x"}]')).toMatch(/^line 1, column 11: .*bad escape/)
    expect(await at('[{"text": "a"}] 1')).toMatch(/^line 1, column 17: found "1" where the end/)
    expect(await at('[{"text": "a"')).toMatch(/^line 1, column 14: the text ends where "," or "}" is missing/)
    expect(await at('[{"text": 01}]')).toMatch(/^line 1, column 12/)
  })
  it('JSON Lines with a bad line', async () => {
    const lines = '{"text":"a","label":1}\n\n{"text":"b","label":}\n'
    expect(await refusal('r.jsonl', lines)).toMatch(/line 3, column 21: found "}" where a value/)
    expect(await refusal('r.jsonl', '{"text":"a"}\n[1]\n')).toMatch(/line 2: expected an object/)
  })
  it('JSON that is no table, or nested without end', async () => {
    expect(await refusal('r.json', '{"text":"a","label":1}')).toMatch(/not a table/)
    expect(await refusal('r.json', '42')).toMatch(/not a table/)
    expect(await refusal('r.json', '['.repeat(200_000))).toMatch(/nested more than 64 deep/)
    expect(await refusal('r.jsonl', `{"a":${'['.repeat(100_000)}`)).toMatch(/nested more than 64 deep/)
  })
  it('Parquet that is cut off or damaged', async () => {
    const file = readFileSync('tests/fixtures/parquet/topics-snappy.parquet') as Uint8Array<ArrayBuffer>
    expect(await refusal('r.parquet', file.slice(0, 2000))).toMatch(/damaged or cut-off Parquet/)
    const damaged = file.slice()
    damaged.fill(0xff, 4, 60)
    expect(await refusal('r.parquet', damaged)).toMatch(/damaged or cut-off Parquet/)
    expect(await refusal('r.parquet', strToU8('PAR1PAR1') as Uint8Array<ArrayBuffer>)).toMatch(/Parquet/)
    expect(await refusal('r.parquet', strToU8('PARE....PARE') as Uint8Array<ArrayBuffer>)).toMatch(
      /encrypted/,
    )
  })
})

describe('sizes', () => {
  const megabytes = (n: number, letter: string) => new Blob(Array<string>(n).fill(letter.repeat(2 ** 20)))

  it('100 MB of one line, at once and without reading it', async () => {
    const blob = megabytes(100, 'a')
    let read = 0
    const counted = new Proxy(blob, {
      get(target, key) {
        if (key === 'arrayBuffer') return () => ((read += target.size), target.arrayBuffer())
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    const start = performance.now()
    for (const name of ['r.csv', 'r.txt', 'r.jsonl', 'r'])
      expect(await refusal(name, counted)).toMatch(/line 1.*4 MB/)
    expect(read).toBe(0)
    expect(performance.now() - start).toBeLessThan(4000)
  })
  it('a long line further down, with its number', async () => {
    const blob = new Blob(['text,label\ngood,1\n', megabytes(5, 'a'), ',0\nbad,0\n'])
    expect(await refusal('r.csv', blob)).toMatch(/^r\.csv, line 3: the line is 5 MB long/)
  })
  it('JSON with one endless text', async () => {
    expect(await refusal('r.json', new Blob(['[{"text":"', megabytes(20, 'a'), '","label":1}]']))).toMatch(
      /more than 4 MB/,
    )
    expect(await refusal('r.json', new Blob(['["', megabytes(20, 'a')]))).toMatch(/more than 4 MB/)
  })
  it('a file over the limit, and too many lines', async () => {
    const huge = new Proxy(new Blob(['text,label\n']), {
      get: (target, key) => {
        if (key === 'size') return 2 ** 31
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    expect(await refusal('r.csv', huge)).toMatch(/2048 MB; at most 256 MB/)
    expect(await refusal('r.csv', `text,label\n${'a,1\n'.repeat(1_000_001)}`)).toMatch(
      /1000001 rows; at most 1000000/,
    )
  })
})

describe('archives', () => {
  const zeros = new Uint8Array(40 * 2 ** 20)

  it('a bomb, as gz and as zip', async () => {
    expect(await refusal('r.csv.gz', gz(zeros))).toMatch(/-fold.*bomb/)
    expect(await refusal('r.zip', zip({ 'r.csv': zeros }))).toMatch(/-fold.*bomb/)
  })
  it('a zip whose sizes lie', async () => {
    const lying = zip({ 'r.csv': csv.repeat(100) })
    const view = new DataView(lying.buffer)
    const central = lying.length - 22 - 46 - 'r.csv'.length
    expect(view.getUint32(central, true)).toBe(0x02014b50)
    view.setUint32(central + 24, 20, true)
    expect(await refusal('r.zip', lying)).toMatch(/damaged|checksum/)
    view.setUint32(central + 24, 0xfffffff0, true)
    expect(await refusal('r.zip', lying)).toMatch(/unpacks to more than 512 MB/)
  })
  it.each(['../r.csv', 'a/../../r.csv', '/etc/r.csv', 'C:\\r.csv', '..\\r.csv'])(
    'a path that climbs: %s',
    async (path) => {
      const message = await refusal('r.zip', zip({ [path]: csv }))
      expect(message).toMatch(/leads out of its folder/)
      expect(message).toContain(path)
    },
  )
  it('archives in archives', async () => {
    expect(await refusal('r.zip', zip({ 'inner.zip': zip({ 'r.csv': csv }) }))).toMatch(
      /inner\.zip inside r\.zip is an archive/,
    )
    expect(await refusal('r.zip', zip({ 'inner.csv': zip({ 'r.csv': csv }) }))).toMatch(
      /inner\.csv inside r\.zip is an archive/,
    )
    expect(await refusal('r.csv.gz', gz(gz(csv)))).toMatch(/is an archive itself/)
    expect(await refusal('r.csv.gz', gz(zip({ 'r.csv': csv })))).toMatch(/is an archive itself/)
  })
  it('damaged and cut-off archives', async () => {
    const packed = gz(csv.repeat(1000))
    for (const end of [5, 12, packed.length - 20, packed.length - 8, packed.length - 1]) {
      expect(await refusal('r.csv.gz', packed.slice(0, end))).toMatch(/damaged or cut-off gz/)
    }
    const flipped = gz(csv)
    flipped[flipped.length - 6]! ^= 1
    expect(await refusal('r.csv.gz', flipped)).toMatch(/damaged or cut-off gz/)
    const whole = zip({ 'r.csv': csv.repeat(1000) })
    expect(await refusal('r.zip', whole.slice(0, whole.length - 30))).toMatch(
      /damaged, cut-off or encrypted zip/,
    )
    whole[60]! ^= 0xff
    expect(await refusal('r.zip', whole)).toMatch(/damaged/)
  })
  it('a zip without data, with too many files, or with an empty one', async () => {
    expect(await refusal('r.zip', zip({ 'a.png': 'x', 'b/c.md': 'y' }))).toMatch(
      /no data file \(only a\.png, b\/c\.md\)/,
    )
    expect(await refusal('r.zip', zip({}))).toMatch(/no files/)
    const many = Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`neg/${i}.txt`, 'text']))
    expect(await refusal('r.zip', zip(many))).toMatch(/more than 64 data files/)
  })
  it('names the file inside', async () => {
    const message = await parseSources([{ name: 'r.zip', blob: new Blob([zip({ 'a/r.csv': '' })]) }]).catch(
      String,
    )
    expect(message).toMatch(/a\/r\.csv is empty/)
  })
})
