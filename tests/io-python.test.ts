/** The folder that repeats a run in Python; tests/parity/continue.ts runs it there. */
import { describe, expect, it } from 'vitest'
import { classificationHead } from '../src/config.ts'
import { continueInPython, pythonProblem, type PythonRun } from '../src/io/continueInPython.ts'
import { trainScript } from '../src/io/trainScript.ts'
import { adapterPlus, seqBn } from '../src/methods/bottleneck.ts'
import { trainingDefaults } from '../src/trainingArguments.ts'
import { baseModel } from './io.exports.ts'

const row = (text: string, label: number) => ({ text, text_pair: null, label })
const demo: PythonRun = {
  name: 'demo',
  adapter: seqBn,
  head: classificationHead(2),
  id2label: ['bad', 'good'],
  args: { ...trainingDefaults, learning_rate: 1, max_length: 40 },
  base: {
    name: 'roberta-base',
    sha256: 'ab'.repeat(32),
    hidden_size: 32,
    num_hidden_layers: 2,
    vocab_size: 400,
  },
  rows: {
    train: [row('Good\nand “cheap”', 1), row('bad\u2028', 0)],
    validation: [row('好', 1)],
    test: [],
  },
}

async function textsOf(run: PythonRun): Promise<Record<string, string>> {
  const files = continueInPython(await baseModel('tiny-roberta'), run)
  return Object.fromEntries([...files].map(([name, bytes]) => [name, new TextDecoder().decode(bytes)]))
}

describe('the folder for Python', () => {
  it('holds the script, pinned requirements, the run, its rows and the tokenizer', async () => {
    const texts = await textsOf(demo)
    expect(Object.keys(texts)).toEqual([
      'train.py',
      'requirements.txt',
      'run.json',
      'train.jsonl',
      'validation.jsonl',
      'test.jsonl',
      'tokenizer/tokenizer.json',
      'tokenizer/tokenizer_config.json',
    ])
    expect(texts['train.py']).toBe(trainScript)
    expect(texts['requirements.txt']).toMatch(/^adapters==1\.3\.0\ntransformers==4\.57\.6\n/)
    expect(
      texts['requirements.txt']!.trim()
        .split('\n')
        .every((line) => /^\w+==[\d.]+$/.test(line)),
    ).toBe(true)
    expect(JSON.parse(texts['tokenizer/tokenizer_config.json']!).model_max_length).toBe(40)
  })

  it('has one row a line, whatever a text holds', async () => {
    const texts = await textsOf(demo)
    const lines = texts['train.jsonl']!.trim().split('\n')
    expect(lines.map((line) => JSON.parse(line))).toEqual(demo.rows.train)
    expect(texts['test.jsonl']).toBe('')
    const several = { ...row('x', 0), target: [1, 0] }
    const found = await textsOf({ ...demo, rows: { ...demo.rows, test: [several] } })
    expect(JSON.parse(found['test.jsonl']!)).toEqual({ text: 'x', text_pair: null, label: [1, 0] })
  })

  it('says everything of the run under the libraries’ names, floats as floats', async () => {
    const text = (await textsOf(demo))['run.json']!
    const run = JSON.parse(text)
    expect(run.args).toEqual(demo.args)
    expect(run.head).toEqual({
      head_type: 'classification',
      num_labels: 2,
      layers: 2,
      activation_function: 'tanh',
      dropout_prob: null,
      use_pooler: false,
      bias: true,
    })
    expect(run.adapter.architecture).toBeUndefined()
    expect(run.base).toEqual(demo.base)
    expect(run).toMatchObject({ members: [], active: null, skip_layers: [], fusions: {}, adapter_drop: null })
    for (const line of ['"learning_rate": 1.0', '"scaling": 1.0', '"max_grad_norm": 1.0', '"seed": 42,'])
      expect(text).toContain(line)
  })

  it('has every field that the script asks for', async () => {
    const run = JSON.parse((await textsOf(demo))['run.json']!)
    const asked = (name: string) => new Set([...trainScript.matchAll(new RegExp(`${name}\\["(\\w+)"\\]`, 'g'))].map(([, key]) => key!)) // prettier-ignore
    for (const key of asked('RUN')) expect(run).toHaveProperty(key)
    for (const key of asked('ARGS')) expect(run.args).toHaveProperty(key)
    for (const key of asked('HEAD')) expect(run.head).toHaveProperty(key)
    const same = /same = """([^"]+)"""/.exec(trainScript)![1]!.split(/\s+/)
    for (const key of same) expect(run.args).toHaveProperty(key)
    expect(asked('RUN').size).toBeGreaterThan(8)
  })

  it('holds the adapters that were there before, and asks for torchvision only for stochastic depth', async () => {
    const files = new Map([['adapter_config.json', new TextEncoder().encode('{}')]])
    const member = { name: 'first', files, with_head: false, train: false, train_head: false }
    const active = { type: 'Stack' as const, children: ['first', 'demo'] }
    const texts = await textsOf({ ...demo, adapter: adapterPlus, members: [member], active })
    expect(texts['adapters/first/adapter_config.json']).toBe('{}')
    const run = JSON.parse(texts['run.json']!)
    expect(run.members).toEqual([{ name: 'first', with_head: false, train: false, train_head: false }])
    expect(run.active).toEqual(active)
    expect(run.adapter.stochastic_depth).toBe(0.1)
    expect(texts['requirements.txt']).toContain('torchvision==')
    expect((await textsOf(demo))['requirements.txt']).not.toContain('torchvision')
  })

  it('is refused, with the reason, for what the library cannot repeat', async () => {
    expect(pythonProblem(demo)).toBe(null)
    expect(pythonProblem({ ...demo, name: 'a.b' })).toContain('“a.b”')
    const mean = { ...classificationHead(2), pooling: 'mean' as const }
    expect(pythonProblem({ ...demo, head: mean })).toContain('mean')
    expect(pythonProblem({ ...demo, adapter: { architecture: 'full' }, active: 'first' })).toContain(
      'beside adapters',
    )
    await expect(textsOf({ ...demo, head: mean })).rejects.toThrow('mean')
  })
})
