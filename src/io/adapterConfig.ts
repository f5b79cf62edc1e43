/**
 * adapter_config.json of the `adapters` library, read and written. Ours is the library's own dict; what a file lacks
 * has the default of the class (`AdapterConfig.load`), and what cannot be computed exactly is refused by the field's
 * name, because a wrong guess would only show as bad predictions.
 */
import type { AdapterConfig } from '../config.ts'
import { fieldProblems } from '../methods/fieldTypes.ts'
import { childConfigs, configProblems, methodOf, methods, parsePreset } from '../methods/registry.ts'
import { isFields, readFields, shown, type Fields } from './fields.ts'
import { PyFloat, type PyJson } from './json.ts'
import { suggestion } from './nearest.ts'

/** What stands in the files that we write. */
export const libraryVersion = 'adapters.1.3.0'

/** Fields without a default in the library's classes. */
const required: Record<string, string[]> = {
  null: ['mh_adapter', 'output_adapter', 'reduction_factor', 'non_linearity'],
  reft: ['layers', 'prefix_positions', 'suffix_positions', 'r', 'orthogonality'],
  union: ['configs'],
}

/** Fields that Python must read as floats; the library tells a fixed scale from a learned one by that alone. */
const floats = new Set(['dropout', 'scaling', 'phm_init_range', 'stochastic_depth', 'dropout_prob'])

/** Model types whose checkpoints have RoBERTa's layers and the prefix `roberta.`. */
const modelTypes = ['roberta', 'xlm-roberta', 'camembert']

/**
 * The whole of adapter_config.json. Throws one sentence for a method or field that we do not have, a value of the wrong
 * type, and a version that is none.
 */
export function readAdapterConfig(file: Fields, notes: string[]): AdapterConfig {
  checkModelType(file, 'adapter')
  const old = readVersion(file.version, notes)
  const given = file.config
  if (typeof given === 'string') return adapterOnly(parsePreset(given), given)
  if (!isFields(given))
    throw new Error('adapter_config.json has no config: this is not an adapter of the adapters library.')
  const config = readConfig(old === 'none' ? renamedActivation(given, notes) : given, notes)
  if (old === 'before 1.1' && config.architecture === 'lora' && config.alpha !== config.r) {
    notes.push(
      `Written before adapters 1.1, which ignored alpha: it counts as ${config.r}, as the library does.`,
    )
    return checked({ ...config, alpha: config.r })
  }
  return checked(config)
}

/** Throws when the file is for a model other than RoBERTa and its kin. */
export function checkModelType({ model_type }: Fields, what: string): void {
  if (typeof model_type === 'string' && !modelTypes.includes(model_type))
    throw new Error(`The ${what} is for a ${model_type} model; this page has RoBERTa models only.`)
}

/** Our strings for what an adapter is compared with name no adapter. */
function adapterOnly(config: AdapterConfig, text: string): AdapterConfig {
  if (['head', 'bitfit', 'full'].includes(String(config.architecture)))
    throw new Error(`The configuration “${text}” in adapter_config.json is no adapter of the library.`)
  return config
}

function checked(config: AdapterConfig): AdapterConfig {
  const types = childConfigs(config).flatMap((child) => fieldProblems(methodOf(child), child))
  const [problem] = types.length > 0 ? types : configProblems(config, null)
  if (problem !== undefined) throw new Error(problem)
  return config
}

/**
 * How old the file is, by the library's rules. Only `adapters.` versions count; one that Python's `packaging` cannot
 * read makes the library stop, and us.
 */
