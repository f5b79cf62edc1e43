/** What the figures must reach, and whether they do. */
import { isFlat, type Growth } from './growth.ts'
import type { Measured } from './measure.ts'
import type { Padding } from './padding.ts'

export interface Verdict {
  figure: string
  found: string
  target: string
  met: boolean
}

/** Figures that the targets speak of; null: not measured, which is no verdict. */
export interface Figures {
  step: Measured
  /** Operations that the step needs. */
  needed: number
  /** Peaks with what a switch turns on, in bytes. */
  halfPeak: number | null
  recomputedPeak: number | null
  growth: Growth
  padding: Record<string, Padding>
  cachedHead: number | null
  cachedAdapterDrop: number | null
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`
const times = (x: number) => `${x >= 100 ? Math.round(x) : x.toFixed(2)} ×`
const batchArrays = ['input_ids', 'padding', 'labels']

/** The figures of a seq_bn step and of what surrounds it, each beside its target. */
export function verdicts(figures: Figures): Verdict[] {
  const { step, needed, growth, padding } = figures
  const flops = step.flops / needed
  const arrays = step.uploaded.flatMap((upload) => upload.split(' + '))
  const found: (Verdict | null)[] = [
    atMost('dispatches', step.dispatches, 250, String),
    {
      figure: 'uploads after step 1',
      found: arrays.join(', ') || 'none',
      target: 'ids, lengths and labels only',
      met: arrays.every((name) => batchArrays.includes(name)),
    },
    atMost('new pipelines after step 1', step.newPipelines, 0, String),
    atMost('bound traffic', step.boundBytes, 12e9, (bytes) => `${(bytes / 1e9).toFixed(2)} GB`),
    atMost('pool peak, fp32', step.peakBytes, 2.3 * 2 ** 30, gib),
    atMost('pool peak, half-precision weights and saved activations', figures.halfPeak, 1.2 * 2 ** 30, gib),
    atMost(
      'pool peak with recomputation and half-precision weights',
      figures.recomputedPeak,
      0.7 * 2 ** 30,
      gib,
    ),
    {
      figure: `pool growth over ${growth.steps} steps through all lengths (${growth.num_hidden_layers} layers)`,
      found: gib(growth.grown),
      target: '0',
      met: isFlat(growth),
    },
    atMost('operations dispatched over the need', flops, 1.02, (x) => x.toFixed(3)),
    ...Object.entries(padding).map(([name, { efficiency }]) =>
      atLeast(`padding efficiency, ${name}`, efficiency, 0.93, (x) => x.toFixed(3)),
    ),
    atLeast('operations, head: first epoch over cached epochs', figures.cachedHead, 100, times),
    atLeast(
      'operations, seq_bn in all layers over AdapterDrop 5 with cache',
      figures.cachedAdapterDrop,
      1.7,
      times,
    ),
  ]
  return found.filter((one) => one !== null)
}

function atMost(
  figure: string,
  value: number | null,
  limit: number,
  show: (x: number) => string,
): Verdict | null {
  return value === null
    ? null
    : { figure, found: show(value), target: `≤ ${show(limit)}`, met: value <= limit }
}

function atLeast(
  figure: string,
  value: number | null,
  limit: number,
  show: (x: number) => string,
): Verdict | null {
  return value === null
    ? null
    : { figure, found: show(value), target: `≥ ${show(limit)}`, met: value >= limit }
}
