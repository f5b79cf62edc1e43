/**
 * How much memory a training step takes in the slow mode, worked out by formula before it runs: weights, what each
 * trained value costs, and the activations that the way down reads again, as the plain references on the host keep them.
 * Measured peaks lie within a quarter of it. On a GPU the step is done on paper instead (train/need.ts).
 */
import type { AdapterConfig, BnConfig, LoRAConfig, RobertaConfig } from '../config.ts'
import { fullModelCount } from './comparison.ts'
import { loraPlaces } from './lora.ts'
import { childConfigs, parametersOf } from './registry.ts'

export interface MemoryArguments {
  /** Texts in one pass, and the longest one's tokens. */
  batch: number
  tokens: number
  /** Values of the heads, which train too. */
  head_parameters: number
  /** Whether the base model's own dropout is on. */
  base_dropout: boolean
}

/** Bytes on the device. */
export interface MemoryEstimate {
  /** The base model, which stays whatever trains. */
  weights: number
  /** Trained values, their copies by key, gradients and both moments. */
  trained: number
  /** What the way up keeps for the way down, and the largest layer's scratch. */
  activations: number
  /** The peak: while the gradient is made, or while the optimiser renews everything trained. */
  total: number
}

const float = 4
/** While the gradient is made: values, views, two moments, and the gradient by key and flat. */
const copiesInPass = 6
/** While AdamW runs: values and moments old and new, views, the gradient, and what is half worked out. */
const copiesInStep = 16

/** The estimate for one adapter on `base`, or for head alone, biases or full fine-tuning. */
export function memoryEstimate(
  base: RobertaConfig,
  config: AdapterConfig,
  args: MemoryArguments,
): MemoryEstimate {
  const weights = fullModelCount(base) * float
  const own = parametersOf(base, config, 'adapter').filter(({ role }) => role === undefined)
  const count =
    own.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0) + args.head_parameters
  const activations = activationFloats(base, config, args) * float
  const trained = copiesInStep * count * float
  const total = weights + Math.max(copiesInPass * count * float + activations, trained)
  return { weights, trained, activations, total }
}

