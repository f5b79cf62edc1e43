/**
 * The tensors that a configuration calls for, by the `adapters` library's names. The library never complains about a
 * missing or misspelt key, it leaves random weights there; so every file is compared with this list, on the way out and
 * on the way in.
 */
import type {
  AdapterBundle,
  AdapterConfig,
  BaseIdentity,
  FusionConfig,
  HeadConfig,
  RobertaConfig,
  TensorMap,
} from '../config.ts'
import { fusionParameters } from '../methods/fusion.ts'
import { childConfigs, configProblems, parametersOf } from '../methods/registry.ts'
import { decoderKey, headShapes } from './headConfig.ts'
import { nearest } from './nearest.ts'

/** Sizes of a model as far as an adapter shows them. */
export interface ModelSizes {
  hidden_size: number
  num_hidden_layers: number
  /** null where no tensor depends on it. */
  intermediate_size: number | null
  vocab_size: number | null
  max_position_embeddings: number | null
  type_vocab_size: number | null
}

/** What the shapes of tensors tell: key, and the axis along which it has this size. */
const traces: [keyof ModelSizes, RegExp, number][] = [
  ['hidden_size', /^heads\.[^.]+\.\d+\.weight$/, 1],
  ['hidden_size', /\.adapter_up\.(?:weight|b)$/, 0],
  ['hidden_size', /\.attention\.self\.\w+\.loras\.[^.]+\.(?:lora_B|m\.weight)$/, 0],
  ['hidden_size', /\.output\.dense\.loras\.[^.]+\.lora_B$/, 0],
  ['hidden_size', /\.intermediate\.dense\.loras\.[^.]+\.lora_A$/, 1],
  ['hidden_size', /\.(?:learned_source|prompt_embedding|wte|query|word_embeddings)\.weight$/, 1],
  ['intermediate_size', /\.intermediate\.dense\.loras\.[^.]+\.(?:lora_B|m\.weight)$/, 0],
  ['intermediate_size', /\.output\.dense\.loras\.[^.]+\.lora_A$/, 1],
  ['intermediate_size', /\.intermediate\.dense\.bias$/, 0],
  ['vocab_size', /^heads\.[^.]+\.3\.bias$/, 0],
  ['vocab_size', /\.word_embeddings\.weight$/, 0],
  ['max_position_embeddings', /\.position_embeddings\.weight$/, 0],
  ['type_vocab_size', /\.token_type_embeddings\.weight$/, 0],
]

/** Model sizes as the base names them, or else as the tensors and the file show them. */
export function sizesOf(
  bundle: Pick<AdapterBundle, 'adapter' | 'head' | 'tensors' | 'base' | 'hidden_size'>,
): ModelSizes {
  const { adapter, head, tensors, base } = bundle
  const shown = new Map<keyof ModelSizes, number>()
  let layers = Math.max(0, ...childConfigs(adapter).map(layersIn))
  for (const [key, { shape }] of tensors) {
    const layer = /encoder\.layer\.(\d+)\./.exec(key)?.[1]
    if (layer !== undefined) layers = Math.max(layers, Number(layer) + 1)
    for (const [size, pattern, axis] of traces) {
      const known = shape[axis]
      // Of a head alone only matrices tell the width, and of a masked-LM head only the decoder's bias the words.
      if (known === undefined || shown.has(size) || !pattern.test(key)) continue
      if (size === 'vocab_size' && key.startsWith('heads.') && head?.head_type !== 'masked_lm') continue
      shown.set(size, known)
    }
  }
  const hidden_size = base?.hidden_size ?? bundle.hidden_size ?? shown.get('hidden_size') ?? 0
  return {
    hidden_size,
    num_hidden_layers:
      base?.num_hidden_layers ?? Math.max(layers, prefixedLayers(adapter, tensors, hidden_size)),
    intermediate_size: shown.get('intermediate_size') ?? null,
    vocab_size: base?.vocab_size ?? shown.get('vocab_size') ?? null,
    max_position_embeddings: shown.get('max_position_embeddings') ?? null,
    type_vocab_size: shown.get('type_vocab_size') ?? null,
  }
}

/** How many layers a configuration speaks of. */
function layersIn(config: AdapterConfig): number {
  if (config.architecture === 'reft')
    return config.layers === 'all' ? 0 : Math.max(0, ...config.layers.map((l) => l + 1))
  return 'leave_out' in config ? Math.max(0, ...config.leave_out.map((l) => l + 1)) : 0
}

