import { openAsBlob } from 'node:fs'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { TensorMap } from '../src/config.ts'
import { bfloat16ToFloat32, float16ToFloat32 } from '../src/io/float16.ts'
import { openSafetensors, readSafetensors, writeSafetensors } from '../src/io/safetensors.ts'
import { bitsOf, utf8 } from './io.bundles.ts'

/** A file of any header text and so many zero bytes. */
function fileOf(header: string, dataBytes: number): Blob {
  const bytes = utf8(header)
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(bytes.length), true)
  return new Blob([length, bytes, new Uint8Array(dataBytes)])
}

const entry = (dtype: string, shape: number[], begin: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})

test('random tensors come back bit for bit, in order', async () => {
  const tensor = fc.array(fc.nat(5), { maxLength: 4 }).chain((shape) => {
    const size = shape.reduce((product, dim) => product * dim, 1)
    return fc.float32Array({ minLength: size, maxLength: size }).map((data) => ({ shape, data }))
  })
  const names = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 20 })
    .filter((name) => name !== '__metadata__')
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.tuple(names, tensor), { selector: ([name]) => name, maxLength: 8 }),
      async (list) => {
        const tensors: TensorMap = new Map(list)
        const bytes = writeSafetensors(tensors, { format: 'pt' })
        const back = await readSafetensors(bytes)
        expect(bitsOf(back)).toEqual(bitsOf(tensors))
        expect(new DataView(bytes.buffer).getUint32(0, true) % 8).toBe(0)
        const full = [...tensors].filter(([, { data }]) => data.length > 0).map(([name]) => name)
        expect([...back].filter(([, { data }]) => data.length > 0).map(([name]) => name)).toEqual(full)
      },
    ),
    { numRuns: 60 },
  )
})

test('a view of a larger buffer is written as what it shows', async () => {
  const all = Float32Array.of(1, 2, 3, 4, 5)
  const back = await readSafetensors(
    writeSafetensors(new Map([['a', { shape: [2], data: all.subarray(1, 3) }]])),
  )
  expect([...back.get('a')!.data]).toEqual([2, 3])
})

test('float16 is exact for all 65,536 patterns', () => {
  const values = float16ToFloat32(Uint16Array.from({ length: 65536 }, (_, i) => i))
  for (let half = 0; half < 65536; half++) {
    const exponent = (half >> 10) & 31
    const mantissa = half & 1023
    const size = exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15)
    const expected = exponent === 31 ? (mantissa ? NaN : Infinity) : size
    if (!Object.is(values[half], half & 0x8000 ? -expected : expected))
      expect.fail(`${half}: ${values[half]}, not ${expected}`)
  }
})

test('bfloat16 is the upper half of float32', () => {
  const values = Float32Array.of(1, -2.5, 1e-40, Infinity, -0, 3e38)
  const upper = new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1)
  const expected = new Uint32Array(values.buffer).map((bits) => bits & 0xffff0000)
  expect(new Uint32Array(bfloat16ToFloat32(upper).buffer)).toEqual(expected)
})

test('half-precision tensors are read whole and in chunks alike', async () => {
  const count = 1001
  const header = JSON.stringify({
    b: entry('BF16', [count], 2 * count, 4 * count),
    a: entry('F16', [7, 143], 0, 2 * count),
  })
  const data = Uint16Array.from({ length: 2 * count }, (_, i) => (i * 31) & 0x7bff)
  const head = fileOf(header, 0)
  const file = await openSafetensors(new Blob([head, data]))
  expect(file.names()).toEqual(['a', 'b'])
  expect([file.shape('a'), file.dtype('a'), file.dtype('b'), file.bytes]).toEqual([
    [7, 143],
    'F16',
    'BF16',
    head.size + 4 * count,
  ])
  expect(await file.read('a')).toEqual(float16ToFloat32(data.subarray(0, count)))
  expect(await file.read('b')).toEqual(bfloat16ToFloat32(data.subarray(count)))
  for (const size of [1, 64, 1000, 1001, 5000]) {
    const chunks: number[] = []
    for await (const chunk of file.readChunks('b', size)) {
      expect(chunk.length).toBeLessThanOrEqual(size)
      chunks.push(...chunk)
    }
    expect(chunks).toEqual([...(await file.read('b'))])
  }
})

test('shards are one file, and a tensor in two of them is refused', async () => {
  const one = writeSafetensors(new Map([['a', { shape: [1], data: Float32Array.of(1) }]]))
  const two = writeSafetensors(new Map([['b', { shape: [2], data: Float32Array.of(2, 3) }]]))
  const file = await openSafetensors([new Blob([one]), new Blob([two])])
  expect(file.names()).toEqual(['a', 'b'])
  expect([...(await file.read('b'))]).toEqual([2, 3])
  await expect(openSafetensors([new Blob([one]), new Blob([one])])).rejects.toThrow(
    'The tensor a is in two shards',
  )
})