/** A bytes' number in words, for a sentence: “1.4 GB”. */
export function bytesInWords(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.ceil(bytes / 1e6)} MB`
}

/** What a WebAssembly program can address, less what else it holds. */
const addressable = 4e9

/** Why a run does not fit the slow mode, in one sentence; null when it does. */
export function memoryProblem({ total }: MemoryEstimate): string | null {
  if (total <= addressable) return null
  return `This run needs about ${bytesInWords(total)}, and the slow mode has ${bytesInWords(addressable)}; take a smaller batch, shorter texts, or fewer trained values.`
}

interface Sizes {
  /** Tokens in all rows, prompts included. */
  N: number
  /** Values of one layer's attention weights. */
  scores: number
  H: number
  I: number
  batch: number
}

function activationFloats(base: RobertaConfig, config: AdapterConfig, args: MemoryArguments): number {
  const children = childConfigs(config)
  const prompt = children.find((child) => child.architecture === 'prompt_tuning')
  const S = args.tokens + (prompt ? prompt.prompt_length : 0)
  const { hidden_size: H, intermediate_size: I, num_attention_heads: heads, num_hidden_layers: L } = base
  const sizes: Sizes = { N: args.batch * S, scores: args.batch * heads * S * S, H, I, batch: args.batch }
  const lowest = Math.min(...children.map((child) => lowestTrained(child, L)))
  const dropouts = args.base_dropout ? 2 * sizes.N * H : 0
  let held = lowest < 0 ? 2 * sizes.N * H : 0
  for (let l = Math.max(lowest, 0); l < L; l++) {
    held += sizes.N * (7 * H + I) + sizes.scores + dropouts
    for (const child of children) held += ownFloats(base, child, l, sizes, S)
  }
  const scratch = sizes.N * (3 * I + 5 * H) + 4 * sizes.scores
  return held + scratch
}

/** The layer below which no gradient goes; -1: down to the embeddings, `layers`: nowhere. */
function lowestTrained(config: AdapterConfig, layers: number): number {
  const order = Array.from({ length: layers }, (_, l) => l)
  switch (config.architecture) {
    case 'head':
      return layers
    case 'bitfit':
    case 'full':
      return -1
    case 'prompt_tuning':
    case 'union':
      return 0
    case 'reft':
      return (config.layers === 'all' ? 0 : Math.min(...config.layers, layers)) + 1
    case null:
      if (config.inv_adapter) return 0
      break
  }
  return order.find((l) => !config.leave_out.includes(l)) ?? layers
}

/** What a method keeps in layer `l` beyond what the frozen layer does. */
function ownFloats(base: RobertaConfig, config: AdapterConfig, l: number, sizes: Sizes, S: number): number {
  const { N, H, I, batch } = sizes
  switch (config.architecture) {
    case 'full':
      return N * (3 * H + I)
    case 'reft': {
      const positions = config.prefix_positions + config.suffix_positions
      const here = config.layers === 'all' || config.layers.includes(l)
      return here ? 4 * batch * positions * H + (config.dropout > 0 ? N * H : 0) : 0
    }
    case 'prefix_tuning':
      if (config.leave_out.includes(l)) return 0
      return prefixFloats(config, sizes, S, base.num_attention_heads)
    case 'lora':
      return config.leave_out.includes(l) ? 0 : loraFloats(base, config, l, sizes)
    case null:
      return config.leave_out.includes(l) ? 0 : bottleneckFloats(config, l, sizes)
    default:
      return 0
  }
}

function prefixFloats(
  { prefix_length: P, dropout, use_gating }: Extract<AdapterConfig, { architecture: 'prefix_tuning' }>,
  { N, H, batch }: Sizes,
  S: number,
  heads: number,
): number {
  const copies = 2 + (dropout > 0 ? 2 : 0) + (use_gating ? 2 : 0)
  return copies * batch * P * H + batch * heads * S * P + (use_gating ? N * H : 0)
}

/** Inputs of the trained products; (IA)³ keeps the outputs it scales, DoRA whole matrices for its row norms. */
function loraFloats(base: RobertaConfig, config: LoRAConfig, l: number, { N, H }: Sizes): number {
  const places = loraPlaces(base, config, 'adapter').filter(({ layer }) => layer === l)
  const attention = places.some(({ base: key }) => key.includes('attention')) ? N * H : 0
  return places.reduce((sum, { base: key, inputs, outputs }) => {
    if (config.composition_mode === 'scale') return sum + N * outputs
    const input = key.includes('attention') ? 0 : N * inputs
    const dora = config.use_dora ? 2 * N * outputs + 3 * inputs * outputs : 0
    return sum + input + 2 * N * config.r + dora
  }, attention)
}

/** Its input and both sides of its activation, at each of its places; products of Compacter's factors as well. */
function bottleneckFloats(config: BnConfig, l: number, { N, H }: Sizes): number {
  const factor = config.reduction_factor
  const ratio = typeof factor === 'number' ? factor : (factor[String(l)] ?? factor['default'] ?? 1)
  const d = Math.max(Math.floor(H / ratio), 1)
  const places = Number(config.mh_adapter) + Number(config.output_adapter)
  const norms = [config.original_ln_before, config.ln_before, config.ln_after].filter(Boolean).length
  const scaled = typeof config.scaling === 'string' ? N * H : 0
  const dropped = config.dropout > 0 || config.stochastic_depth > 0 ? N * H : 0
  const gated = config.use_gating ? 2 * N * H : 0
  const matrices = config.phm_layer ? 2 * (config.phm_dim + 1) * H * d : 0
  return places * (N * (H + 2 * d) + norms * N * H + scaled + dropped + gated + matrices)
}