function readVersion(version: unknown, notes: string[]): 'none' | 'before 1.1' | 'current' {
  if (version === undefined) return 'none'
  if (typeof version !== 'string' || !version.startsWith('adapters.')) return 'current'
  const match = /^v?(\d+)(?:\.(\d+))?(?:\.\d+)*(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?(?:-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?(?:[-_.]?dev[-_.]?\d*)?(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?$/i.exec(version.slice('adapters.'.length)) // prettier-ignore
  if (!match)
    throw new Error(`The version ${shown(version)} in adapter_config.json is none; the library writes ${libraryVersion}.`) // prettier-ignore
  const [major, minor] = [Number(match[1]), Number(match[2] ?? 0)]
  if (major < 1 || (major === 1 && minor < 1)) return 'before 1.1'
  if (major > 1 || minor > 3)
    notes.push(`Written by ${version.replace('.', ' ')}, which is newer than the 1.3 that this page follows.`)
  return 'current'
}

/** Files of before the library wrote its version mean the tanh form by “gelu”; a union's children are left as they are. */
function renamedActivation(config: Fields, notes: string[]): Fields {
  const renamed = { gelu: 'gelu_new', gelu_orig: 'gelu' }[String(config.non_linearity)]
  if (renamed === undefined) return config
  notes.push(
    `Written before the library kept its version: “${String(config.non_linearity)}” there is ${renamed}.`,
  )
  return { ...config, non_linearity: renamed }
}

/** One configuration, or a union with its children. */
function readConfig(given: Fields, notes: string[]): AdapterConfig {
  const architecture = given.architecture ?? null
  const known = methods.filter((method) => !['head', 'bitfit', 'full'].includes(String(method.architecture)))
  const method = known.find((one) => one.architecture === architecture)
  if (!method) {
    const names = known.flatMap((one) => one.architecture ?? [])
    throw new Error(
      `The adapter's method ${shown(architecture)} is not supported${suggestion(String(architecture), names)}; bottlenecks (without architecture) and ${names.join(', ')} are.`,
    )
  }
  const fields = readFields(
    currentNames(given, architecture),
    { ...method.defaults },
    required[String(architecture)] ?? [],
    "adapter's configuration",
    notes,
  )
  if (architecture === 'union' && Array.isArray(fields.configs) && fields.configs.every(isFields))
    return { architecture, configs: fields.configs.map((child) => readConfig(child, notes)) }
  return fields as unknown as AdapterConfig
}

/** Fields under the names of today: before 2021 invertible layers were an object of their own. */
function currentNames(given: Fields, architecture: unknown): Fields {
  const { invertible_adapter, subtract_projection, ...fields } = given
  // Old files write null for “no layers”.
  if (fields.leave_out === null) fields.leave_out = []
  if (subtract_projection === false)
    throw new Error(
      'The adapter is a DiReFT, whose files the library itself reads as NoReFT, with other numbers; it is not supported.',
    )
  if (architecture !== null || !isFields(invertible_adapter)) return fields
  const { block_type, reduction_factor } = invertible_adapter
  return { ...fields, inv_adapter: block_type, inv_adapter_reduction_factor: reduction_factor }
}

/** The `config` of adapter_config.json, every field, as the library writes it. */
export function configJson(config: AdapterConfig): { [key: string]: PyJson } {
  if (config.architecture === 'union')
    return { architecture: 'union', configs: config.configs.map(configJson) }
  // A bottleneck has no architecture in a file.
  const entries = Object.entries(config).filter(([key, value]) => key !== 'architecture' || value !== null)
  return Object.fromEntries(entries.map(([key, value]) => [key, valueJson(key, value as PyJson)]))
}

/** Marks a number that must stay a float. */
export function valueJson(field: string, value: PyJson): PyJson {
  return typeof value === 'number' && floats.has(field) ? new PyFloat(value) : value
}

/**
 * The configuration as it leaves the page, without what acts before or in training alone and would keep the library from
 * loading it: stochastic depth asks for torchvision, and a prompt's first text for a tokenizer that its model does not
 * name.
 */
export function exportedConfig(config: AdapterConfig): AdapterConfig {
  switch (config.architecture) {
    case 'union':
      return { ...config, configs: config.configs.map(exportedConfig) }
    case 'prompt_tuning':
      return { ...config, prompt_init: 'random_uniform', prompt_init_text: null }
    case null:
      return { ...config, stochastic_depth: 0 }
    default:
      return config
  }
}
