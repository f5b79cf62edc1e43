/** The methods that the bench measures, by the names of the library's presets. */
import type { AdapterConfig } from '../../src/config.ts'
import { presets } from '../../src/methods/registry.ts'

export const measured = [
  'seq_bn',
  'lora',
  'prefix_tuning',
  'par_bn',
  'mam',
  'unipelt',
  'full',
  'head',
] as const

export type MeasuredMethod = (typeof measured)[number]

/** Those that the plain tape has too. */
export const taped: MeasuredMethod[] = ['seq_bn', 'lora']

/** The configuration of a method; the last two are comparisons, which have no fields. */
export function configOf(name: MeasuredMethod): AdapterConfig {
  if (name === 'full' || name === 'head') return { architecture: name }
  return presets.find((preset) => preset.name === name)!.config
}
