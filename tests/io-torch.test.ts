import { existsSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { TensorMap } from '../src/config.ts'
import { readTorchBin, writeTorchBin } from '../src/io/torchBin.ts'
import { readZip, writeZip } from '../src/io/zip.ts'
import { bitsOf, sorted, utf8 } from './io.bundles.ts'

const folder = new URL('fixtures/torch/', import.meta.url)
const fixture = (name: string) => new Uint8Array(readFileSync(new URL(name, folder)))
const expected: Record<'tensors' | 'module', ReturnType<typeof bitsOf>> = JSON.parse(
  readFileSync(new URL('expected.json', folder), 'utf8'),
)

test.each(['zip.bin', 'legacy.bin'])('%s of torch: dtypes, views, shared storages, parameters', (name) => {
  expect(sorted(bitsOf(readTorchBin(fixture(name))))).toEqual(sorted(expected.tensors))
})

test.each(['state_dict.bin', 'state_dict_legacy.bin'])(
  '%s of torch: an OrderedDict with metadata',
  (name) => {
    expect(bitsOf(readTorchBin(fixture(name)))).toEqual(expected.module)
  },
)

test('what is written comes back bit for bit', () => {
  const shape = fc.array(fc.nat(4), { maxLength: 5 })
  const tensor = shape.chain((dims) => {
    const size = dims.reduce((product, dim) => product * dim, 1)
    return fc.float32Array({ minLength: size, maxLength: size }).map((data) => ({ shape: dims, data }))
  })
  const names = fc.string({ unit: 'grapheme', maxLength: 30 })
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.tuple(names, tensor), { selector: ([name]) => name, maxLength: 6 }),
      (list) => {
        const tensors: TensorMap = new Map(list)
        expect(bitsOf(readTorchBin(writeTorchBin(tensors)))).toEqual(bitsOf(tensors))
      },
    ),
    { numRuns: 60 },
  )
})

test('large dimensions and many tensors need the wider integers', () => {
  const tensors: TensorMap = new Map([
    ['big', { shape: [70_000, 1], data: new Float32Array(70_000).fill(3) }],
  ])
  for (let i = 0; i < 300; i++) tensors.set(`t${i}`, { shape: [300], data: new Float32Array(300).fill(i) })
  expect(bitsOf(readTorchBin(writeTorchBin(tensors)))).toEqual(bitsOf(tensors))
})

test.each([
  ['evil.bin', 'posix.system'],
  ['evil_protocol0.bin', 'posix.system'],
  ['evil_protocol2.bin', 'posix.system'],
  ['evil_protocol4.bin', 'posix.system'],
  ['module.bin', 'torch.nn.modules.container.Sequential'],
])('%s is refused by name and nothing is executed', (name, global) => {
  expect(() => readTorchBin(fixture(name))).toThrow(`names ${global}, which weights of an adapter never need`)
  expect(existsSync('/tmp/executed-by-adaptab-test')).toBe(false)
})

/** A torch zip around any pickle. */
const around = (pickle: Uint8Array) => writeZip(new Map([['a/data.pkl', pickle], ['a/data/0', new Uint8Array(8)]]), 0) // prettier-ignore

test.each<[string, Uint8Array, string]>([
  ['nothing', new Uint8Array(0), 'not a torch weights file'],
  ['text', utf8('hello'), 'not a torch weights file'],
  ['a zip of something else', writeZip(new Map([['a.txt', utf8('a')]]), 6), 'holds no data.pkl'],
  ['a list', around(Uint8Array.of(0x80, 2, 0x5d, 0x2e)), 'holds no dict of tensors'],
  [
    'a number for a tensor',
    around(Uint8Array.of(0x80, 2, 0x7d, 0x58, 1, 0, 0, 0, 97, 0x4b, 1, 0x73, 0x2e)),
    'something else than named tensors under "a"',
  ],
  ['a getattr', around(utf8('cbuiltins\ngetattr\n.')), 'names builtins.getattr'],
  ['an extension code', around(Uint8Array.of(0x80, 2, 0x82, 1, 0x2e)), 'opcode 0x82'],
  ['an instance opcode', around(utf8('(iposix\nsystem\n.')), 'names posix.system'],
  ['a storage that is called', around(utf8('ctorch\nFloatStorage\n)R.')), 'calls torch.FloatStorage'],
  ['a truncated file', fixture('zip.bin').subarray(0, 2000), 'zip is damaged'],
  ['a truncated older file', fixture('legacy.bin').subarray(0, 2200), 'truncated'],
])('%s gets one clear sentence', (_, bytes, message) => {
  expect(() => readTorchBin(bytes)).toThrow(message)
})

test('a view beyond its storage, and more values than it has, are refused', () => {
  const file = readZip(writeTorchBin(new Map([['w', { shape: [2, 3], data: new Float32Array(6) }]])))
  const pickle = file.get('archive/data.pkl')!
  const shape = pickle.findIndex(
    (byte, i) => byte === 0x4b && pickle[i + 1] === 2 && pickle[i + 3] === 3 && pickle[i + 4] === 0x86,
  )
  const withShape = (rows: number) => {
    const changed = pickle.slice()
    changed[shape + 1] = rows
    return writeZip(new Map([...file, ['archive/data.pkl', changed]]), 0)
  }
  expect(readTorchBin(withShape(2)).get('w')!.shape).toEqual([2, 3])
  expect(() => readTorchBin(withShape(3))).toThrow('the tensor w reaches outside its storage')
})

test('mutated files never hang and never fail but by a sentence of ours', { timeout: 60_000 }, () => {
  const files = ['zip.bin', 'legacy.bin', 'state_dict_legacy.bin', 'evil_protocol4.bin'].map(fixture)
  const pickles = [readZip(fixture('zip.bin')).get('zip/data.pkl')!, fixture('state_dict_legacy.bin')]
  const seeds = [...files, ...pickles]
  const edit = fc.tuple(
    fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    fc.nat(255),
    fc.boolean(),
  )
  fc.assert(
    fc.property(fc.nat(seeds.length - 1), fc.array(edit, { minLength: 1, maxLength: 6 }), (which, edits) => {
      let bytes = seeds[which]!.slice()
      for (const [place, value, cut] of edits) {
        const at = Math.floor(place * bytes.length)
        if (cut && value < 30) bytes = bytes.slice(0, at)
        else if (at < bytes.length) bytes[at] = value
      }
      const file = which < files.length ? bytes : around(bytes)
      try {
        readTorchBin(file)
      } catch (error) {
        expect(error).toBeInstanceOf(Error)
        expect((error as Error).constructor).toBe(Error)
        expect((error as Error).message).toMatch(/^[A-Z].*\.$/s)
      }
    }),
    { numRuns: 3000 },
  )
})
