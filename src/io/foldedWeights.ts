/**
 * A base model's weights with an adapter folded into them: LoRA (W + s·BA), DoRA and (IA)³ (rows of W and of the bias
 * scaled alike, so that the result is exact, which the library's own merge of (IA)³ and DoRA is not), and the weights
 * that full or bias-only training replaced. Tensors are read one by one.
 */
import type {
  AdapterBundle,
  AdapterConfig,
  ClassificationHeadConfig,
  HostTensor,
  LoRAConfig,
  RobertaConfig,
} from '../config.ts'
import { baseParameters } from '../methods/comparison.ts'
import { loraPlaces } from '../methods/lora.ts'
import { mergeLinear, type LinearWeights } from '../methods/merge.ts'
import { childConfigs } from '../methods/union.ts'

/** A file of tensors that are read on demand as float32, whatever their dtype is there. */
export interface WeightReader {
  names(): string[]
  shape(name: string): number[]
  read(name: string): Promise<Float32Array>
}

/** The base model that an export stands on. */
export interface BaseModel {
  config: RobertaConfig
  /** config.json as the base has it. */
  config_json: string
  /** tokenizer.json and tokenizer_config.json, as text. */
  tokenizer: string
  tokenizer_config: string | null
  weights: WeightReader
}

/** Weights by their key in a RoBERTa checkpoint, `roberta.…`. */
export interface FoldedWeights {
  /** Key and shape of every weight of RobertaModel without its pooler. */
  shapes: Map<string, number[]>
  /** A weight with all that is folded into it; not to be written to. */
  read(key: string): Promise<Float32Array<ArrayBuffer>>
  /** A further tensor of the base's file, such as `roberta.pooler.dense.weight`; null when it has none. */
  extra(key: string): Promise<{ shape: number[]; data: Float32Array<ArrayBuffer> } | null>
}

type Values = Float32Array<ArrayBuffer>

const architectures: Record<string, string> = {
  prefix_tuning: 'Prefix tuning',
  prompt_tuning: 'Prompt tuning',
  reft: 'ReFT',
}

/** Why an adapter cannot become part of the model's own weights, in a sentence; null when it can. */
export function foldProblem(config: AdapterConfig): string | null {
  const other = childConfigs(config).find((child) => !isFolded(child))
  if (!other) return null
  const ways = 'export the adapter folder, or an ONNX file, which holds the adapter as it is'
  if (other.architecture === 'lora')
    return `A gate looks at every text anew, so this gated LoRA cannot be folded into fixed weights: ${ways}.`
  const what =
    other.architecture === null
      ? 'A bottleneck adapter'
      : (architectures[other.architecture] ?? 'This method')
  return `${what} adds computation that RobertaForSequenceClassification does not have, so it cannot be folded into its weights: ${ways}.`
}

/** Whether a configuration (no union) changes nothing but the model's own weights. */
export function isFolded(config: AdapterConfig): boolean {
  if (config.architecture === 'lora') return !config.use_gating
  return config.architecture === 'head' || config.architecture === 'bitfit' || config.architecture === 'full'
}

/** The head of a text classifier. Throws when the bundle has none or another kind. */
export function classifierHead({ name, head }: AdapterBundle): ClassificationHeadConfig {
  if (head === null)
    throw new Error(
      `“${name}” has no head, so it gives no classes; add or train a classification head and export again.`,
    )
  if (head.head_type === 'masked_lm')
    throw new Error('A masked-LM head guesses words and gives no classes; export the adapter folder instead.')
  return head
}

/** The values of an adapter's tensor. Throws when the bundle has none or it has another size. */
export function adapterTensor({ tensors, name }: AdapterBundle, key: string, size: number): Float32Array {
  const tensor = tensors.get(key)
  if (!tensor) throw new Error(`The adapter “${name}” has no tensor ${key}; it cannot be exported.`)
  if (tensor.data.length !== size)
    throw new Error(
      `The tensor ${key} is [${tensor.shape}], which is not the ${size} values that it must have.`,
    )
  return tensor.data
}

/**
 * The base's weights with everything of the adapter that can be folded; what cannot be is left out (see foldProblem), as
 * is what stands in `skip_layers`.
 * Throws when the file lacks a tensor or has one of another shape.
 */
