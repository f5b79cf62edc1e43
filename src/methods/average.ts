/** `average_adapter`: one new adapter from the weights of several of one configuration. */
import type { AdapterConfig, HostTensor, LoRAConfig, RobertaConfig, TensorMap } from '../config.ts'
import { loraPlaces } from './lora.ts'
import { childConfigs, parametersOf } from './registry.ts'
import { dense, svdOfProduct, type Dense } from './svd.ts'

export type CombineStrategy = 'linear' | 'lora_linear_only_negate_b' | 'lora_delta_w_svd'

/** An adapter that goes into the average: its tensors by the keys of its own name. */
export interface Member {
  name: string
  config: AdapterConfig
  tensors: TensorMap
  weight: number
}

export interface AverageArguments {
  combine_strategy: CombineStrategy
  /** Divide the weights by their sum. */
  normalize_weights: boolean
  /** Rank of the result, for `lora_delta_w_svd` alone. */
  svd_rank: number | null
}

/**
 * Configuration and tensors of adapter `name`: Σ wᵢθᵢ; or for LoRA the same with |wᵢ| for every A; or the singular
 * vectors of Σ wᵢBᵢAᵢ, which leaves alpha as it is, so that alpha / r changes with the rank, as in the library. An
 * invertible block is averaged like the rest; the library leaves it out. Throws one sentence when the adapters cannot
 * be averaged this way.
 */
export function averageAdapter(
  base: RobertaConfig,
  name: string,
  members: Member[],
  args: AverageArguments,
): { config: AdapterConfig; tensors: TensorMap } {
  const [first] = members
  if (!first) throw new Error('There is no adapter to average; choose at least one.')
  refuseAverage(members, args)
  const { combine_strategy, svd_rank } = args
  const weights = weightsOf(members, args.normalize_weights)
  if (combine_strategy === 'lora_delta_w_svd') {
    const config: LoRAConfig = { ...(first.config as LoRAConfig), r: svd_rank! }
    return { config, tensors: byDelta(base, name, members, weights, config) }
  }
  const own = members.map((member) => parametersOf(base, member.config, member.name))
  const tensors: TensorMap = new Map()
  parametersOf(base, first.config, name).forEach(({ key, shape }, i) => {
    const positive = combine_strategy === 'lora_linear_only_negate_b' && key.endsWith('.lora_A')
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1))
    members.forEach((member, j) => {
      const { data: values } = tensorOf(member, own[j]![i]!.key, shape)
      const weight = positive ? Math.abs(weights[j]!) : weights[j]!
      for (let e = 0; e < data.length; e++) data[e] = data[e]! + weight * values[e]!
    })
    tensors.set(key, { shape, data })
  })
  return { config: first.config, tensors }
}

function weightsOf(members: Member[], normalise: boolean): number[] {
  const weights = members.map(({ weight }) => weight)
  if (!weights.every(Number.isFinite)) throw new Error('Every weight of the average must be a number.')
  if (!normalise) return weights
  const sum = weights.reduce((a, b) => a + b, 0)
  if (sum === 0)
    throw new Error('The weights add up to 0, so they cannot be normalised; change one, or do not normalise.')
  return weights.map((weight) => weight / sum)
}

function refuseAverage(members: Member[], { combine_strategy, svd_rank }: AverageArguments): void {
  const { name, config } = members[0]!
  const other = members.find((member) => comparable(member.config) !== comparable(config))
  if (other)
    throw new Error(
      `“${other.name}” has another configuration than “${name}”; only adapters of one configuration can be averaged.`,
    )
  if (combine_strategy === 'linear') return
  if (config.architecture !== 'lora' || config.use_gating || config.use_dora)
    throw new Error(`${combine_strategy} is only for plain LoRA, without gate or DoRA; use linear.`)
  if (combine_strategy === 'lora_linear_only_negate_b') return
  if (config.composition_mode !== 'add')
    throw new Error('lora_delta_w_svd is only for LoRA; average (IA)³ with linear.')
  if (svd_rank === null || !Number.isInteger(svd_rank) || svd_rank < 1)
    throw new Error('lora_delta_w_svd needs svd_rank, a whole number of at least 1.')
}

/** What must be alike: everything but dropout and init_weights, where nothing, 0 and an empty list are one. */
function comparable(config: AdapterConfig): string {
  const entries = (one: AdapterConfig, ignored: string[]) =>
    Object.entries(one)
      .filter(([key, value]: [string, unknown]) => !ignored.includes(key) && !isEmpty(value))
      .sort(([a], [b]) => (a < b ? -1 : 1))
  if (config.architecture === 'union')
    return JSON.stringify(childConfigs(config).map((child) => entries(child, [])))
  return JSON.stringify(entries(config, ['dropout', 'init_weights']))
}

function isEmpty(value: unknown): boolean {
  return !value || (Array.isArray(value) && value.length === 0)
}

function tensorOf({ name, tensors }: Member, key: string, shape: number[]): HostTensor {
  const tensor = tensors.get(key)
  if (!tensor) throw new Error(`The adapter “${name}” has no tensor ${key}, so it cannot be averaged.`)
  if (tensor.shape.join() !== shape.join())
    throw new Error(`The tensor ${key} is [${tensor.shape}] instead of [${shape}], so it cannot be averaged.`)
  return tensor
}

/** A and B of each place from the singular vectors of Σ wᵢBᵢAᵢ: A = Vᵀ, B = U·S. */
function byDelta(
  base: RobertaConfig,
  name: string,
  members: Member[],
  weights: number[],
  config: LoRAConfig,
): TensorMap {
  const tensors: TensorMap = new Map()
  const places = members.map((member) => loraPlaces(base, member.config as LoRAConfig, member.name))
  loraPlaces(base, config, name).forEach(({ path, inputs, outputs }, i) => {
    if (config.r > Math.min(inputs, outputs))
      throw new Error(
        `svd_rank is ${config.r}, above the ${Math.min(inputs, outputs)} dimensions of the matrix.`,
      )
    const each = (members[0]!.config as LoRAConfig).r
    const P = dense(outputs, each * members.length)
    const Q = dense(each * members.length, inputs)
    members.forEach((member, j) => {
      const at = places[j]![i]!.path
      put(P, tensorOf(member, `${at}.lora_B`, [outputs, each]), 0, j * each, weights[j]!)
      put(Q, tensorOf(member, `${at}.lora_A`, [each, inputs]), j * each, 0, 1)
    })
    const { U, S, Vt } = svdOfProduct(P, Q, config.r)
    const B = Float32Array.from(U.data, (value, e) => value * S[e % config.r]!)
    tensors.set(`${path}.lora_A`, { shape: [config.r, inputs], data: Float32Array.from(Vt.data) })
    tensors.set(`${path}.lora_B`, { shape: [outputs, config.r], data: B })
  })
  return tensors
}

/** Writes factor·tensor into a matrix from a row and column on. */
function put(into: Dense, { shape, data }: HostTensor, row: number, column: number, factor: number): void {
  const [rows = 0, columns = 0] = shape
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++)
      into.data[(row + r) * into.columns + column + c] = factor * data[r * columns + c]!
}
