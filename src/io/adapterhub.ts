/**
 * Adapter folders of the `adapters` library (1.3.0; the format is that of 1.1 and later): adapter_config.json and
 * head_config.json as the library prints them, weights as `.bin`, which load_adapter reads by default, and as
 * safetensors. Reading takes what the library's own loader takes for the methods we have, and refuses the rest by name.
 */
import { trainingDefaults } from '../config.ts'
import type { AdapterBundle, AdapterConfig, HeadConfig, TensorMap } from '../config.ts'
import { adapterName, checkBundle, expectedShapes, sizesOf } from './adapterKeys.ts'
import { readAdapterConfig, readHeadConfig } from './adapterConfig.ts'
import { PyFloat, parseObject, pythonJson, type PyJson } from './json.ts'
import { readSafetensors, writeSafetensors } from './safetensors.ts'
import { readTorchBin, writeTorchBin } from './torchBin.ts'

/** File contents by name within one folder. */
export type FileMap = Map<string, Uint8Array<ArrayBuffer>>

/** An adapter read from files, and sentences about what the files did not say. */
export interface ReadAdapter {
  bundle: AdapterBundle
  notes: string[]
}

const version = 'adapters.1.3.0'

/** The folder that `model.load_adapter(path)` reads; for a head alone, the one that `model.load_head(path)` reads. */
export function toAdapterHub(bundle: AdapterBundle): FileMap {
  checkBundle(bundle)
  const { name, adapter, head } = bundle
  const model: { [key: string]: PyJson } = {
    hidden_size: sizesOf(bundle).hidden_size,
    model_class: 'RobertaAdapterModel',
    model_name: bundle.base?.name ?? null,
    model_type: 'roberta',
    name,
    version,
  }
  const text = (value: PyJson) => new TextEncoder().encode(pythonJson(value))
  const files: FileMap = new Map()
  const [adapterTensors, headTensors] = splitTensors(bundle)
  if (adapter.method !== 'head') {
    files.set('adapter_config.json', text({ ...model, config: libraryConfig(adapter) }))
    files.set('pytorch_adapter.bin', writeTorchBin(adapterTensors))
    files.set('adapter.safetensors', writeSafetensors(adapterTensors))
  }
  files.set('head_config.json', text({ ...model, config: libraryHead(head, bundle.id2label) }))
  files.set('pytorch_model_head.bin', writeTorchBin(headTensors))
  return files.set('model_head.safetensors', writeSafetensors(headTensors))
}

/** Adapter tensors and head tensors, each in the library's order. */
function splitTensors(bundle: AdapterBundle): [TensorMap, TensorMap] {
  const adapter: TensorMap = new Map()
  const head: TensorMap = new Map()
  for (const key of expectedShapes(bundle.adapter, bundle.head, bundle.name, sizesOf(bundle)).keys())
    (key.startsWith('heads.') ? head : adapter).set(key, bundle.tensors.get(key)!)
  return [adapter, head]
}

/** Every field of the library's `SeqBnConfig` or `LoRAConfig`, as it writes them. */
function libraryConfig(adapter: Exclude<AdapterConfig, { method: 'head' }>): { [key: string]: PyJson } {
  const shared = {
    dropout: new PyFloat(adapter.dropout),
    init_weights_seed: null,
    leave_out: adapter.leave_out,
    use_gating: false,
  }
  if (adapter.method === 'lora')
    return {
      ...shared,
      alpha: adapter.alpha,
      architecture: 'lora',
      attn_matrices: adapter.attn_matrices,
      composition_mode: 'add',
      dtype: null,
      init_weights: 'lora',
      intermediate_lora: adapter.intermediate_lora,
      output_lora: adapter.output_lora,
      r: adapter.r,
      selfattn_lora: adapter.selfattn_lora,
      use_dora: false,
      vera_b: null,
      vera_d: null,
    }
  return {
    ...shared,
    adapter_residual_before_ln: false,
    cross_adapter: false,
    factorized_phm_W: true,
    factorized_phm_rule: false,
    hypercomplex_nonlinearity: 'glorot-uniform',
    init_weights: 'bert',
    inv_adapter: null,
    inv_adapter_reduction_factor: null,
    is_parallel: false,
    learn_phm: true,
    ln_after: false,
    ln_before: false,
    mh_adapter: false,
    non_linearity: 'relu',
    original_ln_after: true,
    original_ln_before: true,
    output_adapter: true,
    phm_bias: true,
    phm_c_init: 'normal',
    phm_dim: 4,
    phm_init_range: 0.0001,
    phm_layer: false,
    phm_rank: 1,
    reduction_factor: adapter.reduction_factor,
    residual_before_ln: true,
    // The library tells a fixed scale from a learned one by its type: 1 instead of 1.0 is refused.
    scaling: new PyFloat(1),
    shared_W_phm: false,
    shared_phm_rule: true,
    stochastic_depth: new PyFloat(0),
  }
}

