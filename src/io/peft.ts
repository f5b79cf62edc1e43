/**
 * LoRA folders of Hugging Face's `peft` (0.21): adapter_config.json in the fields that old and new versions share, and
 * adapter_model.safetensors with PEFT's key names. LoRA and the two-layer tanh head mean the same in both libraries, so
 * the numbers are copied. A bottleneck has no PEFT form.
 */
import { classificationHead, trainingDefaults } from '../config.ts'
import type { HostTensor, LoRAConfig, LoRAMatrix, TensorMap } from '../config.ts'
import { adapterName, checkBundle, expectedShapes, loraPaths, sizesOf } from './adapterKeys.ts'
import type { FileMap, ReadAdapter } from './adapterhub.ts'
import type { AdapterBundle } from '../config.ts'
import { PyFloat, parseObject, pythonJson, type PyJson } from './json.ts'
import { readSafetensors, writeSafetensors } from './safetensors.ts'
import { readTorchBin } from './torchBin.ts'

const prefix = 'base_model.model.'

/** Fields that change the function, with the values under which LoRA is what we compute. */
const plainFields: Record<string, unknown[]> = {
  use_dora: [false],
  use_qalora: [false],
  use_bdlora: [null, false],
  lora_bias: [false],
  fan_in_fan_out: [false],
  bias: ['none'],
  layer_replication: [null],
  alora_invocation_tokens: [null],
  trainable_token_indices: [null],
  target_parameters: [null],
}

/** The folder that `PeftModel.from_pretrained(base, path)` reads. Throws for any method but LoRA. */
export function toPeft(bundle: AdapterBundle): FileMap {
  checkBundle(bundle)
  const { name, adapter } = bundle
  if (adapter.method !== 'lora')
    throw new Error(`PEFT has no form for the method ${adapter.method}; only LoRA has one.`)
  const config: { [key: string]: PyJson } = {
    base_model_name_or_path: bundle.base?.name ?? null,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    lora_alpha: adapter.alpha,
    lora_dropout: new PyFloat(adapter.dropout),
    modules_to_save: ['classifier'],
    peft_type: 'LORA',
    r: adapter.r,
    revision: null,
    target_modules: targetModules(adapter, sizesOf(bundle).num_hidden_layers),
    task_type: 'SEQ_CLS',
  }
  const tensors: TensorMap = new Map()
  for (const key of expectedShapes(adapter, bundle.head, name, sizesOf(bundle)).keys())
    tensors.set(prefix + peftKey(key, name), bundle.tensors.get(key)!)
  return new Map([
    ['adapter_config.json', new TextEncoder().encode(pythonJson(config))],
    ['adapter_model.safetensors', writeSafetensors(tensors, { format: 'pt' })],
  ])
}

/**
 * Names of attention matrices as a list; anything else as a full-match pattern, because the entry `output.dense` would
 * also match attention.output.dense.
 */
function targetModules(adapter: LoRAConfig, layers: number): PyJson {
  const paths = loraPaths(adapter)
  const left = adapter.leave_out.filter((l) => l < layers)
  if (paths.every((path) => path.startsWith('attention.self.')) && left.length === 0)
    return paths.map((path) => path.slice('attention.self.'.length))
  const kept = Array.from({ length: layers }, (_, l) => l).filter((l) => !left.includes(l))
  const layer = left.length === 0 ? '\\d+' : `(${kept.join('|')})`
  return `.*encoder\\.layer\\.${layer}\\.(${paths.map((path) => path.replaceAll('.', '\\.')).join('|')})`
}

function peftKey(key: string, name: string): string {
  if (key.startsWith('heads.'))
    return key
      .replace(`heads.${name}.1.`, 'classifier.dense.')
      .replace(`heads.${name}.4.`, 'classifier.out_proj.')
  return `${key.replace(`.loras.${name}.`, '.')}.weight`
}

/**
 * Reads a PEFT LoRA folder of a `RobertaForSequenceClassification`. PEFT records neither labels nor base hash nor name;
 * `id2label` gives the labels where they are known. Throws one sentence for what is missing or not plain LoRA.
 */
export async function fromPeft(
  files: FileMap,
  folder: string,
  id2label: string[] | null,
): Promise<ReadAdapter> {
  const notes: string[] = []
  const file = files.get('adapter_config.json')
  if (!file) throw new Error('The folder has no adapter_config.json, so it is no PEFT adapter.')
  const config = parseObject(new TextDecoder().decode(file), 'adapter_config.json')
  checkPlain(config)
  const name = adapterName(folder)
  const tensors: TensorMap = new Map()
  for (const [key, tensor] of await readWeights(files)) tensors.set(libraryKey(key, name), tensor)
  const out = tensors.get(`heads.${name}.4.weight`)
  if (!out)
    throw new Error(
      'The PEFT folder holds no classifier.out_proj, so it is no sequence classification adapter (SEQ_CLS).',
    )
  const labels = labelsFor(out, id2label, notes)
  const adapter = loraConfig(config, tensors, name, notes)
  const head = classificationHead(labels.length)
  const bundle: AdapterBundle = {
    name,
    adapter,
    head,
    id2label: labels,
    tensors,
    base: null,
    max_length: trainingDefaults.max_length,
  }
  checkBundle(bundle)
  const order = [...expectedShapes(adapter, head, name, sizesOf(bundle)).keys()]
  return { bundle: { ...bundle, tensors: new Map(order.map((key) => [key, tensors.get(key)!])) }, notes }
}

