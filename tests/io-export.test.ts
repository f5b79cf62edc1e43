import { deflateRawSync } from 'node:zlib'
import fc from 'fast-check'
import { zipSync } from 'fflate'
import { describe, expect, test } from 'vitest'
import { toAdapterHub } from '../src/io/adapterhub.ts'
import { exportZip } from '../src/io/export.ts'
import { readAdapterFiles, type NamedBytes } from '../src/io/import.ts'
import { toPeft } from '../src/io/peft.ts'
import { formatBytes } from '../src/io/storage.ts'
import { readZip, writeZip } from '../src/io/zip.ts'
import { adapters, bitsOf, fromUtf8, lora, makeBundle, makeRun, seqBn, utf8 } from './io.bundles.ts'

const extras = {
  tokenizer: '{"model": {"type": "BPE"}}',
  tokenizer_config: '{"pad_token": "<pad>"}',
  examples: [
    { text: 'A "great" film 🙂\n', logits: [Math.fround(-1.1), Math.fround(2.3)] },
    { text: 'Backslash \\ and nothing', logits: [0.25, -0.5] },
  ],
}

/** A zip with fields of its first central record and local header set by hand. */
function patched(
  files: Record<string, Uint8Array>,
  patch: (view: DataView, central: number) => void,
): Uint8Array<ArrayBuffer> {
  const zip = new Uint8Array(zipSync(files, { level: 6 }))
  const view = new DataView(zip.buffer)
  patch(view, view.getUint32(zip.length - 6, true))
  return zip
}

describe('the exported zip', () => {
  test.each(Object.entries(adapters))(
    '%s: everything is in it, and it comes back as it was',
    async (_, adapter) => {
      const bundle = makeBundle(adapter, ['schlecht', 'gut “sehr”', '🙂'])
      const zip = await exportZip(bundle, makeRun(bundle), extras)
      const files = readZip(zip)
      const head = ['head_config.json', 'pytorch_model_head.bin', 'model_head.safetensors']
      const weights = ['adapter_config.json', 'pytorch_adapter.bin', 'adapter.safetensors']
      const hub = [...(adapter.architecture === 'head' ? [] : weights), ...head].map(
        (name) => `adapterhub/${name}`,
      )
      const peft =
        adapter.architecture === 'lora' ? ['peft/adapter_config.json', 'peft/adapter_model.safetensors'] : []
      const own = ['label_map.json', 'run.json', 'tokenizer/tokenizer.json', 'tokenizer/tokenizer_config.json', 'README.md', 'predict.py', 'metrics.csv'] // prettier-ignore
      expect([...files.keys()]).toEqual([...hub, ...peft, ...own])
      const { bundle: back, notes } = await readAdapterFiles([{ name: 'reviews.zip', bytes: zip }])
      expect({ ...back, tensors: bitsOf(back.tensors) }).toEqual({
        ...bundle,
        hidden_size: 16,
        tensors: bitsOf(bundle.tensors),
      })
      expect(notes).toEqual([])
    },
  )

  test('its texts hold the run', async () => {
    const bundle = makeBundle(lora)
    const run = makeRun(bundle)
    const files = readZip(await exportZip(bundle, run, { ...extras, tokenizer_config: null }))
    const text = (name: string) => fromUtf8(files.get(name))
    expect(files.has('tokenizer/tokenizer_config.json')).toBe(false)
    expect(JSON.parse(text('label_map.json'))).toEqual({ id2label: { 0: 'negative', 1: 'positive' }, label2id: { negative: 0, positive: 1 } }) // prettier-ignore
    expect(JSON.parse(text('run.json'))).toMatchObject({ name: run.name, created: '2026-01-02T03:04:05.000Z', base: bundle.base, max_length: 64, test: run.test, data: run.data }) // prettier-ignore
    expect(text('metrics.csv')).toBe(
      'split,step,epoch,loss,learning_rate,grad_norm,accuracy,f1_macro,f1_micro\n' +
        'train,5,0.5,0.7,0.001,1.5,,,\n' +
        'validation,10,1,0.5,,,0.8,0.75,0.8\n' +
        'test,10,,0.5,,,0.8,0.75,0.8\n',
    )
    expect(text('README.md')).toContain('| test | 0.7500 | 0.8000 | 0.8000 | 0.5000 |')
    expect(text('predict.py')).toContain('    "A \\"great\\" film 🙂\\n": [-1.10000002, 2.29999995],\n')
    expect(text('predict.py')).toContain(
      'else "someone/tiny-roberta")\nmodel.load_adapter(str(here / "adapterhub"), set_active=True)',
    )
  })

  test('is refused when the adapter is not whole', async () => {
    const bundle = makeBundle(seqBn)
    const broken = { ...bundle, tensors: new Map([...bundle.tensors].slice(0, -1)) }
    await expect(exportZip(broken, makeRun(bundle), extras)).rejects.toThrow(
      'heads.reviews.4.bias is missing',
    )
  })
})

