/**
 * Reads PEFT folders (Hugging Face `peft`) of RoBERTa models: LoRA, and (IA)³ where it scales outputs. PEFT records
 * neither labels nor base hash nor name. What has no equal here is refused in a sentence.
 */
import { classificationHead } from '../config.ts'
import { trainingDefaults } from '../trainingArguments.ts'
import type { AdapterBundle, HostTensor, LoRAConfig, LoRAMatrix, TensorMap } from '../config.ts'
import { ia3, loraConfig } from '../methods/lora.ts'
import { adapterName, checkBundle, splitTensors } from './adapterKeys.ts'
import type { FileMap, ReadAdapter, ReadOptions } from './adapterhub.ts'
import { shown, type Fields } from './fields.ts'
import { parseObject } from './json.ts'
import { readSafetensors } from './safetensors.ts'
import { readTorchBin } from './torchBin.ts'

const prefix = 'base_model.model.'

/** Fields that change the function, with the values under which the method is what we compute. */
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
  arrow_config: [null],
  kasa_config: [null],
  monteclora_config: [null],
  velora_config: [null],
}

/** Why a PEFT method has no equal here. */
const unequal: Record<string, string> = {
  PREFIX_TUNING: 'it shifts the positions of the text',
  PROMPT_TUNING: 'it puts its prompts in front of the position embeddings',
  P_TUNING: 'it makes its prompts by a network of its own',
  VERA: 'its vectors scale random matrices that only PEFT draws',
}

/** Names of the task head in the models that PEFT wraps. */
const headPart = /^(?:classifier|score)\.(?:modules_to_save\.default\.)?(dense|out_proj)\.(weight|bias)$/

/**
 * The adapter of a PEFT folder, under the folder's name; `id2label` gives the labels where they are known. Throws one
 * sentence for what is missing or has no equal.
 */
export async function fromPeft(
  files: FileMap,
  folder: string,
  id2label: string[] | null,
  options: ReadOptions = {},
): Promise<ReadAdapter> {
  const notes: string[] = []
  const file = files.get('adapter_config.json')
  if (!file) throw new Error('The folder has no adapter_config.json, so it is no PEFT adapter.')
  const config = parseObject(new TextDecoder().decode(file), 'adapter_config.json')
  const with_head = config.task_type === 'SEQ_CLS' && options.with_head !== false
  checkPlain(config, options.with_head === false)
  const name = adapterName(folder)
  const tensors: TensorMap = new Map()
  for (const [key, tensor] of await readWeights(files)) {
    const ours = libraryKey(key, name)
    if (with_head || !ours.startsWith('heads.')) tensors.set(ours, tensor)
  }
  const out = tensors.get(`heads.${name}.4.weight`)
  if (with_head && !out)
    throw new Error(
      'The PEFT folder holds no classifier.out_proj, so it is no sequence classification adapter (SEQ_CLS) of RoBERTa.',
    )
  const labels = out ? labelsFor(out, id2label, notes) : []
  const bundle: AdapterBundle = {
    name,
    adapter: adapterOf(config, tensors, options.num_hidden_layers ?? null, name, notes),
    head: out ? classificationHead(labels.length) : null,
    id2label: labels,
    tensors,
    base: null,
    max_length: trainingDefaults.max_length,
  }
  checkBundle(bundle)
  const { adapter, head } = splitTensors(bundle)
  return { bundle: { ...bundle, tensors: new Map([...adapter, ...head]) }, notes }
}