function checkPlain(config: Record<string, unknown>): void {
  if (config.peft_type !== 'LORA')
    throw new Error(`The PEFT method ${JSON.stringify(config.peft_type)} is not supported; LORA is.`)
  if (config.task_type !== 'SEQ_CLS')
    throw new Error(`The PEFT task ${JSON.stringify(config.task_type)} is not supported; SEQ_CLS is.`)
  for (const [field, values] of Object.entries(plainFields))
    if (field in config && !values.includes(config[field]))
      throw new Error(
        `The PEFT adapter has ${field}: ${JSON.stringify(config[field])}; only plain LoRA is supported.`,
      )
  for (const field of ['rank_pattern', 'alpha_pattern'])
    if (Object.keys((config[field] as object | null | undefined) ?? {}).length > 0)
      throw new Error(
        `The PEFT adapter has a ${field}; one r and one lora_alpha for all layers is supported.`,
      )
}

async function readWeights(files: FileMap): Promise<TensorMap> {
  const safetensors = files.get('adapter_model.safetensors')
  const bin = files.get('adapter_model.bin')
  if (!safetensors && !bin)
    throw new Error(
      'The PEFT folder has neither adapter_model.safetensors nor adapter_model.bin: there are no weights.',
    )
  try {
    return safetensors ? await readSafetensors(safetensors) : readTorchBin(bin!)
  } catch (cause) {
    throw new Error(`adapter_model.${safetensors ? 'safetensors' : 'bin'}: ${(cause as Error).message}`, {
      cause,
    })
  }
}

/** The library's key for a PEFT key; one that is neither LoRA nor classifier stays, and is refused as unexpected. */
function libraryKey(key: string, name: string): string {
  const path = key.startsWith(prefix) ? key.slice(prefix.length) : key
  const head = /^classifier\.(?:modules_to_save\.default\.)?(dense|out_proj)\.(weight|bias)$/.exec(path)
  if (head) return `heads.${name}.${head[1] === 'dense' ? 1 : 4}.${head[2]}`
  const lora = /^(?:roberta\.)?(encoder\.layer\..*)\.(lora_[AB])(?:\.default)?\.weight$/.exec(path)
  return lora ? `roberta.${lora[1]}.loras.${name}.${lora[2]}` : key
}

function labelsFor({ shape }: HostTensor, id2label: string[] | null, notes: string[]): string[] {
  const C = shape[0] ?? 0
  if (C < 2)
    throw new Error('The head has one output, which is a regression; only classification is supported.')
  if (id2label && id2label.length === C) return id2label
  if (id2label)
    throw new Error(`The label map names ${id2label.length} labels, but the classifier has ${C} outputs.`)
  notes.push('PEFT does not keep label names: they are called LABEL_0, LABEL_1 and so on.')
  return Array.from({ length: C }, (_, id) => `LABEL_${id}`)
}

/** What was wrapped is read from the tensors: target_modules may be a pattern, and a layer without tensors had none. */
function loraConfig(
  config: Record<string, unknown>,
  tensors: TensorMap,
  name: string,
  notes: string[],
): LoRAConfig {
  const { r = 8, lora_alpha = 8, lora_dropout = 0, use_rslora = false } = config
  if (typeof r !== 'number' || !Number.isInteger(r) || r < 1)
    throw new Error(`The PEFT rank r is ${JSON.stringify(r)}; it must be a whole number from 1.`)
  if (typeof lora_alpha !== 'number' || !Number.isFinite(lora_alpha) || typeof lora_dropout !== 'number')
    throw new Error('The PEFT lora_alpha and lora_dropout must be numbers.')
  const sites = new Set<string>()
  const layers = new Set<number>()
  for (const key of tensors.keys()) {
    const [, layer, site] = /encoder\.layer\.(\d+)\.(.*)\.loras\./.exec(key) ?? []
    if (layer === undefined || site === undefined) continue
    layers.add(Number(layer))
    sites.add(site)
  }
  if (layers.size === 0) throw new Error(`The PEFT folder holds no LoRA tensors for “${name}”.`)
  if (use_rslora)
    notes.push(
      `The adapter scales by alpha/√r (rsLoRA): the same as alpha ${lora_alpha * Math.sqrt(r)} here.`,
    )
  const matrices: [LoRAMatrix, string][] = [['q', 'query'], ['k', 'key'], ['v', 'value']] // prettier-ignore
  const attn_matrices = matrices
    .filter(([, path]) => sites.has(`attention.self.${path}`))
    .map(([matrix]) => matrix)
  return {
    method: 'lora',
    r,
    alpha: use_rslora ? lora_alpha * Math.sqrt(r) : lora_alpha,
    dropout: lora_dropout,
    attn_matrices,
    selfattn_lora: attn_matrices.length > 0,
    intermediate_lora: sites.has('intermediate.dense'),
    output_lora: sites.has('output.dense'),
    leave_out: Array.from({ length: Math.max(...layers) }, (_, l) => l).filter((l) => !layers.has(l)),
  }
}
