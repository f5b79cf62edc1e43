/** The headless runner as its users call it: a command line in, JSON lines, files and an exit code out. */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { trainingDefaults } from '../src/trainingArguments.ts'
import type { AdapterConfig } from '../src/config.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { parseFields, trainingOf } from '../src/headless/fields.ts'
import { folderFiles } from '../src/headless/node.ts'
import { readAdapterFiles } from '../src/io/import.ts'
import { readSafetensors } from '../src/io/safetensors.ts'

interface Finished {
  code: number | null
  out: string
  err: string
}

function trial(...args: string[]): Promise<Finished> {
  const child = spawn('npx', ['tsx', 'src/headless/trial.ts', ...args])
  const finished = { code: null, out: '', err: '' } as Finished
  child.stdout.on('data', (chunk: Buffer) => (finished.out += chunk))
  child.stderr.on('data', (chunk: Buffer) => (finished.err += chunk))
  return new Promise((resolve) => child.on('close', (code) => resolve({ ...finished, code })))
}

const tiny = 'tests/fixtures/tiny-roberta'
let folder: string
let csv: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'trial-'))
  csv = join(folder, 'visits.csv')
  const rows = Array.from(
    { length: 40 },
    (_, i) => `it was ${i % 2 ? 'good' : 'bad'} on visit ${i},${i % 2 ? 'up' : 'down'}`,
  )
  await writeFile(csv, `text,label\n${rows.join('\n')}\n`)
})