function checkPlain(config: Fields, adapterAlone: boolean): void {
  const type = String(config.peft_type)
  if (type !== 'LORA' && type !== 'IA3') {
    const why = Object.hasOwn(unequal, type) ? `: ${unequal[type]}` : ''
    throw new Error(`The PEFT method ${shown(config.peft_type)} has no equal here${why}; LORA and IA3 have.`)
  }
  const task = config.task_type ?? null
  if (!adapterAlone && task !== null && task !== 'SEQ_CLS' && task !== 'FEATURE_EXTRACTION')
    throw new Error(
      `The PEFT task ${shown(task)} is not supported; SEQ_CLS is, and the adapter alone can be imported without its head.`,
    )
  for (const [field, values] of Object.entries(plainFields))
    if (field in config && !values.includes(config[field]))
      throw new Error(
        `The PEFT adapter has ${field}: ${shown(config[field])}, which has no equal here; only plain LoRA and IA3 have.`,
      )
  for (const field of ['rank_pattern', 'alpha_pattern'])
    if (Object.keys((config[field] as object | null | undefined) ?? {}).length > 0)
      throw new Error(
        `The PEFT adapter has a ${field}, which has no equal here; one r and one lora_alpha for all layers have.`,
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

/** The library's key for a PEFT key; one that is neither adapter nor classifier stays, and is refused as unexpected. */
function libraryKey(key: string, name: string): string {
  const path = key.startsWith(prefix) ? key.slice(prefix.length) : key
  const head = headPart.exec(path)
  if (head) return `heads.${name}.${head[1] === 'dense' ? 1 : 4}.${head[2]}`
  const lora = /^(?:roberta\.)?(encoder\.layer\..*)\.(lora_[AB])(?:\.default)?\.weight$/.exec(path)
  if (lora) return `roberta.${lora[1]}.loras.${name}.${lora[2]}`
  const scaled = /^(?:roberta\.)?(encoder\.layer\..*)\.ia3_l(?:\.default)?$/.exec(path)
  return scaled ? `roberta.${scaled[1]}.loras.${name}.lora_B` : key
}

function labelsFor({ shape }: HostTensor, id2label: string[] | null, notes: string[]): string[] {
  const C = shape[0] ?? 0
  if (id2label && id2label.length === C) return id2label
  if (id2label)
    throw new Error(`The label map names ${id2label.length} labels, but the classifier has ${C} outputs.`)
  notes.push('PEFT does not keep label names: they are called LABEL_0, LABEL_1 and so on.')
  return Array.from({ length: C }, (_, id) => `LABEL_${id}`)
}

/** What was wrapped is read from the tensors: target_modules may be a pattern, and a layer without tensors had none. */
function adapterOf(
  config: Fields,
  tensors: TensorMap,
  open: number | null,
  name: string,
  notes: string[],
): LoRAConfig {
  const sites = new Set<string>()
  const layers = new Set<number>()
  for (const [key, { shape }] of tensors) {
    const [, layer, site] = /encoder\.layer\.(\d+)\.(.*)\.loras\./.exec(key) ?? []
    if (layer === undefined || site === undefined) continue
    layers.add(Number(layer))
    sites.add(site)
    if (config.peft_type === 'IA3' && shape[1] !== 1)
      throw new Error(
        `The PEFT adapter scales the input of ${site} (feedforward_modules), which has no equal here; only (IA)³ on outputs has.`,
      )
  }
  if (layers.size === 0) throw new Error(`The PEFT folder holds no adapter tensors for “${name}”.`)
  const last = Math.max(open ?? 0, Math.max(...layers) + 1)
  const matrices: [LoRAMatrix, string][] = [['q', 'query'], ['k', 'key'], ['v', 'value']] // prettier-ignore
  const attn_matrices = matrices
    .filter(([, path]) => sites.has(`attention.self.${path}`))
    .map(([matrix]) => matrix)
  const places = {
    attn_matrices,
    selfattn_lora: attn_matrices.length > 0,
    intermediate_lora: sites.has('intermediate.dense'),
    output_lora: sites.has('output.dense'),
    leave_out: Array.from({ length: last }, (_, l) => l).filter((l) => !layers.has(l)),
  }
  return config.peft_type === 'IA3'
    ? { ...ia3, ...places }
    : { ...loraConfig, ...scale(config, notes), ...places }
}

/** r, alpha and dropout; alpha/√r of rsLoRA is alpha·√r divided by r. */
function scale(config: Fields, notes: string[]): Pick<LoRAConfig, 'r' | 'alpha' | 'dropout'> {
  const { r = 8, lora_alpha = 8, lora_dropout = 0, use_rslora = false } = config
  if (typeof r !== 'number' || !Number.isInteger(r) || r < 1)
    throw new Error(`The PEFT rank r is ${shown(r)}; it must be a whole number from 1.`)
  if (typeof lora_alpha !== 'number' || !Number.isFinite(lora_alpha) || typeof lora_dropout !== 'number')
    throw new Error('The PEFT lora_alpha and lora_dropout must be numbers.')
  if (!use_rslora) return { r, alpha: lora_alpha, dropout: lora_dropout }
  const alpha = lora_alpha * Math.sqrt(r)
  notes.push(`The adapter scales by alpha/√r (rsLoRA): the same as alpha ${alpha} here.`)
  return { r, alpha, dropout: lora_dropout }
}
