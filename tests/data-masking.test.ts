/** Masks, blocks and metrics against Python's (tests/parity/heads.py); prompts; targets that are no classes. */
import { describe, expect, test } from 'vitest'
import { encode, evalBatches, trainBatches, type Batch } from '../src/data/batches.ts'
import { buildDataset, summarise, type Example, type Mapping } from '../src/data/dataset.ts'
import {
  epochSeed,
  maskBatch,
  maskedEvalBatches,
  maskedTrainBatches,
  maskingDefaults,
  maskingProblems,
} from '../src/data/masking.ts'
import { encodeBlocks, pack } from '../src/data/packing.ts'
import { encodePrompt, labelWordIds, promptProblems } from '../src/data/prompt.ts'
import { togetherSteps } from '../src/data/tasks.ts'
import { loadTokenizer } from '../src/data/tokenizer.ts'
import { TorchGenerator } from '../src/random.ts'
import { metricsOfHiddenWords, metricsOfLabels, metricsOfNumbers } from '../src/train/metricsOfTargets.ts'
import { said, table, whole } from './data.tables.ts'
import { readFixture, readText } from './fixtures.ts'

const tokenizer = loadTokenizer(await readText('tests/fixtures/tiny-roberta/tokenizer.json'), null)

const example = (text: string, label = 0, text_pair: string | null = null): Example => ({
  text,
  text_pair,
  label,
  table: 0,
  line: 1,
})

/** Arrays of equal rows as one batch. */
function batchOf(input_ids: number[][], attention_mask: number[][]): Batch {
  const [B, S] = [input_ids.length, input_ids[0]!.length]
  const flat = (rows: number[][]) => Int32Array.from(rows.flat())
  const indices = Int32Array.from(input_ids.keys())
  const tokens = flat(attention_mask).reduce((a, b) => a + b, 0)
  const labels = new Int32Array(B)
  return {
    B,
    S,
    input_ids: flat(input_ids),
    attention_mask: flat(attention_mask),
    labels,
    targets: null,
    indices,
    tokens,
  }
}

describe('masking', () => {
  interface Fixture {
    special_ids: number[]
    size: number
    cases: {
      seed: number
      mlm_probability: number
      mask_replace_prob: number
      random_replace_prob: number
      batches: Record<'input_ids' | 'attention_mask' | 'masked' | 'labels', number[][]>[]
    }[]
  }

  test('is transformers’ own, draw for draw, batch after batch', async () => {
    const { special_ids, size, cases } = await readFixture<Fixture>('heads/masking')
    expect([...tokenizer.special_ids].sort((a, b) => a - b)).toEqual(special_ids)
    expect(tokenizer.vocab_size).toBe(size)
    let hidden = 0
    for (const { seed, batches, ...masking } of cases) {
      const generator = new TorchGenerator(seed)
      for (const { input_ids, attention_mask, masked, labels } of batches) {
        const made = maskBatch(batchOf(input_ids, attention_mask), generator, tokenizer, masking)
        if (made.targets?.kind !== 'masked_lm') throw new Error('not masked')
        const want = labels.flat().flatMap((id, i) => (id === -100 ? [] : [[i, id]]))
        if (want.length === 0) continue
        const { positions, ids } = made.targets
        expect([...positions].map((at, i) => [at, ids[i]])).toEqual(want)
        expect([...made.input_ids]).toEqual(masked.flat())
        hidden += want.length
      }
    }
    expect(hidden).toBeGreaterThan(100)
  })

  test('hides the shares it says, never a special token, and at least one word', () => {
    const ids = Array.from({ length: 200 }, (_, i) => [0, ...Array<number>(98).fill(5 + (i % 300)), 2])
    const batch = batchOf(
      ids,
      ids.map((row) => row.map(() => 1)),
    )
    const made = maskBatch(batch, new TorchGenerator(1), tokenizer, maskingDefaults)
    if (made.targets?.kind !== 'masked_lm') throw new Error('not masked')
    const { positions } = made.targets
    const now = [...positions].map((at) => [made.input_ids[at]!, batch.input_ids[at]!] as const)
    const share = (some: (now: number, old: number) => boolean) =>
      now.filter(([a, b]) => some(a, b)).length / now.length
    expect(positions.length / (200 * 98)).toBeCloseTo(0.15, 1)
    expect(share((a) => a === tokenizer.mask_token_id)).toBeCloseTo(0.8, 1)
    expect(share((a, b) => a === b)).toBeCloseTo(0.1, 1)
    expect([...positions].every((at) => !tokenizer.special_ids.has(batch.input_ids[at]!))).toBe(true)
    expect(batch.targets).toBeNull()

    const one = batchOf([[0, 9, 2, 1]], [[1, 1, 1, 0]])
    const rare = { ...maskingDefaults, mlm_probability: 1e-9 }
    expect(maskBatch(one, new TorchGenerator(1), tokenizer, rare).targets).toMatchObject({
      positions: Int32Array.of(1),
      ids: Int32Array.of(9),
    })
    expect(() => maskBatch(batchOf([[0, 2]], [[1, 1]]), new TorchGenerator(1), tokenizer, rare)).toThrow(
      'only special',
    )
  })

  test('differs from epoch to epoch and not from evaluation to evaluation', () => {
    const encoded = encodeBlocks(
      Array.from({ length: 40 }, (_, i) => example(`The film number ${i} was great.`)),
      tokenizer,
      { block_size: 16, texts_at_once: null },
    )
    const args = { batch_size: 4, seed: 3, epoch: 0, group_by_length: false, pad_token_id: 1 }
    const epoch = (epoch: number) => maskedTrainBatches(encoded, { ...args, epoch }, tokenizer)
    expect(epoch(0)).toEqual(epoch(0))
    expect(epoch(0).map(({ indices }) => indices)).toEqual(
      trainBatches(encoded, args).map(({ indices }) => indices),
    )
    expect(epoch(0)).not.toEqual(epoch(1))
    expect(epochSeed(3, 0)).not.toBe(epochSeed(3, 1))
    const fixed = () => maskedEvalBatches(encoded, 4, 1, 3, tokenizer)
    expect(fixed()).toEqual(fixed())
    expect(fixed().map(({ indices }) => indices)).toEqual(
      evalBatches(encoded, 4, 1).map(({ indices }) => indices),
    )
  })

  test('says what cannot be', () => {
    expect(maskingProblems(maskingDefaults, tokenizer)).toEqual([])
    const wrong = { mlm_probability: 0, mask_replace_prob: 0.9, random_replace_prob: 0.3 }
    expect(maskingProblems(wrong, { ...tokenizer, mask_token_id: null })).toHaveLength(3)
  })
})

