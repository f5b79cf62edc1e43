/**
 * `npm run bench [-- --json] [--batch 32] [--length 128] [--steps 500]`: what one forward and one training step cost at
 * RoBERTa-base size, in this engine and in a plain tape over tfjs ops, counted on a device that executes nothing; and
 * what each lever is worth. `--timed [--pairs 11]` instead times small shapes in headless Chromium against tfjs, jax-js
 * and onnxruntime-web, as ratios; `--baseline` writes the counts that tests/bench.test.ts compares with.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { measureAblation, type Ablated } from './ablation.ts'
import { kept, measureBaseline } from './baseline.ts'
import { measureCached, type Cached } from './cached.ts'
import { isFlat, measureGrowth, type Growth } from './growth.ts'
import { measureEngine, measureTape, type Measured, type Size } from './measure.ts'
import { configOf, measured, taped } from './methods.ts'
import { measureMemory, type Saved } from './memory.ts'
import { need, type Need } from './need.ts'
import { measurePadding, type Padding } from './padding.ts'
import { robertaBase } from './sizes.ts'
import { num_labels } from './steps.ts'
import { gb, gib, mb, table } from './table.ts'
import { measureTimed, timedReport } from './timed/timed.ts'
import { verdicts, type Verdict } from './targets.ts'

const note =
  'The device is fake: it executes nothing, so every number is an exact count of calls and bytes, and no time is measured.'

const yardsticks =
  '“of need”: operations of the products dispatched over those of the model as it is written down, every token through every layer. “of floor”: over those that its head’s one token takes of the last layer.'

interface Line {
  method: string
  work: string
  needed: number
  floor: number
  engine: Measured
  tape: Measured | null
}

/** Row lengths, from the shortest to the longest that training meets. */
const everyLength = [12, 24, 40, 60, 90, 128, 190, 250, 380, 512]

type Column = [string, (cost: Measured, needed: number, floor: number) => string]

const columns: Column[] = [
  ['dispatches', (cost) => String(cost.dispatches)],
  ['passes', (cost) => String(cost.passes)],
  ['submits', (cost) => String(cost.submits)],
  ['new buffers', (cost) => String(cost.createBuffer)],
  ['uploads', (cost) => String(cost.uploads)],
  ['upload MB', (cost) => mb(cost.uploadBytes)],
  ['bound GB', (cost) => gb(cost.boundBytes)],
  ['peak GiB', (cost) => gib(cost.peakBytes)],
  ['pipelines', (cost) => String(cost.pipelines)],
  ['new later', (cost) => String(cost.newPipelines)],
  ['GFLOP', (cost) => (cost.flops / 1e9).toFixed(0)],
  ['of need', (cost, needed) => (cost.flops / needed).toFixed(3)],
  ['of floor', (cost, _, floor) => (cost.flops / floor).toFixed(3)],
]

function costTable(lines: Line[]): string {
  const rows = [['', '', ...columns.map(([name]) => name)]]
  for (const { method, work, needed, floor, engine, tape } of lines) {
    rows.push([`${method} ${work}`, 'Adaptab', ...columns.map(([, show]) => show(engine, needed, floor))])
    if (tape) rows.push(['', 'tape', ...columns.map(([, show]) => show(tape, needed, floor))])
  }
  return table(rows, 2)
}

function ablationTable(found: Ablated[], needed: number, floor: number): string {
  const rows = [['off', ...columns.map(([name]) => name)]]
  for (const { off, step } of found) rows.push([off, ...columns.map(([, show]) => show(step, needed, floor))])
  return table(rows, 1)
}

function memoryTable(found: Saved[], needed: number): string {
  const rows = [['a seq_bn step', 'dispatches', 'bound GB', 'peak GiB', 'of need']]
  for (const { precision, half_precision_activations, gradient_checkpointing, step } of found) {
    const way = [
      `${precision} weights`,
      half_precision_activations ? 'half-precision activations' : '',
      gradient_checkpointing ? 'recomputation' : '',
    ]
    const { dispatches, boundBytes, peakBytes, flops } = step
    const cells = [String(dispatches), gb(boundBytes), gib(peakBytes), (flops / needed).toFixed(3)]
    rows.push([way.filter(Boolean).join(', '), ...cells])
  }
  return table(rows, 1)
}

function verdictTable(found: Verdict[]): string {
  const rows = [['seq_bn step', 'found', 'target', '']]
  for (const { figure, found: value, target, met } of found)
    rows.push([figure, value, target, met ? 'met' : 'MISSED'])
  return table(rows, 4)
}

function paddingTable(found: Record<string, Padding>): string {
  const rows = [
    ['lengths', 'rows', 'mean', 'cap', 'efficiency', 'random batches', 'padded to cap', 'operations saved'],
  ]
  for (const [name, one] of Object.entries(found)) {
    const shares = [one.efficiency, one.ungrouped, one.unbucketed].map((share) => share.toFixed(3))
    const { rows: count, mean, max_length, saved } = one
    rows.push([name, String(count), mean.toFixed(1), String(max_length), ...shares, `${saved.toFixed(2)} ×`])
  }
  return table(rows, 1)
}

