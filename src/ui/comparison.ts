/** Two kept runs side by side: the settings that differ, the metrics, and curves on one common axis. */
import type { AdapterConfig } from '../config.ts'
import { childConfigs } from '../methods/registry.ts'
import { formatSetup } from '../methods/setupText.ts'
import { bytes, count, fixed } from './format.ts'
import type { Column, ColumnName } from './history.ts'
import { historyOf, type RunRecord } from './library.svelte.ts'
import { methodLabel, methodText } from './presets.ts'

export interface Difference {
  name: string
  a: string
  b: string
}

function say(value: unknown): string {
  if (value === undefined || value === null) return '–'
  if (Array.isArray(value)) return value.length > 0 ? value.map(say).join(', ') : 'none'
  if (typeof value === 'object') return JSON.stringify(value)
  return String(value)
}

/** Every setting of a run by name. */
function settingsOf(run: RunRecord): Map<string, string> {
  const { adapter, head, assembly, adapter_drop, args, base, data, id2label, device } = run
  const split = data?.split
  const parts = childConfigs(adapter)
  const fieldsOf = (config: AdapterConfig): [string, unknown][] =>
    Object.entries(config).map(([key, value]): [string, unknown] => [
      parts.length > 1 ? `${methodLabel(config)}: ${key}` : key,
      value,
    ])
  const entries: [string, unknown][] = [
    ['base model', base?.name],
    ['method', methodText(adapter)],
    ...parts.flatMap(fieldsOf),
    ...Object.entries(head ?? {}).map(([key, value]): [string, unknown] => [`head: ${key}`, value]),
    ['active adapters', assembly ? formatSetup(assembly.active) : null],
    ['skip_layers', assembly?.skip_layers ?? []],
    ['adapter_drop', adapter_drop],
    ...Object.entries(args ?? {}),
    ['data', data?.names],
    ...(split && typeof split === 'object'
      ? Object.entries(split).map(([key, value]): [string, unknown] => [`split: ${key}`, value])
      : []),
    ['labels', id2label],
    ['device', device],
  ]
  return new Map(entries.map(([key, value]) => [key, say(value)]))
}

/** Settings in which the runs differ, in the order of the form. */
export function differences(a: RunRecord, b: RunRecord): Difference[] {
  const [left, right] = [settingsOf(a), settingsOf(b)]
  return [...new Set([...left.keys(), ...right.keys()])]
    .map((name) => ({ name, a: left.get(name) ?? '–', b: right.get(name) ?? '–' }))
    .filter((row) => row.a !== row.b)
}

/** The numbers the runs are judged by, each with its split. */
export function metricRows(a: RunRecord, b: RunRecord): Difference[] {
  const row = (name: string, of: (run: RunRecord) => string): Difference => ({ name, a: of(a), b: of(b) })
  const validation = (run: RunRecord): number | null =>
    run.history.evaluation.find(({ split, step }) => split === 'validation' && step === run.best_step)
      ?.metrics.f1_macro ?? null
  return [
    row('macro-F1, test', ({ test }) => fixed(test?.f1_macro)),
    row('micro-F1, test', ({ test }) => fixed(test?.f1_micro)),
    row('accuracy, test', ({ test }) => fixed(test?.accuracy)),
    row('loss, test', ({ test }) => fixed(test?.loss)),
    row('macro-F1, validation, kept step', (run) => fixed(validation(run))),
    row('kept step', ({ best_step }) => count(best_step)),
    row('size', ({ size }) => bytes(size)),
  ]
}

/** One column of both runs on the union of their steps. */
export function overlay(a: RunRecord, b: RunRecord, name: ColumnName): { x: number[]; a: Column; b: Column } {
  const [left, right] = [historyOf(a), historyOf(b)]
  const x = [...new Set([...left.step, ...right.step])].sort((one, other) => one - other)
  const on = (history: typeof left): Column => {
    const values = new Map(history.step.map((step, row) => [step, history.columns[name][row] ?? null]))
    return x.map((step) => values.get(step) ?? null)
  }
  return { x, a: on(left), b: on(right) }
}