const a = entry('F32', [2], 0, 8)
test.each<[string, Blob, string]>([
  ['an empty file', new Blob([]), 'is not a safetensors file: it has 0 bytes'],
  [
    'a text file',
    new Blob(['Hello, I am no such thing at all']),
    'is not a safetensors file: no JSON header',
  ],
  ['a zip', new Blob(['PK\u0003\u0004aaaaaaaaaaaaaaaaa']), 'is not a safetensors file'],
  ['a header beyond the file', fileOf(JSON.stringify({ a }), 8).slice(0, 20), 'truncated: its header needs'],
  [
    'a giant header',
    new Blob([Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 0), '{}']),
    'claims a header of',
  ],
  ['broken JSON', fileOf('{"a": {', 8), 'not valid JSON'],
  [
    'bad UTF-8',
    new Blob([Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0), '{', Uint8Array.of(0xff, 0xff)]),
    'not UTF-8',
  ],
  [
    'a duplicate name',
    fileOf(`{"a": ${JSON.stringify(a)}, "\\u0061": ${JSON.stringify(a)}}`, 8),
    'names a twice',
  ],
  [
    'a duplicate field',
    fileOf('{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', 8),
    'names dtype twice',
  ],
  ['overlap', fileOf(JSON.stringify({ a, b: entry('F32', [2], 4, 12) }), 12), 'tensors a and b overlap'],
  ['the same bytes twice', fileOf(JSON.stringify({ a, b: a }), 8), 'tensors a and b overlap'],
  ['a gap', fileOf(JSON.stringify({ a, b: entry('F32', [1], 12, 16) }), 16), '4 bytes between a and b'],
  [
    'a gap at the start',
    fileOf(JSON.stringify({ a: entry('F32', [1], 4, 8) }), 8),
    '4 bytes between the header and a',
  ],
  ['truncated data', fileOf(JSON.stringify({ a }), 5), 'truncated: 3 of its'],
  ['extra data', fileOf(JSON.stringify({ a }), 10), '2 bytes longer than its header says'],
  [
    'a wrong size',
    fileOf(JSON.stringify({ a: entry('F32', [3], 0, 8) }), 8),
    'is F32 [3], which is 12 bytes, but its data_offsets hold 8',
  ],
  ['an unknown dtype', fileOf(JSON.stringify({ a: entry('F12', [2], 0, 8) }), 8), 'unknown dtype "F12"'],
  ['a negative shape', fileOf(JSON.stringify({ a: entry('F32', [-2], 0, 8) }), 8), 'impossible shape [-2]'],
  [
    'offsets backwards',
    fileOf(JSON.stringify({ a: entry('F32', [2], 8, 0) }), 8),
    'impossible data_offsets [8,0]',
  ],
  ['a list for a header', fileOf('{"a": [1]}', 0), 'is not described by an object'],
  ['metadata of numbers', fileOf('{"__metadata__": {"a": 1}}', 0), '__metadata__'],
])('%s gets one clear sentence', async (_, blob, message) => {
  await expect(openSafetensors(blob)).rejects.toThrow(message)
})

test('integer tensors are listed but not read as weights', async () => {
  const file = await openSafetensors(
    fileOf(JSON.stringify({ position_ids: entry('I64', [1, 2], 0, 16) }), 16),
  )
  expect(file.dtype('position_ids')).toBe('I64')
  await expect(file.read('position_ids')).rejects.toThrow('position_ids is I64')
  await expect(file.read('absent')).rejects.toThrow('has no tensor absent')
})

test('a damaged file never does worse than throw a sentence', async () => {
  const bytes = writeSafetensors(new Map([['a.b', { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }]]), {
    format: 'pt',
  })
  const edits = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
  await fc.assert(
    fc.asyncProperty(edits, fc.nat(bytes.length), async (changes, length) => {
      const damaged = bytes.slice(0, length || bytes.length)
      for (const [at, value] of changes) if (at < damaged.length) damaged[at] = value
      await readSafetensors(damaged).then(
        (tensors) =>
          [...tensors.values()].forEach(({ shape, data }) =>
            expect(data.length).toBe(shape.reduce((p, d) => p * d, 1)),
          ),
        (error: Error) => expect(error.message).toMatch(/^[A-Z].*\.$/s),
      )
    }),
    { numRuns: 300 },
  )
})

test(
  'a 340 MB file is read with less memory than its largest tensor and 100 MB',
  { timeout: 60_000 },
  async () => {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    const folder = await mkdtemp(join(tmpdir(), 'adaptab-'))
    try {
      const table = 50265 * 768
      const layers = Array.from({ length: 12 }, (_, i): [string, object] => {
        const begin = 2 * table + i * 22_000_000
        return [`layer.${i}`, entry('F32', [5_500_000], begin, begin + 22_000_000)]
      })
      const header = fileOf(
        JSON.stringify({ words: entry('F16', [50265, 768], 0, 2 * table), ...Object.fromEntries(layers) }),
        0,
      )
      const handle = await open(join(folder, 'model.safetensors'), 'w')
      await handle.write(new Uint8Array(await header.arrayBuffer()))
      await handle.truncate(header.size + 2 * table + 12 * 22_000_000)
      await handle.close()
      gc()
      const used = () => process.memoryUsage().heapUsed + process.memoryUsage().external
      const before = used()
      let peak = 0
      const measure = () => (peak = Math.max(peak, used() - before))
      const timer = setInterval(measure, 10)
      const file = await openSafetensors(await openAsBlob(join(folder, 'model.safetensors')))
      for (const name of file.names()) {
        if (name !== 'words') await file.read(name)
        else for await (const chunk of file.readChunks(name, 4 << 20)) expect(chunk.length).toBeGreaterThan(0)
        measure()
      }
      const streamed = peak
      await file.read('words')
      measure()
      clearInterval(timer)
      expect(file.bytes).toBeGreaterThan(340e6)
      // Streaming never holds the table; reading it whole holds it once.
      expect(streamed).toBeLessThan(100e6 + 22e6)
      expect(peak).toBeLessThan(4 * table + 100e6)
    } finally {
      await rm(folder, { recursive: true })
    }
  },
)