describe('packing', () => {
  test('cuts as run_mlm does, whatever is joined at a time', async () => {
    interface Fixture {
      texts: number[][]
      cases: { block_size: number; texts_at_once: number; blocks: number[][]; dropped: number }[]
    }
    const { texts, cases } = await readFixture<Fixture>('heads/packing')
    const rows = texts.map((row) => Int32Array.from(row))
    for (const { blocks, dropped, ...args } of cases) {
      const made = pack(rows, args)
      expect([made.blocks.map((block) => [...block]), made.dropped]).toEqual([blocks, dropped])
    }
    const all = pack(rows, { block_size: 4, texts_at_once: null })
    expect(all).toEqual(pack(rows, { block_size: 4, texts_at_once: texts.length }))
  })

  test('keeps special tokens, and refuses what fills no block', () => {
    const rows = [example('Hi'), example('Great service')]
    const { input_ids, dropped } = encodeBlocks(rows, tokenizer, { block_size: 4, texts_at_once: null })
    const joined = rows.flatMap(({ text }) => tokenizer.encode(text, null, 99))
    expect(input_ids.flatMap((block) => [...block])).toEqual(joined.slice(0, joined.length - dropped))
    expect(() => encodeBlocks(rows, tokenizer, { block_size: 500, texts_at_once: null })).toThrow(
      'fill no block of 500',
    )
    expect(() => pack([], { block_size: 0, texts_at_once: null })).toThrow('block size is 0')
  })
})

