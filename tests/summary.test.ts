/** `npm run trial -- --summary` on roberta-base's shapes: the library's own table (tests/parity/tables.py), to the letter. */
import { spawn } from 'node:child_process'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, test } from 'vitest'
import { readFixture } from './fixtures.ts'

/** The figures, by what `--adapter` is given. */
const counts: Record<string, { fixture?: string; count: number }> = {
  seq_bn: { count: 894_528 },
  double_seq_bn: { count: 1_789_056 },
  'par_bn[reduction_factor=6]': { fixture: 'par_bn 6', count: 2_370_048 },
  par_bn: { count: 7_091_712 },
  seq_bn_inv: { count: 1_190_592 },
  double_seq_bn_inv: { count: 2_085_120 },
  prefix_tuning: { count: 9_872_384 },
  prefix_tuning_flat: { count: 552_960 },
  lora: { count: 294_912 },
  ia3: { count: 55_296 },
  compacter: { count: 57_088 },
  'compacter++': { count: 28_576 },
  prompt_tuning: { count: 7_680 },
  loreft: { count: 36_888 },
  mam: { count: 22_493_984 },
  unipelt: { count: 11_083_376 },
}
const fullModel = 124_645_632

const { name, cases } = await readFixture<{ name: string; cases: { name: string; text: string }[] }>(
  'summaries',
)
const { config } = await readFixture<{ config: unknown }>('made-up')
let folder: string

function summary(adapter: string): Promise<string> {
  const args = ['--summary', '--transformer', folder, '--adapter', adapter, '--name', name]
  const child = spawn(process.execPath, ['node_modules/tsx/dist/cli.mjs', 'src/headless/trial.ts', ...args])
  let out = ''
  child.stdout.on('data', (chunk: Buffer) => (out += chunk))
  child.stderr.on('data', (chunk: Buffer) => (out += chunk))
  return new Promise((resolve) => child.on('close', () => resolve(out)))
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'roberta-base-'))
  await writeFile(join(folder, 'config.json'), JSON.stringify(config))
})

describe.concurrent('npm run trial -- --summary', () => {
  test.for(Object.entries(counts))(
    '--adapter %s',
    async ([adapter, { fixture = adapter, count }], { expect }) => {
      const out = await summary(adapter)
      expect(out).toContain('Full model')
      const lines = out.trim().split('\n')
      const figures = (line: string) => line.slice(40, 52).trim().replaceAll(',', '')
      expect(figures(lines.find((line) => line.startsWith(name))!)).toBe(String(count))
      expect(figures(lines.find((line) => line.startsWith('Full model'))!)).toBe(String(fullModel))
      // The library never lists heads; everything else is its own text.
      const theirs = cases
        .find((one) => one.name === fixture)!
        .text.trim()
        .split('\n')
      expect(lines.filter((line) => !line.startsWith(`${name} (head)`))).toEqual(theirs)
    },
  )
})