/** Layers that a prefix was made for: it holds a key and a value for each, all in one tensor. */
function prefixedLayers(adapter: AdapterConfig, tensors: TensorMap, H: number): number {
  const prefix = childConfigs(adapter).find(({ architecture }) => architecture === 'prefix_tuning')
  if (prefix?.architecture !== 'prefix_tuning' || H === 0) return 0
  const end = prefix.flat ? '.self_prefix.control_trans' : '.self_prefix.control_trans.2.bias'
  const values = [...tensors].find(([key]) => key.endsWith(end))?.[1].data.length ?? 0
  return Math.floor(values / (2 * H * (prefix.flat ? prefix.prefix_length : 1))) + prefix.leave_out.length
}

/** A base of these sizes, as far as the shapes of parameters depend on it. */
export function baseOf(sizes: ModelSizes): RobertaConfig {
  return {
    model_type: 'roberta',
    vocab_size: sizes.vocab_size ?? 0,
    hidden_size: sizes.hidden_size,
    num_hidden_layers: sizes.num_hidden_layers,
    num_attention_heads: 1,
    intermediate_size: sizes.intermediate_size ?? 0,
    hidden_act: 'gelu',
    hidden_dropout_prob: 0.1,
    attention_probs_dropout_prob: 0.1,
    classifier_dropout: null,
    max_position_embeddings: sizes.max_position_embeddings ?? 0,
    type_vocab_size: sizes.type_vocab_size ?? 0,
    layer_norm_eps: 1e-5,
    initializer_range: 0.02,
    pad_token_id: 1,
    bos_token_id: 0,
    eos_token_id: 2,
  }
}

/** Key and shape of every tensor of the adapter and then its head, in the library's order. */
export function expectedShapes(
  adapter: AdapterConfig,
  head: HeadConfig | null,
  name: string,
  sizes: ModelSizes,
): Map<string, number[]> {
  const shapes = parametersOf(baseOf(sizes), adapter, name).map(({ key, shape }): [string, number[]] => [
    key,
    shape,
  ])
  return new Map([...shapes, ...(head ? headShapes(head, name, sizes.hidden_size) : [])])
}

/** Key and shape of every tensor of the fusion `name` of adapters with these configurations. */
export function expectedFusion(
  fusion: FusionConfig,
  members: AdapterConfig[],
  name: string,
  sizes: ModelSizes,
): Map<string, number[]> {
  const parameters = fusionParameters(baseOf(sizes), members, name, fusion)
  return new Map(parameters.map(({ key, shape }) => [key, shape]))
}

export function shapesOf(tensors: TensorMap): Map<string, number[]> {
  return new Map([...tensors].map(([key, { shape }]) => [key, shape]))
}

/** Throws one sentence that names what is missing, misspelt, unexpected or misshapen. */
export function compareShapes(
  expected: Map<string, number[]>,
  found: Map<string, number[]>,
  what: string,
): void {
  const missing = [...expected.keys()].filter((key) => !found.has(key))
  const extra = [...found.keys()].filter((key) => !expected.has(key))
  const misshapen = [...expected].filter(
    ([key, shape]) => found.has(key) && found.get(key)!.join() !== shape.join(),
  )
  const faults: string[] = []
  if (missing.length > 0) faults.push(`${some(missing)} missing`)
  const meant = extra[0] === undefined ? null : nearest(extra[0], missing)
  if (extra.length > 0)
    faults.push(`${some(extra)} not expected${meant === null ? '' : ` (${meant} misspelt?)`}`)
  if (misshapen.length > 0) {
    const [key, shape] = misshapen[0]!
    const others = misshapen.length > 1 ? ` (and ${misshapen.length - 1} more misshapen)` : ''
    faults.push(`${key} is [${found.get(key)}] instead of [${shape}]${others}`)
  }
  if (faults.length > 0) throw new Error(`${what} does not fit its configuration: ${faults.join('; ')}.`)
}

/** Throws unless name, configuration, labels and tensors are exactly what belongs together. */
export function checkBundle(bundle: AdapterBundle): void {
  const { name, adapter, head, id2label } = bundle
  checkName(name)
  const [problem] = configProblems(adapter, null)
  if (problem !== undefined) throw new Error(problem)
  checkLabels(head, id2label)
  compareShapes(expectedOf(bundle, sizesOf(bundle)), shapesOf(bundle.tensors), `The adapter “${name}”`)
}

