/**
 * Adapter folders of the `adapters` library (1.3.0; the format is that of 1.1 and later): adapter_config.json and
 * head_config.json as the library prints them, weights as `.bin`, which load_adapter reads by default, and as
 * safetensors. Reading takes what the library's own loader takes for the methods we have, and refuses the rest by name.
 */
import { trainingDefaults } from '../trainingArguments.ts'
import type { AdapterBundle, AdapterConfig, HeadConfig, TensorMap } from '../config.ts'
import { configJson, exportedConfig, libraryVersion, readAdapterConfig } from './adapterConfig.ts'
import { adapterName, checkBundle, sizesOf, splitTensors } from './adapterKeys.ts'
import { addOnce, canonicalName, withAliases } from './aliases.ts'
import type { Fields } from './fields.ts'
import { decoderKey, headJson, readHeadConfig } from './headConfig.ts'
import { parseObject, pythonJson, type PyJson } from './json.ts'
import { readSafetensors, writeSafetensors } from './safetensors.ts'
import { readTorchBin, writeTorchBin } from './torchBin.ts'

/** File contents by name within one folder. */
export type FileMap = Map<string, Uint8Array<ArrayBuffer>>

/** An adapter read from files, and sentences about what the files did not say. */
export interface ReadAdapter {
  bundle: AdapterBundle
  notes: string[]
}

/** How a folder is read. */
export interface ReadOptions {
  /** false: leave the prediction head, as `load_adapter(path, with_head=False)`. */
  with_head?: boolean
  /** Layers of the open model, where the files need not tell. */
  num_hidden_layers?: number
}

/** Names of the files of an adapter, a head and a fusion: configuration, torch weights, safetensors. */
export const fileNames = {
  adapter: ['adapter_config.json', 'pytorch_adapter.bin', 'adapter.safetensors'],
  head: ['head_config.json', 'pytorch_model_head.bin', 'model_head.safetensors'],
  fusion: [
    'adapter_fusion_config.json',
    'pytorch_model_adapter_fusion.bin',
    'model_adapter_fusion.safetensors',
  ],
} as const
type Content = keyof typeof fileNames

/** What a configuration file says of the model. */
export interface ModelFacts {
  hidden_size: number
  model_name: string | null
}

/** One configuration with its weights in both formats; `aliased` also has the library's other names. */
export function contentFiles(
  content: Content,
  facts: ModelFacts & { name: string; [field: string]: PyJson },
  tensors: TensorMap,
  aliased = tensors,
): FileMap {
  const [json, bin, safetensors] = fileNames[content]
  const fields = {
    ...facts,
    model_class: 'RobertaAdapterModel',
    model_type: 'roberta',
    version: libraryVersion,
  }
  return new Map([
    [json, new TextEncoder().encode(pythonJson(fields))],
    [bin, writeTorchBin(aliased)],
    [safetensors, writeSafetensors(tensors)],
  ])
}

/** The files of one adapter. */
export function adapterFiles(
  name: string,
  config: AdapterConfig,
  tensors: TensorMap,
  facts: ModelFacts,
  layers: number,
): FileMap {
  const json = configJson(exportedConfig(config))
  return contentFiles('adapter', { ...facts, name, config: json }, tensors, withAliases(tensors, layers))
}

/** The files of one head. */
export function headFiles(
  name: string,
  head: HeadConfig,
  id2label: string[],
  tensors: TensorMap,
  facts: ModelFacts,
): FileMap {
  return contentFiles('head', { ...facts, name, config: headJson(head, id2label) }, tensors)
}

/**
 * The folder that `model.load_adapter(path)` reads; for a head alone, the one that `model.load_head(path)` reads. Throws
 * for a bundle that is not whole, and for a model trained itself, which is no adapter.
 */
export function toAdapterHub(bundle: AdapterBundle): FileMap {
  checkBundle(bundle)
  const { name, adapter, head, id2label } = bundle
  if (adapter.architecture === 'bitfit' || adapter.architecture === 'full')
    throw new Error(`“${name}” changed the model's own weights, so it is no adapter; export the full model.`)
  const sizes = sizesOf(bundle)
  const facts = { hidden_size: sizes.hidden_size, model_name: bundle.base?.name ?? null }
  const tensors = splitTensors(bundle)
  return new Map([
    ...(adapter.architecture === 'head'
      ? []
      : adapterFiles(name, adapter, tensors.adapter, facts, sizes.num_hidden_layers)),
    ...(head ? headFiles(name, head, id2label, tensors.head, facts) : []),
  ])
}

/**
 * Reads the files of one folder, whichever of `.bin` and safetensors it has (`.bin` first, as the library). The result
 * has our canonical keys and order, float32, no base identity and the default max_length, neither of which the format
 * records. Throws one sentence for what is missing, damaged or not supported.
 */