describe('npm run trial', () => {
  it('explains every field', async () => {
    const { code, out } = await trial('--help')
    expect(code).toBe(0)
    for (const name of [
      ...Object.keys(trainingDefaults),
      'transformer',
      'adapter_drop',
      'skip_layers',
      'summary',
      'dump',
    ])
      expect(out).toContain(`--${name} `)
  })

  it('lets the base drop as in Python, but not under a head alone unless it is asked to', () => {
    const dropout = (adapter: AdapterConfig, ...more: string[]) =>
      trainingOf(parseFields(more), adapter).base_dropout
    const head = { architecture: 'head' } as const
    expect(trainingOf(parseFields([]), loraConfig)).toEqual(trainingDefaults)
    expect(dropout(head)).toBe(false)
    expect(dropout(head, '--base_dropout', 'true')).toBe(true)
    expect(dropout(head, '--load', 'a=folder')).toBe(true)
    expect(dropout(head, '--task', 'masked_lm')).toBe(true)
    expect(dropout(loraConfig, '--base_dropout', 'false')).toBe(false)
  })

  it('trains from a CSV and writes an adapter folder that it can load and judge a batch with', async () => {
    const output = join(folder, 'out')
    const names = [
      '--adapter',
      'lora[r=4]',
      '--epochs',
      '2',
      '--batch-size',
      '8',
      '--max-length',
      '32',
      '--learning-rate',
      '0.005',
    ]
    const ran = await trial('--transformer', tiny, '--dataset', csv, ...names, '--output_dir', output)
    expect(ran.err).toMatch(/wrote /)
    expect(ran.code).toBe(0)
    const events = ran.out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { type: string; step?: number })
    expect(events.map(({ type }) => type)).toContain('evaluation')
    expect(events.at(-1)).toMatchObject({ type: 'done', reason: 'finished' })
    const config = JSON.parse(
      await readFile(join(output, 'adapterhub/adapter_config.json'), 'utf8'),
    ) as object
    expect(config).toMatchObject({
      name: 'trial',
      config: { architecture: 'lora', r: 4, attn_matrices: ['q', 'v'] },
    })
    const stored = new Uint8Array(await readFile(join(output, 'peft/adapter_model.safetensors')))
    expect([...(await readSafetensors(stored)).keys()]).toContain(
      'base_model.model.classifier.out_proj.weight',
    )

    const batch = join(folder, 'batch.json')
    const dump = join(folder, 'dump.json')
    const ids = {
      input_ids: [
        [0, 9, 30, 2],
        [0, 12, 2, 1],
      ],
      attention_mask: [
        [1, 1, 1, 1],
        [1, 1, 1, 0],
      ],
      labels: [0, 1],
    }
    await writeFile(batch, JSON.stringify(ids))
    for (const kind of ['adapterhub', 'peft']) {
      const compared = ['--load-adapter', join(output, kind), '--batch', batch, '--dump', dump]
      expect(await trial('--transformer', tiny, ...compared)).toMatchObject({ code: 0 })
      const result = JSON.parse(await readFile(dump, 'utf8')) as Record<string, unknown>
      expect(result.logits).toHaveLength(2)
      expect(result.loss).toBeGreaterThan(0)
      expect((result.last_hidden_state as number[][][])[1]![3]).toHaveLength(32)
      const name = kind === 'peft' ? 'peft' : 'trial'
      const grads = result.grads as Record<string, number[][]>
      expect(grads[`roberta.encoder.layer.1.attention.self.value.loras.${name}.lora_B`]).toHaveLength(32)
      expect(grads[`heads.${name}.4.bias`]).toHaveLength(2)
    }
  })

  it('averages loaded adapters, folds one into the model, and trains on a loaded one', async () => {
    const lora = 'tests/fixtures/saved/lora'
    const both = ['--transformer', tiny, '--load', `a=${lora},b=${lora}`]
    const mixed = join(folder, 'mixed')
    const average = ['--average', 'a:1,b:3', '--name', 'mix', '--output_dir', mixed]
    expect(await trial(...both, ...average)).toMatchObject({ code: 0 })
    const own = await readSafetensors(
      new Uint8Array(await readFile(join(mixed, 'adapterhub/adapter.safetensors'))),
    )
    const given = (await readAdapterFiles(await folderFiles(lora))).bundle
    expect(own.size).toBeGreaterThan(0)
    for (const [key, { data }] of own) {
      const theirs = given.tensors.get(key.replace('.mix.', `.${given.name}.`))!
      data.forEach((value, i) => expect(value).toBeCloseTo(theirs.data[i]!, 6))
    }
    const whole = join(folder, 'whole')
    expect(await trial(...both, '--merge', 'a', '--output_dir', whole)).toMatchObject({ code: 0 })
    const weights = await readSafetensors(new Uint8Array(await readFile(join(whole, 'model.safetensors'))))
    expect([...weights.keys()]).toContain('classifier.out_proj.weight')
    const stack = [
      '--dataset',
      csv,
      '--active',
      'Stack("a", "trial")',
      '--max_steps',
      '2',
      '--max-length',
      '16',
    ]
    const ran = await trial(...both.slice(0, 3), `a=${lora}`, ...stack)
    expect(ran.code).toBe(0)
    const names = ran.out.split('\n').flatMap((line) => (line.includes('"inPath"') ? [line] : []))
    expect(names.every((line) => line.includes('"name":"trial"'))).toBe(true)
    expect(names.length).toBeGreaterThan(0)
  })

  it.each([
    ['an unknown field', ['--learning_rat', '1'], /There is no field --learning_rat;/],
    ['a field without value', ['--transformer'], /--transformer needs a value/],
    ['a bad number', ['--learning_rate', 'fast'], /--learning_rate is "fast", not a number/],
    ['a bad choice', ['--backend', 'magic'], /--backend is "magic", not one of wasm, cpu, webgpu/],
  ])('refuses %s', (_, args, sentence) => {
    expect(() => parseFields(args)).toThrow(sentence)
  })

  it.each([
    ['no model', ['--dataset', 'sample'], /--transformer is missing/],
    ['no such model', ['--transformer', '/nowhere', '--dataset', 'sample'], /\/nowhere has no config.json/],
    ['no such file', ['--transformer', tiny, '--dataset', '/nowhere.csv'], /There is no file \/nowhere.csv/],
  ])('ends with one sentence on %s', async (_, args, sentence) => {
    const { code, out, err } = await trial(...args)
    expect(code).toBe(1)
    expect(out).toBe('')
    expect(err.trim().split('\n').at(-1)).toMatch(sentence)
    expect(err).not.toContain('    at ')
  })
})