describe('import', () => {
  const loose = (files: Map<string, Uint8Array<ArrayBuffer>>, folder = '') =>
    [...files].map(([name, bytes]): NamedBytes => ({ name: folder + name, bytes }))

  test('loose files, a folder in folders, a nested zip folder, with what systems add', async () => {
    const bundle = makeBundle(seqBn)
    const files = toAdapterHub(bundle)
    const nested = new Map([...files].map(([name, bytes]): [string, Uint8Array] => [`a/b/${name}`, bytes]))
    nested.set('__MACOSX/a/b/._adapter_config.json', utf8('junk')).set('a/notes.txt', utf8('hello'))
    const forms = [loose(files), loose(files, 'x/y/'), [{ name: 'MINE.ZIP', bytes: writeZip(nested, 6) }]]
    for (const form of forms) {
      const { bundle: back, notes } = await readAdapterFiles(form)
      expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
      expect([back.base, back.max_length, notes.length]).toEqual([null, 128, 2])
    }
  })

  test('a PEFT folder, with the labels of a label map beside it', async () => {
    const bundle = makeBundle(lora)
    const map = { name: 'label_map.json', bytes: utf8('{"id2label": {"1": "positive", "0": "negative"}}') }
    const { bundle: back } = await readAdapterFiles([...loose(toPeft(bundle), 'my lora/'), map])
    expect([back.name, back.id2label]).toEqual(['my-lora', ['negative', 'positive']])
    expect(Object.values(bitsOf(back.tensors))).toEqual(Object.values(bitsOf(bundle.tensors)))
    const one = { ...map, bytes: utf8('{"id2label": {"0": "only"}}') }
    await expect(readAdapterFiles([...loose(toPeft(bundle), 'x/'), one])).rejects.toThrow(
      'names 1 labels, but the classifier has 2',
    )
  })

  test.each<[string, NamedBytes[], string]>([
    ['nothing', [], 'There is no file to import'],
    ['a picture', [{ name: 'a.png', bytes: Uint8Array.of(1, 2, 3) }], 'No adapter was found'],
    ['a false zip', [{ name: 'a.zip', bytes: utf8('hello') }], 'a.zip is no zip file'],
    ['two adapters', ['a/', 'b/'].flatMap((folder) => loose(toAdapterHub(makeBundle(seqBn)), folder)), 'hold 2 adapters (a, b)'],
    ['a broken config', [{ name: 'adapter_config.json', bytes: utf8('{') }], 'adapter_config.json is not valid JSON'],
    ['a false base', [...loose(toAdapterHub(makeBundle(seqBn))), { name: 'run.json', bytes: utf8('{"base": {"name": 1}}') }], 'The base model in run.json'],
  ])('%s: refused by one sentence', async (_, files, message) => {
    await expect(readAdapterFiles(files)).rejects.toThrow(message)
  }) // prettier-ignore

  test('a pickle of evil in an adapter folder is named with its file', async () => {
    const files = toAdapterHub(makeBundle(seqBn)).set(
      'pytorch_adapter.bin',
      utf8('cposix\nsystem\n(S"ls"\ntR.'),
    )
    await expect(readAdapterFiles(loose(files))).rejects.toThrow(
      /^pytorch_adapter.bin: The torch file names posix.system/,
    )
  })
})