describe('prompts', () => {
  const task = { template: '{text} It was<mask>.', label_words: ['not', 'great'] }
  const rows = [example('The film was great!', 1), example('Bad <mask> plot', 0)]

  test('a filled template is what the tokenizer makes of the whole, with one mask', () => {
    const encoded = encodePrompt(rows, tokenizer, 64, task, 2)
    const whole = tokenizer.encode('The film was great! It was<mask>.', null, 64)
    expect([...encoded.input_ids[0]!]).toEqual(whole)
    expect(encoded.targets).toEqual({
      kind: 'label_words',
      positions: Int32Array.from(encoded.input_ids, (ids) => ids.indexOf(tokenizer.mask_token_id!)),
      words: labelWordIds(task, tokenizer),
    })
    for (const ids of encoded.input_ids)
      expect([...ids].filter((id) => id === tokenizer.mask_token_id)).toHaveLength(1)
    const [batch] = evalBatches(encoded, 2, 1)
    if (batch!.targets?.kind !== 'label_words') throw new Error('no label words')
    for (const at of batch!.targets.positions) expect(batch!.input_ids[at]).toBe(tokenizer.mask_token_id)
  })

  test('a long text is cut, never its template', () => {
    const long = example(
      'The acting was even better than I had hoped for. '.repeat(9),
      0,
      'Not bad. '.repeat(30),
    )
    const pair = { ...task, template: 'One: {text} Two: {text_pair} Same?<mask>' }
    for (const [template, length] of [
      [task, 24],
      [pair, 40],
    ] as const) {
      const [ids] = encodePrompt([long], tokenizer, length, template, 2).input_ids
      expect(ids).toHaveLength(length)
      expect([ids![0], ids!.at(-1)]).toEqual([0, 2])
      expect([...ids!].filter((id) => id === tokenizer.mask_token_id)).toHaveLength(1)
    }
    const [cut] = encodePrompt([long], tokenizer, 24, task, 2).input_ids
    const whole = tokenizer.encode(`${long.text} It was<mask>.`, null, 999)
    const tail = tokenizer.pieces(' It was<mask>.')
    expect([...cut!]).toEqual([...whole.slice(0, 23 - tail.length), ...tail, 2])
    expect(() => encodePrompt([long], tokenizer, 6, task, 2)).toThrow('template alone')
  })

  test('what cannot work is refused in a sentence', () => {
    const problems = (change: Partial<typeof task>, classes = 2) =>
      promptProblems({ ...task, ...change }, classes, tokenizer).join(' ')
    expect(problems({})).toBe('')
    expect(problems({ label_words: ['great'] })).toBe('')
    expect(problems({ template: 'It was<mask>.' })).toContain('{text} once')
    expect(problems({ template: '{text}' })).toContain('<mask> once')
    expect(problems({ label_words: ['not', 'unbelievably'] })).toContain('“unbelievably” is')
    expect(problems({ label_words: ['not', ' not'] })).toContain('two classes')
    expect(problems({}, 3)).toContain('3 classes but 2 label words')
    expect(() => encodePrompt(rows, tokenizer, 64, task, 3)).toThrow('3 classes')
  })
})

describe('targets that are no classes', () => {
  const build = (columns: string[], rows: string[][], mapping: Partial<Mapping>) => {
    const full: Mapping = { text: 'text', text_pair: null, label: 'label', threshold: null, ...mapping }
    const tables = [table(columns, rows)]
    const dataset = buildDataset(tables, ['all'], full, { ...whole, validation: 0.25 })
    const summary = summarise(tables, ['all'], full, dataset, Int32Array.of(3, 4), 10)
    return {
      dataset,
      summary,
      all: [...dataset.train, ...dataset.validation].sort((a, b) => a.line - b.line),
    }
  }

  test('several labels, by column and by name', () => {
    const rows = [
      ['a', '1', 'no'],
      ['b', '0', 'Yes'],
      ['c', '', ''],
      ['', '1', '1'],
      ['d', 'true', '1'],
    ]
    const { dataset, all, summary } = build(['text', 'joy', 'anger'], rows, {
      task: 'multilabel',
      label_columns: ['joy', 'anger'],
    })
    expect([dataset.task, dataset.id2label]).toEqual(['multilabel', ['joy', 'anger']])
    expect(all.map(({ target }) => target)).toEqual([
      [1, 0],
      [0, 1],
      [0, 0],
      [1, 1],
    ])
    expect(summary.splits.reduce((sum, { per_class }) => sum + per_class[0]!, 0)).toBe(2)
    expect(said(summary)).not.toContain('one class')
    const encoded = encode(all, tokenizer, 16)
    expect(encoded.targets).toMatchObject({ kind: 'multilabel', num_labels: 2 })
    const [batch] = evalBatches(encoded, 3, 1)
    const { indices, targets } = batch!
    const expected = [...indices].flatMap((i) => all[i]!.target as number[])
    expect(targets).toEqual({ kind: 'multilabel', labels: Float32Array.from(expected), num_labels: 2 })

    const named = build(
      ['text', 'label'],
      [
        ['a', 'x; y'],
        ['b', ''],
        ['c', 'y'],
        ['d', 'x'],
      ],
      { task: 'multilabel', separator: ';' },
    )
    expect(named.dataset.id2label).toEqual(['x', 'y'])
    expect(named.all.map(({ target }) => target)).toEqual([
      [1, 1],
      [0, 0],
      [0, 1],
      [1, 0],
    ])
  })

  test('numbers, and texts alone', () => {
    const rows = [
      ['a', '1.5'],
      ['b', '-2'],
      ['c', ''],
      ['d', '3e0'],
      ['e', '0'],
    ]
    const { all, dataset } = build(['text', 'label'], rows, { task: 'regression' })
    expect([dataset.id2label, all.map(({ target }) => target)]).toEqual([['label'], [1.5, -2, 3, 0]])
    expect(encode(all, tokenizer, 9).targets).toEqual({
      kind: 'regression',
      labels: Float32Array.of(1.5, -2, 3, 0),
    })
    expect(evalBatches(encode(all, tokenizer, 9), 9, 1)[0]!.targets?.kind).toBe('regression')
    const texts = build(['text'], [['a'], ['b'], [' '], ['c'], ['d']], { task: 'masked_lm', label: '' })
    expect(texts.all.map(({ text }) => text)).toEqual(['a', 'b', 'c', 'd'])
    expect([texts.dataset.id2label, texts.summary.problems.map(({ level }) => level)]).toEqual([
      [],
      expect.anything(),
    ])
    expect(encode(texts.all, tokenizer, 9).targets).toBeNull()
  })

  test('what cannot be read is refused in a sentence', () => {
    const columns = ['text', 'label']
    const several: Partial<Mapping> = { task: 'multilabel', label_columns: ['label'] }
    expect(() => build(columns, [['a', 'maybe']], several)).toThrow(
      'line 2: "maybe" in the label column "label"',
    )
    expect(() => build(columns, [['a', '1']], several)).toThrow('nothing to learn')
    expect(() => build(columns, [['a', ' ']], { task: 'multilabel' })).toThrow('no row has a label')
    expect(() => build(columns, [['a', 'x']], { task: 'multilabel', separator: '' })).toThrow('separator')
    expect(() => build(columns, [['a', 'x']], { task: 'regression' })).toThrow(
      '"x" in "label" is not a number',
    )
    expect(() => build(columns, [['a', '1']], { task: 'regression' })).toThrow('every row has the number 1')
    expect(() => build(columns, [['', '1']], { task: 'masked_lm' })).toThrow('no row has a text')
  })
})