function libraryHead(head: HeadConfig, id2label: string[]): { [key: string]: PyJson } {
  const dropout_prob = head.dropout_prob === null ? null : new PyFloat(head.dropout_prob)
  return { ...head, dropout_prob, label2id: Object.fromEntries(id2label.map((label, id) => [label, id])) }
}

/**
 * Reads the files of one folder, whichever of `.bin` and safetensors it has (`.bin` first, as the library). The result
 * has our canonical keys and order, float32, no base identity and the default max_length, neither of which the format
 * records. Throws one sentence for what is missing, damaged or not supported.
 */
export async function fromAdapterHub(files: FileMap): Promise<ReadAdapter> {
  const notes: string[] = []
  const config = jsonFile(files, 'adapter_config.json')
  const headConfig = jsonFile(files, 'head_config.json')
  if (!headConfig)
    throw new Error(
      'The folder has no head_config.json: an adapter without its prediction head cannot classify; in Python, save_adapter keeps both.',
    )
  const adapter = config ? readAdapterConfig(config, notes) : ({ method: 'head' } as const)
  const ownName = nameOf(config ?? headConfig)
  const name = adapterName(ownName)
  if (name !== ownName) notes.push(`The adapter “${ownName}” is called “${name}” here.`)
  const { head, id2label } = readHeadConfig(headConfig, notes)
  const tensors: TensorMap = new Map()
  if (config) {
    const weights = await readWeights(files, 'pytorch_adapter.bin', 'adapter.safetensors')
    for (const [key, tensor] of weights) tensors.set(adapterKey(key, ownName, name), tensor)
  }
  const headName = typeof headConfig.name === 'string' ? headConfig.name : ownName
  const headWeights = await readWeights(files, 'pytorch_model_head.bin', 'model_head.safetensors')
  for (const [key, tensor] of headWeights) {
    const renamed = headKey(key, headName, name)
    if (renamed !== null) tensors.set(renamed, tensor)
  }
  const bundle = {
    name,
    adapter,
    head,
    id2label,
    tensors,
    base: null,
    max_length: trainingDefaults.max_length,
  }
  checkBundle(bundle)
  return { bundle: { ...bundle, tensors: new Map(splitTensors(bundle).flatMap((part) => [...part])) }, notes }
}

function jsonFile(files: FileMap, name: string): Record<string, unknown> | null {
  const bytes = files.get(name)
  return bytes ? parseObject(new TextDecoder().decode(bytes), name) : null
}

function nameOf({ name }: Record<string, unknown>): string {
  if (name === null || name === undefined) return 'adapter'
  if (typeof name !== 'string' || name === '') throw new Error('The name in adapter_config.json is no text.')
  return name
}

async function readWeights(files: FileMap, bin: string, safetensors: string): Promise<TensorMap> {
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

/** Our key for an adapter tensor of the file: with `roberta.`, without names of before 2023, under our name. */
function adapterKey(key: string, from: string, to: string): string {
  const current = key
    .replace(/(attention|layer)_text_(task|lang)_adapters/, 'adapters')
    .replace(/^(?!roberta\.|heads\.)/, 'roberta.')
  return current.replace(`.adapters.${from}.`, `.adapters.${to}.`).replace(`.loras.${from}.`, `.loras.${to}.`)
}

/** Our key for a head tensor, also of a static `RobertaForSequenceClassification`; null for another head's. */
function headKey(key: string, from: string, to: string): string | null {
  const fixed = /^classifier\.(dense|out_proj)\.(weight|bias)$/.exec(key)
  if (fixed) return `heads.${to}.${fixed[1] === 'dense' ? 1 : 4}.${fixed[2]}`
  if (!key.startsWith('heads.')) return key
  return key.startsWith(`heads.${from}.`) ? `heads.${to}.${key.slice(`heads.${from}.`.length)}` : null
}