export function foldedWeights(
  base: RobertaConfig,
  file: WeightReader,
  bundle: AdapterBundle,
  skip_layers: number[] = [],
): FoldedWeights {
  const names = standardNames(file.names())
  const shapes = new Map(baseParameters(base).map(({ key, shape }) => [key, shape]))
  for (const [key, shape] of shapes) {
    const name = names.get(key)
    if (name === undefined) throw new Error(`The base model's weights have no tensor ${key}.`)
    if (file.shape(name).join() !== shape.join())
      throw new Error(`The base model's tensor ${key} is [${file.shape(name)}] instead of [${shape}].`)
  }
  const own = async (key: string): Promise<Values> => {
    const trained = bundle.tensors.get(key)
    if (trained) return adapterTensor(bundle, key, size(shapes.get(key)!)) as Values
    return (await file.read(names.get(key)!)) as Values
  }
  const updates = loraUpdates(base, bundle, skip_layers, true)
  const read = async (key: string): Promise<Values> => {
    const [, path = '', part] = /^(.+)\.(weight|bias)$/.exec(key) ?? []
    const update = updates.get(path)
    const isUntouched =
      part === 'bias' && update?.config.composition_mode === 'add' && !update.config.use_dora
    if (!update || isUntouched) return own(key)
    const [weight, bias] = [await own(`${path}.weight`), await own(`${path}.bias`)]
    const merged = merge(bundle, update, weight, bias)
    return merged[part === 'bias' ? 'bias' : 'weight'].data as Values
  }
  const extra = async (key: string) => {
    const name = names.get(key)
    return name === undefined
      ? null
      : { shape: file.shape(name), data: Float32Array.from(await file.read(name)) }
  }
  return { shapes, read, extra }
}

/** A LoRA, DoRA or (IA)³ at one linear layer. */
export interface LoRAUpdate {
  config: LoRAConfig
  /** Key of its tensors, without `.lora_A`. */
  path: string
  inputs: number
  outputs: number
}

/** Those of the adapter that can be folded, or those that cannot, by the key of their linear layer. */
export function loraUpdates(
  base: RobertaConfig,
  { adapter, name }: AdapterBundle,
  skip_layers: number[],
  folded: boolean,
): Map<string, LoRAUpdate> {
  const found = new Map<string, LoRAUpdate>()
  for (const config of childConfigs(adapter)) {
    if (config.architecture !== 'lora' || isFolded(config) !== folded) continue
    for (const { layer, base: key, ...place } of loraPlaces(base, config, name))
      if (!skip_layers.includes(layer)) found.set(key, { config, ...place })
  }
  return found
}

/** A linear layer's weight [out,in] and bias [out] with a LoRA, DoRA or (IA)³ in them, gates aside. */
export function merge(
  bundle: AdapterBundle,
  { config, path, inputs, outputs }: LoRAUpdate,
  weight: Values,
  bias: Values,
): LinearWeights {
  const own = (name: string, shape: [number, number]): HostTensor => ({
    shape,
    data: adapterTensor(bundle, `${path}.${name}`, shape[0] * shape[1]),
  })
  const part = {
    lora_A: config.composition_mode === 'add' ? own('lora_A', [config.r, inputs]) : null,
    lora_B: own('lora_B', [outputs, config.r]),
    m: config.use_dora ? own('m.weight', [outputs, 1]) : null,
  }
  const frozen = {
    weight: { shape: [outputs, inputs], data: weight },
    bias: { shape: [outputs], data: bias },
  }
  return mergeLinear(frozen, config, part, 'exact')
}

/** Key in a RoBERTa checkpoint -> name in this file, which may lack the prefix or have TensorFlow's gamma and beta. */
function standardNames(names: string[]): Map<string, string> {
  return new Map(
    names.map((name) => {
      const renamed = name
        .replace(/LayerNorm\.gamma$/, 'LayerNorm.weight')
        .replace(/LayerNorm\.beta$/, 'LayerNorm.bias')
      return [/^(embeddings|encoder|pooler)\./.test(renamed) ? `roberta.${renamed}` : renamed, name]
    }),
  )
}

function size(shape: number[]): number {
  return shape.reduce((product, dim) => product * dim, 1)
}