function cachedTable(found: Cached[]): string {
  const rows = [['GFLOP (dispatches) of a step', 'live', 'first epoch', 'later', 'live over later']]
  for (const { work, ratio, ...steps } of found) {
    const cells = [steps.live, steps.first, steps.later].map(
      ({ flops, dispatches }) => `${(flops / 1e9).toFixed(1)} (${dispatches.toFixed(0)})`,
    )
    rows.push([work, ...cells, `${ratio.toFixed(2)} ×`])
  }
  return table(rows, 1)
}

function describe(growth: Growth): string {
  const { steps, num_hidden_layers, lengths, half, end } = growth
  return (
    `Memory over ${steps} steps with dropout, ${num_hidden_layers} layers, padded lengths ${Object.keys(lengths).join(', ')}: ${isFlat(growth) ? 'flat' : 'NOT FLAT'}. ` +
    `First half: peak ${gib(half.peakBytes)} GiB, ${half.tensors} tensors, ${half.pipelines} pipelines; ` +
    `second half: peak ${gib(end.peakBytes)} GiB, ${end.tensors} tensors, ${end.pipelines} pipelines.`
  )
}

async function measureAll(size: Size): Promise<{ lines: Line[]; needs: Record<string, Need> }> {
  const lines: Line[] = []
  const needs: Record<string, Need> = {}
  for (const method of measured) {
    const adapter = configOf(method)
    const needed = need(size, adapter, num_labels)
    const least = need(size, adapter, num_labels, true)
    const whole = { needed: needed.forward + needed.backward, floor: least.forward + least.backward }
    const up = { needed: needed.forward, floor: least.forward }
    const engine = await measureEngine(size, adapter)
    const tape = taped.includes(method) ? await measureTape(size, adapter) : null
    needs[method] = needed
    lines.push(
      { method, work: 'forward', ...up, engine: engine.forward, tape: tape?.forward ?? null },
      { method, work: 'step', ...whole, engine: engine.step, tape: tape?.step ?? null },
      { method, work: 'step, dropout', ...whole, engine: engine.dropoutStep, tape: null },
    )
  }
  return { lines, needs }
}

/** Everything at RoBERTa-base size, as a table or JSON. */
async function report(size: Size, steps: number, json: boolean): Promise<void> {
  const seqBn = configOf('seq_bn')
  const { lines, needs } = await measureAll(size)
  const growth = await measureGrowth(size, seqBn, steps, everyLength)
  const padding = measurePadding()
  const ablation = await measureAblation(size, seqBn)
  const memory = await measureMemory(size, seqBn)
  const cached = await measureCached(size)
  const {
    engine: step,
    needed: whole,
    floor,
  } = lines.find(({ method, work }) => method === 'seq_bn' && work === 'step')!
  const targets = verdicts({
    step,
    needed: whole,
    halfPeak: memory.find((one) => one.half_precision_activations)!.step.peakBytes,
    recomputedPeak: memory.find((one) => one.precision === 'float16' && one.gradient_checkpointing)!.step
      .peakBytes,
    growth,
    padding,
    cachedHead: cached.head.ratio,
    cachedAdapterDrop: step.flops / cached.adapterDrop.later.flops,
  })
  if (json) {
    const found = {
      note,
      batch: size.B,
      length: size.S,
      targets,
      lines,
      needs,
      growth,
      padding,
      ablation,
      memory,
      cached,
    }
    process.stdout.write(JSON.stringify(found, null, 2) + '\n')
    return
  }
  const unknown = new Set(lines.flatMap(({ engine }) => engine.unknownKernels))
  const sections = [
    `RoBERTa-base shapes, batch ${size.B}, length ${size.S}, fp32, per forward or step once warm.\n${note}`,
    yardsticks,
    costTable(lines),
    `A seq_bn step with dropout, with one lever off at a time:\n${ablationTable(ablation, whole, floor)}`,
    memoryTable(memory, whole),
    paddingTable(padding),
    cachedTable(Object.values(cached)),
    describe(growth),
    verdictTable(targets),
    ...[...unknown].map(
      (kernel) => `The audit of operations does not know ${kernel}: add it to tests/bench/flops.ts.`,
    ),
  ]
  process.stdout.write(sections.join('\n\n') + '\n')
}

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    batch: { type: 'string', default: '32' },
    length: { type: 'string', default: '128' },
    steps: { type: 'string', default: '500' },
    baseline: { type: 'boolean', default: false },
    timed: { type: 'boolean', default: false },
    pairs: { type: 'string', default: '11' },
  },
})

if (values.baseline) {
  const found = Object.entries(await measureBaseline()).map(([work, cost]) => [work, kept(cost)])
  const file = new URL('baseline.json', import.meta.url)
  writeFileSync(file, JSON.stringify(Object.fromEntries(found), null, 2) + '\n')
} else if (values.timed) {
  const found = await measureTimed(Number(values.pairs))
  process.stdout.write(values.json ? JSON.stringify(found, null, 2) + '\n' : timedReport(found))
} else {
  const size = { config: robertaBase, B: Number(values.batch), S: Number(values.length) }
  await report(size, Number(values.steps), values.json)
}
