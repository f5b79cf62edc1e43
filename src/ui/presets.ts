/** How the page sorts and names the methods of the registry. What there is, the registry alone says. */
import type { AdapterConfig } from '../config.ts'
import { formatConfig } from '../methods/configText.ts'
import { childConfigs, presetOf, presets } from '../methods/registry.ts'
import type { Preset } from '../methods/method.ts'
import { isComparison } from './plan.svelte.ts'

/** In view from the start; everything else waits behind “More methods”. */
const simple = ['seq_bn', 'lora', 'head']

export const firstChoices: Preset[] = simple.flatMap((name) =>
  presets.filter((preset) => preset.name === name),
)

const kinds: Record<string, string> = {
  bottleneck: 'Bottlenecks: narrow layers put in',
  lora: 'Low rank: small changes to matrices',
  prefix_tuning: 'Prompts: made-up tokens in front',
  prompt_tuning: 'Prompts: made-up tokens in front',
  reft: 'Representations: changes to a few tokens',
  union: 'Mixtures of methods',
}
const comparisons = 'To compare with: no adapter'

export interface PresetGroup {
  name: string
  presets: Preset[]
}

/** All presets by kind, in the registry's order. */
export const groups: PresetGroup[] = (() => {
  const nameOf = ({ config }: Preset): string =>
    isComparison(config) ? comparisons : (kinds[config.architecture ?? 'bottleneck'] ?? 'Others')
  const names = [...new Set(presets.map(nameOf))]
  return names.map((name) => ({ name, presets: presets.filter((preset) => nameOf(preset) === name) }))
})()

/** A short name for any configuration, as the library has it where it has one: `lora`, `prefix_tuning + par_bn`. */
export function methodLabel(config: AdapterConfig): string {
  const preset = presetOf(config)
  if (preset) return preset.name
  const own = ({ architecture }: AdapterConfig): string => architecture ?? 'bottleneck'
  return childConfigs(config)
    .map((child) => presetOf(child)?.name ?? own(child))
    .join(' + ')
}

/** The configuration as text, in the library's notation; where it has none, the name. */
export function methodText(config: AdapterConfig): string {
  return formatConfig(config) ?? methodLabel(config)
}