describe('zip files', () => {
  test('any files come back, stored and deflated', () => {
    const path = fc.array(fc.stringMatching(/^[\w -]{1,8}$/), { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'))
    const entry = fc.tuple(path, fc.uint8Array({ maxLength: 300 }))
    fc.assert(
      fc.property(fc.uniqueArray(entry, { selector: ([name]) => name, maxLength: 5 }), fc.constantFrom(0 as const, 6 as const), (list, level) => {
        const files = new Map(list)
        const zip = writeZip(files, level)
        expect(new Map(readZip(zip))).toEqual(files)
        expect(writeZip(files, level)).toEqual(zip)
      }),
      { numRuns: 50 },
    )
  }) // prettier-ignore

  test.each(['../evil.txt', 'a/../../evil.txt', '/etc/passwd', 'C:\\evil.txt', '..\\evil.txt', 'a\\..\\b'])(
    'the path %s is refused',
    (name) => {
      expect(() => readZip(new Uint8Array(zipSync({ [name]: utf8('x') })))).toThrow('leads out of its folder')
    },
  )

  test('a bomb is refused by its claim, and a liar at the first byte over it', () => {
    const zeros = { 'a.bin': new Uint8Array(3_000_000) }
    const claims = patched(zeros, (view, central) => view.setUint32(central + 24, 0xfffffff0, true))
    expect(() => readZip(claims)).toThrow('The zip would unpack to 4.29 GB; more than 1.07 GB is refused')
    const lies = patched(zeros, (view, central) => view.setUint32(central + 24, 1000, true))
    expect(() => readZip(lies)).toThrow('unpacks to more than the 1 kB it claims')
    const many = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`f${i}`, new Uint8Array(0)]))
    expect(() => readZip(new Uint8Array(zipSync(many)))).toThrow('The zip has 5000 entries or more')
  })

  test('a bomb of a gigabyte does not take its time', { timeout: 20_000 }, () => {
    const packed = new Uint8Array(deflateRawSync(new Uint8Array(64 << 20)))
    const bomb = patched({ 'a.bin': packed }, (view, central) => {
      view.setUint16(central + 10, 8, true)
      view.setUint32(central + 24, 100, true)
    })
    const stored = new Uint8Array(zipSync({ 'a.bin': packed }, { level: 0 }))
    const view = new DataView(stored.buffer)
    const central = view.getUint32(stored.length - 6, true)
    view.setUint16(central + 10, 8, true)
    view.setUint32(central + 24, 100, true)
    expect(() => readZip(bomb)).toThrow()
    expect(() => readZip(stored)).toThrow('unpacks to more than the 100 bytes it claims')
  })

  test.each<[string, (view: DataView, central: number) => void, string]>([
    ['encryption', (view, at) => view.setUint16(at + 8, 1, true), 'is encrypted'],
    ['another method', (view, at) => view.setUint16(at + 10, 14, true), 'compression method 14'],
    ['a wrong checksum', (view, at) => view.setUint32(at + 16, 1, true), 'the checksum of a.txt is wrong'],
    ['a wrong place', (view, at) => view.setUint32(at + 42, 7, true), 'is not where its directory says'],
    [
      'a place outside',
      (view, at) => view.setUint32(at + 42, 0x7fffffff, true),
      'is not where its directory says',
    ],
    ['a cut entry', (view, at) => view.setUint32(at + 20, 100_000, true), 'is cut off'],
  ])('%s: one sentence', (_, patch, message) => {
    expect(() => readZip(patched({ 'a.txt': utf8('hello hello hello hello') }, patch))).toThrow(message)
  })

  test('mutations end in a sentence or in files', () => {
    const zip = writeZip(new Map([['a/b.txt', utf8('hello '.repeat(50))], ['c', utf8('d')]]), 6) // prettier-ignore
    const edits = fc.array(fc.tuple(fc.nat(zip.length - 1), fc.nat(255)), { minLength: 1, maxLength: 5 })
    fc.assert(
      fc.property(edits, fc.nat(zip.length), (changes, length) => {
        const damaged = zip.slice(0, Math.max(length, zip.length - 40))
        for (const [at, value] of changes) if (at < damaged.length) damaged[at] = value
        try {
          readZip(damaged)
        } catch (error) {
          expect((error as Error).constructor).toBe(Error)
          expect((error as Error).message).toMatch(/^[A-Z].*\.$/s)
        }
      }),
      { numRuns: 1000 },
    )
  })
})

test('sizes in words', () => {
  expect([0, 999, 1000, 12_345, 999_499, 999_600, 498_818_054, 5.5e9].map(formatBytes)).toEqual([
    '0 bytes', '999 bytes', '1 kB', '12.3 kB', '999 kB', '1 MB', '499 MB', '5.5 GB',
  ]) // prettier-ignore
})
