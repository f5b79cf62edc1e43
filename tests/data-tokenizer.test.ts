/**
 * Ids equal those of Python's `tokenizers` on RoBERTa's own tokenizer file (fixture by
 * tests/parity/make_tokenizer.py), and those of transformers.js on a small one.
 */
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { AutoTokenizer, env } from '@huggingface/transformers'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadTokenizer, type Tokenizer } from '../src/data/tokenizer.ts'

interface Fixture {
  tokenizer_sha256: string
  plain: [string, number[]][]
  pairs: [string, string, number[]][]
  truncated: [string, string | null, number, number[]][]
}

const robertaFile = '../shared/data/roberta-base/tokenizer.json'
const tinyFile = 'tests/fixtures/tiny-roberta/tokenizer.json'
const NO_LIMIT = 1_000_000

describe.skipIf(!existsSync(robertaFile))('roberta-base (skipped where ../shared is absent)', () => {
  const fixture: Fixture = JSON.parse(readFileSync('tests/fixtures/tokenizer-roberta.json', 'utf8'))
  let tokenizer: Tokenizer
  beforeAll(() => {
    const json = readFileSync(robertaFile, 'utf8')
    expect(createHash('sha256').update(json).digest('hex')).toBe(fixture.tokenizer_sha256)
    tokenizer = loadTokenizer(json, null)
  })

  it('has the size and the padding of RoBERTa', () => {
    expect([tokenizer.vocab_size, tokenizer.pad_token_id]).toEqual([50_265, 1])
  })

  it('gives the ids of Python for every awkward text', () => {
    expect(fixture.plain.length).toBeGreaterThan(400)
    for (const [text, ids] of fixture.plain) {
      expect(tokenizer.encode(text, null, NO_LIMIT), JSON.stringify(text)).toEqual(ids)
      expect(tokenizer.lengthOf(text, null)).toBe(ids.length)
    }
  })

  it('gives the ids of Python for pairs, an empty second text among them', () => {
    for (const [text, pair, ids] of fixture.pairs) {
      expect(tokenizer.encode(text, pair, NO_LIMIT), JSON.stringify([text, pair])).toEqual(ids)
      expect(tokenizer.lengthOf(text, pair)).toBe(ids.length)
    }
  })

  it('truncates as Python does, pairs longest first', () => {
    expect(fixture.truncated.length).toBeGreaterThan(200)
    for (const [text, pair, max_length, ids] of fixture.truncated) {
      expect(tokenizer.encode(text, pair, max_length), JSON.stringify([text, pair, max_length])).toEqual(ids)
    }
  })

  it('remembers nothing that changes an answer', () => {
    const again = loadTokenizer(readFileSync(robertaFile, 'utf8'), null)
    for (const [text] of fixture.plain.slice().reverse()) {
      expect(again.encode(text, null, 64)).toEqual(tokenizer.encode(text, null, 64))
    }
  })

  it('takes 10,000 sentences in seconds', () => {
    const sentences = Array.from(
      { length: 10_000 },
      (_, i) => `The film number ${i} is a ${i * 7919} minute long, rather good one !`,
    )
    const start = performance.now()
    const tokens = sentences.reduce((sum, text) => sum + tokenizer.encode(text, null, 128).length, 0)
    expect(tokens).toBeGreaterThan(150_000)
    expect(performance.now() - start).toBeLessThan(10_000)
  })
})

describe('the fixture model', () => {
  const json = readFileSync(tinyFile, 'utf8')
  const tokenizer = loadTokenizer(json, null)
  const folder = mkdtempSync(join(tmpdir(), 'tokenizer-'))
  afterAll(() => rmSync(folder, { recursive: true }))

  it('agrees with AutoTokenizer of transformers.js', async () => {
    cpSync(tinyFile, join(folder, 'tokenizer.json'))
    writeFileSync(join(folder, 'tokenizer_config.json'), '{"tokenizer_class":"RobertaTokenizer"}')
    env.allowRemoteModels = false
    env.localModelPath = dirname(folder)
    const auto = await AutoTokenizer.from_pretrained(basename(folder))
    const text = fc.string({
      unit: fc.constantFrom(..."the movie was good bad ,.!?'’\n\t 12é👍你<>/s", '<s>', '</s>', '<mask>', ' '),
    })
    fc.assert(
      fc.property(text, fc.option(text.filter((pair) => pair !== '')), (first, pair) => {
        const expected = pair === null ? auto.encode(first) : auto.encode(first, { text_pair: pair })
        expect(tokenizer.encode(first, pair, NO_LIMIT)).toEqual(expected)
      }),
      { numRuns: 300 },
    )
  })

  it('never exceeds max_length and keeps the special tokens', () => {
    const [bos, eos] = tokenizer.encode('', null, 8)
    fc.assert(
      fc.property(
        fc.string(),
        fc.option(fc.string()),
        fc.integer({ min: 4, max: 30 }),
        (first, pair, max_length) => {
          const ids = tokenizer.encode(first, pair, max_length)
          expect(ids.length).toBe(Math.min(max_length, tokenizer.lengthOf(first, pair)))
          expect([ids[0], ids.at(-1)]).toEqual([bos, eos])
          expect(ids.every((id) => id >= 0 && id < tokenizer.vocab_size)).toBe(true)
        },
      ),
    )
  })

  it('refuses what is no tokenizer, and lengths without room', () => {
    expect(() => loadTokenizer('{', null)).toThrow(/^tokenizer\.json is not JSON/)
    expect(() => loadTokenizer('[]', null)).toThrow('tokenizer.json does not hold a JSON object')
    expect(() => loadTokenizer('{}', null)).toThrow(/^tokenizer\.json is not a tokenizer/)
    expect(() => loadTokenizer(json, 'x')).toThrow(/^tokenizer_config\.json is not JSON/)
    expect(() => loadTokenizer(json, '{"pad_token":"<nothing>"}')).toThrow('no padding token "<nothing>"')
    expect(() => tokenizer.encode('a', 'b', 3)).toThrow(
      'max_length 3 leaves no room for the 4 special tokens',
    )
    expect(loadTokenizer(json, '{"pad_token":{"content":"<pad>"}}').pad_token_id).toBe(tokenizer.pad_token_id)
  })
})
