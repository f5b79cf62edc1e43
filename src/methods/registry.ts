/**
 * Every adapter method in one list, and what is asked of any configuration whatever its method. A new method is one file
 * beside this one and one line in `methods`; a new name for a configuration is one entry in presets.ts.
 */
import type { AdapterConfig, ModelSetup, RobertaConfig, TensorMap } from '../config.ts'
import { activeProblems } from './active.ts'
import { bottleneck } from './bottleneck.ts'
import { bitfit, full, head } from './comparison.ts'
import { parseConfig } from './configText.ts'
import { fieldProblems } from './fieldTypes.ts'
import { lora } from './lora.ts'
import type { Method, Parameter, Preset, Start } from './method.ts'
import { prefixTuning } from './prefixTuning.ts'
import { presets, refused } from './presets.ts'
import { promptTuning } from './promptTuning.ts'
import { reft } from './reft.ts'
import { childConfigs, unionOf } from './union.ts'

const single: Method[] = [bottleneck, lora, prefixTuning, promptTuning, reft, head, bitfit, full]

export const methods: Method[] = [...single, unionOf(single)]

export { activeProblems, childConfigs, presets }

/** The method that a configuration belongs to. Throws on an architecture that is not in the list. */
export function methodOf({ architecture }: AdapterConfig): Method {
  const found = methods.find((method) => method.architecture === architecture)
  if (!found)
    throw new Error(`The architecture “${String(architecture)}” is not one of the known adapter methods.`)
  return found
}

/** Why a configuration cannot work on this base (null: not known yet), in sentences; empty when it can. */
export function configProblems(config: AdapterConfig, base: RobertaConfig | null): string[] {
  return methodOf(config).problems(config, base)
}

/** Why a setup cannot run: what `activeProblems` says of it, and every adapter's own problems on this base. */
export function setupProblems(setup: ModelSetup, base: RobertaConfig | null): string[] {
  const own = Object.entries(setup.adapters).flatMap(([name, config]) =>
    configProblems(config, base).map((problem) => `Adapter “${name}”: ${problem}`),
  )
  return [...activeProblems(setup), ...own]
}

/**
 * A configuration from the library's string: a preset, `lora[r=4,alpha=16]`, or a union
 * `prefix_tuning[flat=True]|par_bn[reduction_factor=8]`. Throws one sentence on an unknown or refused name, an unknown
 * field, or a value that the field cannot have.
 */
export function parsePreset(text: string): AdapterConfig {
  for (const part of text.split('|')) {
    const reason = refused[part.split('[')[0]!.trim()]
    if (reason) throw new Error(reason)
  }
  const config = parseConfig(text)
  const [problem] = [
    ...childConfigs(config).flatMap((child) => fieldProblems(methodOf(child), child)),
    ...configProblems(config, null),
  ]
  if (problem) throw new Error(problem)
  return config
}

/**
 * Key and shape of every tensor of adapter `name`, a union's children one after another. Of `bitfit` and `full` they are
 * the base's own keys.
 */
export function parametersOf(base: RobertaConfig, config: AdapterConfig, name: string): Parameter[] {
  return methodOf(config).parameters(base, config, name)
}

/** A fresh adapter, draw for draw what `add_adapter(name, config)` makes in the library from the same generator. */
export async function initialiseAdapter(
  start: Start,
  config: AdapterConfig,
  name: string,
): Promise<TensorMap> {
  return methodOf(config).initialise(start, config, name)
}

/** How many values of the adapter are parameters; buffers are saved but not counted. */
export function countParameters(base: RobertaConfig, config: AdapterConfig): number {
  return parametersOf(base, config, 'adapter')
    .filter(({ role }) => role !== 'buffer')
    .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
}

/** The column “Architecture” of `adapter_summary()`. */
export function architectureLabel({ architecture }: AdapterConfig): string {
  return architecture ?? 'bottleneck'
}

/**
 * The preset that a configuration is, or is a variation of: first one that is equal, then one of the same kind with
 * other sizes, scales, layers or matrices. null when its switches are nobody's.
 */
export function presetOf(config: AdapterConfig): Preset | null {
  const equal = presets.find((preset) => canonical(preset.config) === canonical(config))
  return equal ?? presets.find((preset) => kindOf(preset.config) === kindOf(config)) ?? null
}

/** JSON with sorted keys, so that the order of fields does not matter. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    inner !== null && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}

/** The switches that make a configuration this preset and not another. */
function kindOf(config: AdapterConfig): string {
  switch (config.architecture) {
    case null:
      return canonical([
        config.mh_adapter,
        config.output_adapter,
        config.is_parallel,
        typeof config.scaling === 'string' ? config.scaling : 'constant',
        config.inv_adapter,
        config.phm_layer,
        config.original_ln_before,
        config.original_ln_after,
        config.residual_before_ln,
        config.ln_before,
        config.ln_after,
        config.adapter_residual_before_ln,
      ])
    case 'lora':
      return canonical(['lora', config.composition_mode, config.use_dora])
    case 'prefix_tuning':
      return canonical(['prefix_tuning', config.flat])
    case 'reft':
      return canonical(['reft', config.orthogonality])
    case 'union':
      return canonical(['union', ...config.configs.map(kindOf)])
    default:
      return canonical([config.architecture])
  }
}
