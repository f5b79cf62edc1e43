/**
 * `merge_adapter`: an adapter's low-rank or scaling part goes into the frozen weights, which then compute the same
 * without it. `exact` also scales biases, where the adapter does; `library` is what Python's `merge_adapter` leaves:
 * it forgets the biases of (IA)³ and DoRA and, for DoRA, alpha / r, so its result differs from the unmerged adapter.
 */
import type { AdapterConfig, HostTensor, LoRAConfig, RobertaConfig, TensorMap } from '../config.ts'
import { loraPlaces } from './lora.ts'
import { childConfigs } from './union.ts'

export type MergeStyle = 'exact' | 'library'

/** Why an adapter cannot go into the weights, in a sentence; null when it can. */
export function mergeProblem(config: AdapterConfig): string | null {
  const low = childConfigs(config).filter(({ architecture }) => architecture === 'lora')
  if (low.length === 0)
    return 'Only LoRA, DoRA and (IA)³ can be merged into the weights; this method adds computation.'
  if (low.some((child) => child.architecture === 'lora' && child.use_gating))
    return 'An adapter with a gate cannot be merged: its gate depends on the text.'
  return null
}

/**
 * The base's weights that adapter `name` changes, by checkpoint key: as they become, and as they were, which
 * `reset_adapter` puts back bit for bit (Python computes them back, with rounding, and not at all for DoRA). Of a union
 * only the LoRA part is merged. `weight` gives a weight of the base. Throws when the adapter cannot be merged.
 */
export async function mergeAdapter(
  base: RobertaConfig,
  config: AdapterConfig,
  name: string,
  tensors: TensorMap,
  weight: (key: string) => Promise<Float32Array>,
  style: MergeStyle,
): Promise<{ merged: TensorMap; originals: TensorMap }> {
  const problem = mergeProblem(config)
  if (problem !== null) throw new Error(problem)
  const merged: TensorMap = new Map()
  const originals: TensorMap = new Map()
  for (const child of childConfigs(config)) {
    if (child.architecture !== 'lora') continue
    for (const { base: key, path, inputs, outputs } of loraPlaces(base, child, name)) {
      const own = {
        weight: { shape: [outputs, inputs], data: await weight(`${key}.weight`) },
        bias: { shape: [outputs], data: await weight(`${key}.bias`) },
      }
      const next = mergeLinear(own, child, partOf(tensors, path, child), style)
      for (const part of ['weight', 'bias'] as const) {
        if (next[part] === own[part]) continue
        merged.set(`${key}.${part}`, next[part])
        originals.set(`${key}.${part}`, own[part])
      }
    }
  }
  return { merged, originals }
}

/** What an adapter has at one linear layer: A [r,in] (none with `scale`), B [out,r], and DoRA's m [out,1]. */
export interface LowRankPart {
  lora_A: HostTensor | null
  lora_B: HostTensor
  m: HostTensor | null
}

export interface LinearWeights {
  weight: HostTensor // [out,in]
  bias: HostTensor // [out]
}

/** One linear layer with the adapter in its weights; what does not change is the same object. */
export function mergeLinear(
  own: LinearWeights,
  config: LoRAConfig,
  part: LowRankPart,
  style: MergeStyle,
): LinearWeights {
  const { lora_A, lora_B, m } = part
  if (config.composition_mode === 'scale') {
    const factors = lora_B.data.map((value) => value * config.alpha)
    return scaled(own, own.weight, factors, style)
  }
  if (!lora_A) throw new Error('The adapter has no lora_A here, so it cannot be merged.')
  const s = config.alpha / config.r
  if (!config.use_dora) return { weight: plus(own.weight, lora_A, lora_B, s), bias: own.bias }
  if (!m) throw new Error('The adapter has no m.weight here, so it cannot be merged.')
  const direction = plus(own.weight, lora_A, lora_B, 1) // its rows' lengths are without alpha / r, in both styles
  const lengths = rowLengths(direction)
  const factors = m.data.map((value, row) => value / lengths[row]!)
  const moved = style === 'library' || s === 1 ? direction : plus(own.weight, lora_A, lora_B, s)
  return scaled(own, moved, factors, style)
}

function scaled(
  own: LinearWeights,
  weight: HostTensor,
  factors: Float32Array,
  style: MergeStyle,
): LinearWeights {
  const columns = weight.shape[1]!
  const data = weight.data.map((value, e) => value * factors[Math.floor(e / columns)]!)
  const bias =
    style === 'library'
      ? own.bias
      : { ...own.bias, data: own.bias.data.map((value, i) => value * factors[i]!) }
  return { weight: { shape: weight.shape, data }, bias }
}

/** W [out,in] + s·B·A */
function plus(weight: HostTensor, lora_A: HostTensor, lora_B: HostTensor, s: number): HostTensor {
  const [outputs = 0, inputs = 0] = weight.shape
  const r = lora_A.shape[0]!
  const data = weight.data.slice()
  const row = new Float64Array(inputs)
  for (let o = 0; o < outputs; o++) {
    row.fill(0)
    for (let k = 0; k < r; k++) {
      const b = lora_B.data[o * r + k]!
      for (let i = 0; i < inputs; i++) row[i] = row[i]! + b * lora_A.data[k * inputs + i]!
    }
    for (let i = 0; i < inputs; i++) data[o * inputs + i] = data[o * inputs + i]! + s * row[i]!
  }
  return { shape: weight.shape, data }
}

function rowLengths({ shape, data }: HostTensor): Float64Array {
  const [rows = 0, columns = 0] = shape
  return Float64Array.from({ length: rows }, (_, r) => {
    let sum = 0
    for (let c = 0; c < columns; c++) sum += data[r * columns + c]! ** 2
    return Math.sqrt(sum)
  })
}

function partOf(tensors: TensorMap, path: string, config: LoRAConfig): LowRankPart {
  const get = (name: string) => {
    const tensor = tensors.get(`${path}.${name}`)
    if (!tensor) throw new Error(`The tensor ${path}.${name} is missing, so the adapter cannot be merged.`)
    return tensor
  }
  return {
    lora_A: config.composition_mode === 'add' ? get('lora_A') : null,
    lora_B: get('lora_B'),
    m: config.use_dora ? get('m.weight') : null,
  }
}
