/**
 * `npm run bench [-- --json] [--batch 32] [--length 128] [--steps 200]`: what one forward and one training step cost
 * at RoBERTa-base size, in this engine and in a plain tape over tfjs ops, counted on a device that executes nothing.
 * `--baseline` writes the small counts that tests/bench.test.ts compares with.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { presets } from '../../src/methods/registry.ts'
import { measureBaseline } from './baseline.ts'
import {
  isFlat,
  measureEngine,
  measureGrowth,
  measureTape,
  type Cost,
  type Growth,
  type Size,
} from './measure.ts'
import { robertaBase } from './sizes.ts'

const note =
  'The device is fake: it executes nothing, so every number is an exact count of calls and bytes, and no time is measured.'

interface Line {
  work: string
  engine: Cost
  tape: Cost | null
}

/** Methods that are measured; the plain tape has the first two. */
const measured = ['seq_bn', 'lora', 'par_bn', 'prefix_tuning', 'mam', 'unipelt']
const taped = measured.slice(0, 2)
const configOf = (name: string) => presets.find((preset) => preset.name === name)!.config

/** Row lengths, one for each padded length that training uses. */
const everyBucket = [12, 24, 40, 60, 90, 128, 190, 250, 380, 512]

const mb = (bytes: number) => (bytes / 1e6).toFixed(1)
const gb = (bytes: number) => (bytes / 1e9).toFixed(1)
const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(2)

const columns: [string, (cost: Cost) => string][] = [
  ['dispatches', (cost) => String(cost.dispatches)],
  ['passes', (cost) => String(cost.passes)],
  ['submits', (cost) => String(cost.submits)],
  ['new buffers', (cost) => String(cost.createBuffer)],
  ['uploads', (cost) => String(cost.uploads)],
  ['upload MB', (cost) => mb(cost.uploadBytes)],
  ['bound GB', (cost) => gb(cost.boundBytes)],
  ['peak GiB', (cost) => gib(cost.peakBytes)],
  ['pipelines', (cost) => String(cost.pipelines)],
]

function table(lines: Line[]): string {
  const rows = [['', '', ...columns.map(([name]) => name)]]
  for (const { work, engine, tape } of lines) {
    rows.push([work, 'Adaptab', ...columns.map(([, show]) => show(engine))])
    if (tape) rows.push(['', 'tape', ...columns.map(([, show]) => show(tape))])
  }
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  return rows
    .map((row) =>
      row.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
    )
    .join('\n')
}

function describe(growth: Growth): string {
  const { steps, lengths, half, end } = growth
  return (
    `Memory over ${steps} steps with dropout, padded lengths ${Object.keys(lengths).join(', ')}: ${isFlat(growth) ? 'flat' : 'NOT FLAT'}. ` +
    `First half: peak ${gib(half.peakBytes)} GiB, ${half.tensors} tensors, ${half.pipelines} pipelines; ` +
    `second half: peak ${gib(end.peakBytes)} GiB, ${end.tensors} tensors, ${end.pipelines} pipelines.`
  )
}

async function measure(size: Size): Promise<Line[]> {
  const lines: Line[] = []
  for (const name of measured) {
    const adapter = configOf(name)
    const engine = await measureEngine(size, adapter)
    const tape = taped.includes(name) ? await measureTape(size, adapter) : null
    lines.push({ work: `${name} forward`, engine: engine.forward, tape: tape?.forward ?? null })
    lines.push({ work: `${name} step`, engine: engine.step, tape: tape?.step ?? null })
    lines.push({ work: `${name} step, dropout`, engine: engine.dropoutStep, tape: null })
  }
  return lines
}

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    batch: { type: 'string', default: '32' },
    length: { type: 'string', default: '128' },
    steps: { type: 'string', default: '200' },
    baseline: { type: 'boolean', default: false },
  },
})

/** Everything at RoBERTa-base size, as a table or JSON. */
async function report(): Promise<void> {
  const size = { config: robertaBase, B: Number(values.batch), S: Number(values.length) }
  const lines = await measure(size)
  const growth = await measureGrowth(size, configOf('seq_bn'), Number(values.steps), everyBucket)
  if (values.json) {
    const found = { note, batch: size.B, length: size.S, lines, growth }
    process.stdout.write(JSON.stringify(found, null, 2) + '\n')
  } else {
    const title = `RoBERTa-base shapes, batch ${size.B}, length ${size.S}, fp32, per forward or step once warm`
    process.stdout.write([title, note, '', table(lines), '', describe(growth), ''].join('\n'))
  }
}

if (values.baseline) {
  const file = new URL('baseline.json', import.meta.url)
  writeFileSync(file, JSON.stringify(await measureBaseline(), null, 2) + '\n')
} else {
  await report()
}
