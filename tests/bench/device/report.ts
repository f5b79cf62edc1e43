/** What a GPU's figures look like: times, shares of the peak, and ratios beside their goals. */
import type { Ratio } from '../clock.ts'
import { table } from '../table.ts'
import type { Check } from './correctness.ts'
import type { Timed } from './times.ts'

export interface Found {
  date: string
  device: string
  features: string[]
  batch: number
  length: number
  checks: Check[]
  /** Operations a second in fp32; `dataSheet` null: not known for this device. */
  peak: { measured: number; dataSheet: number | null } | null
  products: (Timed & { tfjs: Ratio })[]
  attention: Timed[]
  steps: Timed[]
  tape: { name: string; ratio: Ratio }[]
  /** pytorch.py's: milliseconds by the names of `steps`. */
  pytorch: { torch: string; device: string; ms: Record<string, number> } | null
}

const tera = (x: number) => (x / 1e12).toFixed(2)
const ratio = ({ median, low, high }: Ratio) => `${median.toFixed(2)} (${low.toFixed(2)}–${high.toFixed(2)})`

/** The whole report as text. */
export function report(found: Found): string {
  const { device, date, batch, length, peak, pytorch } = found
  const peaks = peak
    ? `fp32 peak: ${tera(peak.measured)} TFLOP/s measured${peak.dataSheet ? `, ${tera(peak.dataSheet)} by the data sheet` : ''}.`
    : 'The peak was not measured.'
  const sections = [
    `${device}, ${date}; batch ${batch}, length ${length}, fp32, weights made up.\n${peaks}`,
    timedTable(found, found.products, ['tfjs’s time over ours'], ({ tfjs }) => [ratio(tfjs)]),
    timedTable(found, found.attention, [], () => []),
    timedTable(found, found.steps, pytorch ? ['PyTorch ms', 'ours over PyTorch'] : [], (one) =>
      besideTorch(one, pytorch),
    ),
    found.tape.map((one) => `Plain tape over ours, ${one.name}: ${ratio(one.ratio)}`).join('\n'),
    goals(found),
  ]
  return `${sections.filter(Boolean).join('\n\n')}\n`
}

function besideTorch({ name, timing }: Timed, pytorch: Found['pytorch']): string[] {
  if (!pytorch) return []
  const ms = pytorch.ms[name]
  return ms === undefined ? ['', ''] : [ms.toFixed(2), (timing.ms / ms).toFixed(2)]
}

function timedTable<T extends Timed>(
  { peak }: Found,
  lines: T[],
  headings: string[],
  more: (line: T) => string[],
): string {
  const shares = peak ? ['of measured peak', ...(peak.dataSheet ? ['of data sheet'] : [])] : []
  const rows = [['', 'ms', 'TFLOP/s', ...shares, ...headings]]
  for (const line of lines) {
    const { name, timing, flops } = line
    const rate = flops / (timing.ms / 1e3)
    const share = peak ? [peak.measured, peak.dataSheet].filter((one) => one !== null) : []
    const parts = share.map((one) => (rate / one).toFixed(2))
    rows.push([name, timing.ms.toFixed(3), tera(rate), ...parts, ...more(line)])
  }
  return lines.length === 0 ? '' : table(rows, 1)
}

/** The goals that a GPU's figures are held against. */
function goals({ peak, products, steps, tape, pytorch }: Found): string {
  const rows = [['goal', 'found', 'target', '']]
  const add = (goal: string, value: number | undefined, target: number, most: boolean) => {
    if (value === undefined) return
    const met = most ? value <= target : value >= target
    rows.push([goal, value.toFixed(2), `${most ? '≤' : '≥'} ${target}`, met ? 'met' : 'MISSED'])
  }
  const step = steps.find(({ name }) => name === 'seq_bn step')
  if (step && peak) {
    const most = peak.dataSheet ?? peak.measured
    add('seq_bn step, share of the fp32 peak', step.flops / (step.timing.ms / 1e3) / most, 0.4, false)
  }
  const theirs = pytorch?.ms['seq_bn step']
  if (step && theirs) add('seq_bn step over PyTorch’s', step.timing.ms / theirs, 1.5, true)
  add('plain tape over ours, step', tape[0]?.ratio.median, 4, false)
  // The last two are thin; the target speaks of the large ones.
  const large = products.slice(0, -2).map(({ tfjs }) => tfjs.median)
  if (large.length > 0)
    add('tfjs’s product over ours, the slowest of the large', Math.min(...large), 1.5, false)
  return rows.length > 1 ? table(rows, 4) : ''
}
