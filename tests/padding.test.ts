/**
 * How much of what an epoch computes is text, on real texts: short ones, long ones, and Rotten Tomatoes where its files
 * and roberta-base's tokenizer lie beside the repository.
 */
import { existsSync, readFileSync } from 'node:fs'
import { beforeAll, describe, expect, it } from 'vitest'
import { buildDataset, guessMapping, type Example } from '../src/data/dataset.ts'
import { encode, paddingEfficiency, trainBatches, type Batch, type Encoded } from '../src/data/batches.ts'
import { parseSources } from '../src/data/parse.ts'
import { inParts } from '../src/data/parts.ts'
import { loadTokenizer, type Tokenizer } from '../src/data/tokenizer.ts'
import { openSources } from '../src/headless/node.ts'
import { TorchGenerator } from '../src/random.ts'
import { trainingDefaults } from '../src/trainingArguments.ts'

const wanted = 0.93
const { max_tokens_per_batch: most } = trainingDefaults

/** Two epochs that a run computes with each batch size, as shares of text. */
function efficiencies(encoded: Encoded, batch_sizes = [8, 16, 32, 64]): number[] {
  return batch_sizes.flatMap((batch_size) =>
    [0, 1].map((epoch) => paddingEfficiency(computed(encoded, batch_size, epoch))),
  )
}

function computed(encoded: Encoded, batch_size: number, epoch: number): Batch[] {
  const args = { batch_size, seed: 42, epoch, group_by_length: true, pad_token_id: 1 }
  return trainBatches(encoded, args).flatMap((batch) => inParts(batch, most, false))
}

const example = (text: string): Example => ({ text, text_pair: null, label: 0, table: 0, line: 1 })

describe('the sample sentences', () => {
  let tokenizer: Tokenizer
  let rows: Example[]

  beforeAll(async () => {
    tokenizer = loadTokenizer(readFileSync('public/models/mini-roberta/tokenizer.json', 'utf8'), null)
    const tables = await parseSources(await openSources(['sample']))
    const split = {
      validation: 0.1,
      test: 0.2,
      fraction: 1,
      sampling: 'stratified' as const,
      seed: 42,
    }
    rows = buildDataset(
      tables,
      tables.map(() => 'all'),
      guessMapping(tables)!,
      split,
    ).train
  })

  // 2,100 rows of 19 tokens on average: larger batches reach from the shortest to the longest in too few strides.
  it('are computed with little padding at the batch size of the page and below', () => {
    for (const share of efficiencies(encode(rows, tokenizer, 128), [8, 16]))
      expect(share).toBeGreaterThan(wanted)
  })

  it.each([256, 512])('joined to long reviews, cut at %i tokens, are too', (max_length) => {
    const generator = new TorchGenerator(7)
    const normal = () => generator.uniform(12).reduce((a, b) => a + b, 0) - 6
    const reviews = Array.from({ length: 2000 }, () => {
      // As of film reviews: a median of 170 words, one in twenty above 500.
      const words = Math.exp(Math.log(170) + 0.65 * normal())
      const texts: string[] = []
      for (let n = 0; n < words; n += texts.at(-1)!.split(' ').length)
        texts.push(rows[generator.next32() % rows.length]!.text)
      return example(texts.join(' '))
    })
    const encoded = encode(reviews, tokenizer, max_length)
    for (const share of efficiencies(encoded)) expect(share).toBeGreaterThan(wanted)
    const largest = Math.max(...computed(encoded, 32, 0).map(({ B, S }) => B * S))
    expect(largest).toBeLessThanOrEqual(most)
    expect(computed(encoded, 32, 0).reduce((sum, { B }) => sum + B, 0)).toBe(2000)
  })
})

const polarity = ['neg', 'pos'].map((name) => `../shared/data/rotten_tomatoes/rt-polarity.${name}`)
const robertaFile = '../shared/data/roberta-base/tokenizer.json'
const absent = ![...polarity, robertaFile].every((file) => existsSync(file))

it.skipIf(absent)(
  'Rotten Tomatoes is computed with little padding (skipped where ../shared is absent)',
  () => {
    const tokenizer = loadTokenizer(readFileSync(robertaFile, 'utf8'), null)
    const rows = polarity.flatMap((file) =>
      readFileSync(file, 'latin1').trimEnd().split('\n').slice(0, 4265).map(example),
    )
    expect(rows).toHaveLength(8530)
    for (const share of efficiencies(encode(rows, tokenizer, 128))) expect(share).toBeGreaterThan(wanted)
  },
)