test('batches of two tasks, together and in turn', () => {
  const batches = (count: number, first: number) =>
    Array.from({ length: count }, (_, i) => batchOf([[first + i]], [[1]]))
  const tasks = [
    { head: 'a', batches: batches(4, 10) },
    { head: 'b', batches: batches(2, 20) },
  ]
  const said = ({ head, input_ids }: Batch) => `${head}${input_ids[0]}`
  expect(togetherSteps(tasks).map((step) => step.map(said).join(' '))).toEqual([
    'a10 b20',
    'a11 b21',
    'a12 b20',
    'a13 b21',
  ])
  expect(() => togetherSteps([tasks[0]!, { head: 'b', batches: [] }])).toThrow('“b” has no rows')
  expect(() => togetherSteps([tasks[0]!, tasks[0]!])).toThrow('one head')
})

describe('metrics', () => {
  interface Several extends Record<string, unknown> {
    name: string
    num_labels: number
    labels: number[]
    logits: number[]
    precision: number[]
    recall: number[]
    f1: number[]
    support: number[]
  }

  test('of several labels and of numbers are scikit-learn’s and scipy’s', async () => {
    const { several, numbers } = await readFixture<{ several: Several[]; numbers: Record<string, never>[] }>(
      'heads/metrics',
    )
    for (const one of several) {
      const made = metricsOfLabels(one.labels, one.logits, one.num_labels)
      for (const key of ['f1_micro', 'f1_macro', 'accuracy'] as const)
        expect(made[key]).toBeCloseTo(one[key] as number, 12)
      made.per_label.forEach((label, c) => {
        for (const key of ['precision', 'recall', 'f1', 'support'] as const)
          expect(label[key], `${one.name} ${key}`).toBeCloseTo(one[key][c]!, 12)
      })
    }
    for (const one of numbers) {
      const made = metricsOfNumbers(one.labels!, one.predictions!)
      for (const key of ['mse', 'mae', 'pearson', 'spearman'] as const)
        expect(made[key]).toBeCloseTo(one[key]!, 10)
    }
  })

  test('of one value have no correlation, and of hidden words a perplexity', () => {
    expect(metricsOfNumbers([1, 2], [3, 3])).toMatchObject({ mse: 2.5, pearson: null, spearman: null })
    const words = metricsOfHiddenWords([Math.log(4), Math.log(9)], [1, 0])
    expect(metricsOfLabels([1, 0], [0, 0], 2).loss).toBeCloseTo(Math.LN2, 12)
    expect(words.perplexity).toBeCloseTo(6, 12)
    expect([words.words, words.accuracy]).toEqual([2, 0.5])
  })
})