/** Throws for a name that cannot stand in a key, a file and Python. */
export function checkName(name: string): void {
  if (adapterName(name) !== name)
    throw new Error(`An adapter cannot be named ${JSON.stringify(name)}: use letters, digits, - and _ only.`)
}

/** Throws unless every class of a head has a label of its own. */
export function checkLabels(head: HeadConfig | null, id2label: string[]): void {
  const classes = head === null || head.head_type === 'masked_lm' ? 0 : head.num_labels
  if (id2label.length !== classes || new Set(id2label).size !== id2label.length)
    throw new Error(`The head has ${classes} classes, but the labels are ${id2label.join(', ') || 'none'}.`)
}

/** The expected tensors, with a masked-LM head's decoder where the bundle has one. */
function expectedOf(
  { name, adapter, head, tensors }: AdapterBundle,
  sizes: ModelSizes,
): Map<string, number[]> {
  const shapes = expectedShapes(adapter, head, name, sizes)
  if (head?.head_type === 'masked_lm' && tensors.has(decoderKey(name)))
    shapes.set(decoderKey(name), [head.vocab_size, sizes.hidden_size])
  return shapes
}

/** The bundle's tensors in the library's order: the adapter's, and its head's. The bundle must be whole. */
export function splitTensors(bundle: AdapterBundle): { adapter: TensorMap; head: TensorMap } {
  const adapter: TensorMap = new Map()
  const head: TensorMap = new Map()
  for (const key of expectedOf(bundle, sizesOf(bundle)).keys())
    (key.startsWith('heads.') ? head : adapter).set(key, bundle.tensors.get(key)!)
  return { adapter, head }
}

/** The open model, as an adapter is held against it. */
export type OpenBase = BaseIdentity & { intermediate_size: number }

/** Throws when the adapter was made for another model than the one that is open. */
export function checkBase(bundle: AdapterBundle, open: OpenBase): void {
  const { name, base } = bundle
  const sizes = sizesOf(bundle)
  checkSizes(`The adapter “${name}”`, base, sizes, open)
  const found = shapesOf(bundle.tensors)
  const expected = expectedOf(bundle, { ...sizes, num_hidden_layers: open.num_hidden_layers })
  compareShapes(expected, found, `The adapter “${name}”`)
}

/** Throws when sizes or weights of the base that something was trained on are not those of the open model. */
export function checkSizes(what: string, base: BaseIdentity | null, sizes: ModelSizes, open: OpenBase): void {
  const numbers: [string, number | null, number][] = [
    ['hidden size', sizes.hidden_size || null, open.hidden_size],
    ['intermediate size', sizes.intermediate_size, open.intermediate_size],
    ['vocabulary size', sizes.vocab_size, open.vocab_size],
    ['number of layers', base === null ? null : sizes.num_hidden_layers, open.num_hidden_layers],
  ]
  const origin = base === null ? 'another model' : `“${base.name}”`
  for (const [size, theirs, ours] of numbers)
    if (theirs !== null && theirs !== ours)
      throw new Error(
        `${what} is for ${origin}: its ${size} is ${theirs} and the open model “${open.name}” has ${ours}; open the right model first.`,
      )
  if (base !== null && base.sha256 !== open.sha256)
    throw new Error(
      `${what} was trained on ${origin} with other weights than the open model “${open.name}” (SHA-256 ${base.sha256.slice(0, 12)}… and ${open.sha256.slice(0, 12)}…); open the right model first.`,
    )
  if (sizes.num_hidden_layers > open.num_hidden_layers)
    throw new Error(
      `${what} has ${sizes.num_hidden_layers} layers and the open model only ${open.num_hidden_layers}.`,
    )
}

/**
 * A name that can stand in a checkpoint key, a file name and Python: letters, digits, `-` and `_`. The library forbids
 * dots, reads commas as fusions, and spaces and slashes trouble file systems.
 */
export function adapterName(text: string): string {
  const plain = text.normalize('NFKD').replace(/\p{M}/gu, '')
  const name = plain.replace(/[^A-Za-z0-9_-]+/g, '-').replace(/^-+|-+$/g, '')
  return name.slice(0, 64) || 'adapter'
}

function some(keys: string[]): string {
  const first = keys.slice(0, 3).join(', ')
  return keys.length > 3
    ? `${first} and ${keys.length - 3} more are`
    : `${first} ${keys.length > 1 ? 'are' : 'is'}`
}