export async function fromAdapterHub(files: FileMap, options: ReadOptions = {}): Promise<ReadAdapter> {
  const notes: string[] = []
  const file = jsonFile(files, fileNames.adapter[0])
  const own = file ?? jsonFile(files, fileNames.head[0])
  if (!own) throw new Error('The folder has neither adapter_config.json nor head_config.json.')
  const ownName = nameOf(own)
  const name = adapterName(ownName)
  if (name !== ownName) notes.push(`The adapter “${ownName}” is called “${name}” here.`)
  const adapter = file ? await readAdapter(files, name, notes) : null
  const head = options.with_head === false ? null : await readHead(files, name, notes)
  if (!adapter && !head) throw new Error('The folder holds a prediction head alone, and no adapter.')
  if (!head && options.with_head !== false)
    notes.push('The folder has no prediction head: give the adapter one before it can answer.')
  const { hidden_size } = own
  const bundle: AdapterBundle = {
    name,
    adapter: adapter?.config ?? { architecture: 'head' },
    head: head?.head ?? null,
    id2label: head?.id2label ?? [],
    tensors: new Map([...(adapter?.tensors ?? []), ...(head?.tensors ?? [])]),
    base: null,
    ...(Number.isInteger(hidden_size) && { hidden_size: Number(hidden_size) }),
    max_length: trainingDefaults.max_length,
  }
  checkBundle(bundle)
  const tensors = splitTensors(bundle)
  return { bundle: { ...bundle, tensors: new Map([...tensors.adapter, ...tensors.head]) }, notes }
}

/** Configuration and tensors of the folder's adapter, under `name`. */
export async function readAdapter(
  files: FileMap,
  name: string,
  notes: string[],
): Promise<{ config: AdapterConfig; tensors: TensorMap }> {
  const file = jsonFile(files, fileNames.adapter[0])!
  const config = readAdapterConfig(file, notes)
  const tensors = renamed(await readWeights(files, 'adapter'), (key) => adapterKey(key, nameOf(file), name))
  // Task adapters of before 2021 name invertible layers that they never had.
  const inverse = [...tensors.keys()].some((key) => key.startsWith('roberta.invertible_adapters.'))
  if (file.type !== 'text_task' || config.architecture !== null || inverse) return { config, tensors }
  return { config: { ...config, inv_adapter: null, inv_adapter_reduction_factor: null }, tensors }
}

/** The folder's head under `name`; null when it has none. */
export async function readHead(
  files: FileMap,
  name: string,
  notes: string[],
): Promise<{ head: HeadConfig; id2label: string[]; tensors: TensorMap } | null> {
  const file = jsonFile(files, fileNames.head[0])
  if (!file) return null
  const { head, id2label, rename } = readHeadConfig(file, notes)
  const tensors = renamed(await readWeights(files, 'head'), (key) => rename(key, name))
  if (head.head_type !== 'masked_lm') return { head, id2label, tensors }
  const words = tensors.get(`heads.${name}.3.bias`)?.shape[0] ?? 0
  const width =
    tensors.get(decoderKey(name))?.shape[1] ?? tensors.get(`heads.${name}.0.weight`)?.shape[1] ?? 0
  const { vocab_size, embedding_size } = head
  return {
    head: { ...head, vocab_size: vocab_size || words, embedding_size: embedding_size || width },
    id2label,
    tensors,
  }
}

/** Under our names: aliases once, and without what `rename` gives null for. */
export function renamed(tensors: TensorMap, rename: (key: string) => string | null): TensorMap {
  const ours = new Map(
    [...tensors].flatMap(([key, tensor]) => {
      const name = rename(key)
      return name === null ? [] : [[key, { name, tensor }] as const]
    }),
  )
  const names = new Set([...ours.values()].map(({ name }) => name))
  const result: TensorMap = new Map()
  for (const [key, { name, tensor }] of ours) addOnce(result, canonicalName(name, names), tensor, key)
  return result
}

export function jsonFile(files: FileMap, name: string): Fields | null {
  const bytes = files.get(name)
  return bytes ? parseObject(new TextDecoder().decode(bytes), name) : null
}

/** The name that a configuration file gives. */
export function nameOf({ name }: Fields): string {
  if (name === null || name === undefined) return 'adapter'
  if (typeof name !== 'string' || name === '')
    throw new Error('The name in the configuration file is no text.')
  return name
}

/** The tensors of a folder by the file's own keys. Throws one sentence with the file's name. */
export async function readWeights(files: FileMap, content: Content): Promise<TensorMap> {
  const [, bin, safetensors] = fileNames[content]
  const torch = files.get(bin)
  if (torch) return within(bin, () => readTorchBin(torch))
  const bytes = files.get(safetensors)
  if (!bytes)
    throw new Error(`The folder has neither ${bin} nor ${safetensors}, so there are no weights to read.`)
  return within(safetensors, () => readSafetensors(bytes))
}

/** Puts the file's name before what is wrong with it. */
async function within(name: string, read: () => TensorMap | Promise<TensorMap>): Promise<TensorMap> {
  try {
    return await read()
  } catch (cause) {
    throw new Error(`${name}: ${(cause as Error).message}`, { cause })
  }
}

/** Modules in which the library keeps tensors by adapter name. */
const modules =
  'adapters|invertible_adapters|prefix_tunings|prefix_gates|loras|refts|prompt_tunings|shared_parameters'

/** Our key for an adapter tensor of the file: with `roberta.`, without names of before 2023, under our name. */
function adapterKey(key: string, from: string, to: string): string {
  const current = key
    .replace(/(attention|layer)_text_(task|lang)_adapters/, 'adapters')
    .replace('invertible_lang_adapters', 'invertible_adapters')
    .replace(/^(?!roberta\.|heads\.)/, 'roberta.')
  const match = new RegExp(`\\.(?:${modules})\\.`).exec(current)
  if (!match) return current
  const start = match.index + match[0].length
  const rest = current.slice(start)
  return rest.startsWith(`${from}.`) ? current.slice(0, start) + to + rest.slice(from.length) : current
}
