/**
 * AdapterFusion (Pfeiffer et al. 2021; `BertFusion` of `adapters`): attention over what several trained bottlenecks make
 * of a token. Its own tensors stand beside the adapters in every layer; the adapters themselves stay as they are.
 */
import type {
  AdapterConfig,
  AdapterSetup,
  FusionConfig,
  HostTensor,
  RobertaConfig,
  TensorMap,
} from '../config.ts'
import type { Matrix, Vector } from '../model/ops.ts'
import { lastOf } from './composition.ts'
import { bornLinear, filled, normal } from './draws.ts'
import type { Parameter, Start, SublayerSite, Walk } from './method.ts'

/** `DynamicAdapterFusionConfig`, the library's default: with a value matrix that starts as the identity. */
export const dynamicFusion: FusionConfig = {
  key: true,
  query: true,
  value: true,
  query_before_ln: false,
  regularization: true,
  residual_before: false,
  temperature: false,
  value_before_softmax: true,
  value_initialized: true,
  dropout_prob: null,
}

/** `StaticAdapterFusionConfig`: without a value matrix. */
export const staticFusion: FusionConfig = {
  ...dynamicFusion,
  value: false,
  regularization: false,
  value_initialized: false,
}

/**
 * Weight λ of the library's λ·Σ‖I - V‖² over every trained value matrix V. Its trainer adds it after each optimiser step
 * and after the gradients were cleared, so that λ's gradient 2λ·(V - I), taken at the new V, enters the next step (before
 * clipping, once however many batches are accumulated); the first step has none, no logged loss contains it, and the
 * `regularization` field is not asked. It is in force while a Fuse stands at the top of the active setup or right below.
 */
export const fusionRegularisation = 0.01

/** Whether a tensor is a value matrix, which the regularisation pulls towards the identity. */
export function isFusionValue(key: string): boolean {
  return key.includes('.adapter_fusion_layer.') && key.endsWith('.value.weight')
}

/** Whether the library's trainer would regularise under this setup. */
export function regularisesFusion(setup: AdapterSetup | null): boolean {
  const isFuse = (one: AdapterSetup) => typeof one !== 'string' && one.type === 'Fuse'
  return setup !== null && typeof setup !== 'string' && (isFuse(setup) || setup.children.some(isFuse))
}

/** The library's name of a fusion: its members', or the last of a Stack among them, joined by commas. */
export function fusionKey({ children }: Extract<AdapterSetup, { type: 'Fuse' }>): string {
  return children.map(lastOf).join(',')
}

/** What keeps these members, given with their names, from being fused, in sentences; empty when nothing does. */
export function fusionProblems(
  config: FusionConfig,
  members: { name: string; config: AdapterConfig | undefined }[],
): string[] {
  const problems: string[] = []
  if (members.length < 2) problems.push('A fusion needs at least two adapters.')
  for (const { name, config: member } of members) {
    if (member === undefined) problems.push(`The fusion's member “${name}” was never loaded.`)
    else if (member.architecture !== null)
      problems.push(
        `The fusion's member “${name}” is no bottleneck; the library fuses bottlenecks alone, and no unions.`,
      )
  }
  const sites = members.flatMap(({ config: member }) =>
    member?.architecture === null ? [`${member.mh_adapter}, ${member.output_adapter}`] : [],
  )
  if (new Set(sites).size > 1)
    problems.push(
      'The fused adapters must stand at the same places: mh_adapter and output_adapter must be alike in all of them.',
    )
  if (config.temperature)
    problems.push(
      'temperature cools with every pass and is not saved, so a loaded fusion would give other results than the trained one; switch it off.',
    )
  const { dropout_prob } = config
  if (dropout_prob !== null && !(dropout_prob >= 0 && dropout_prob < 1))
    problems.push(`dropout_prob is ${dropout_prob}; it must be null or at least 0 and below 1.`)
  return problems
}

/**
 * Key and shape of a fusion's tensors. The library makes them in every layer; where no member has a module (leave_out)
 * they are idle, and so is the one Linear that it makes when query, key and value are all off.
 */
export function fusionParameters(
  base: RobertaConfig,
  members: AdapterConfig[],
  key: string,
  config: FusionConfig,
): Parameter[] {
  return places(base, members, key).flatMap(({ path, used }) =>
    linears(config, base.hidden_size).flatMap(({ name, outputs, bias, role }) => {
      const shared = used ? role : ('idle' as const)
      const own: Parameter[] = [{ key: `${path}.${name}.weight`, shape: [outputs, base.hidden_size] }]
      if (bias) own.push({ key: `${path}.${name}.bias`, shape: [outputs] })
      return shared ? own.map((one) => ({ ...one, role: shared })) : own
    }),
  )
}

/** Values of a fresh fusion, draw for draw `add_adapter_fusion`: N(0, 0.02), zero biases, V the identity and 1e-6 beside. */
export function initialiseFusion(
  { generator, base }: Start,
  members: AdapterConfig[],
  key: string,
  config: FusionConfig,
): TensorMap {
  const H = base.hidden_size
  const tensors: TensorMap = new Map()
  for (const { path } of places(base, members, key))
    for (const { name, outputs, bias, role } of linears(config, H)) {
      const born = bornLinear(generator, H, outputs, bias)
      const drawn = role === 'idle' ? born.weight : normal(generator, [outputs, H], 0.02)
      const weight = name === 'value' && config.value_initialized ? nearIdentity(H) : drawn
      tensors.set(`${path}.${name}.weight`, weight)
      if (born.bias) tensors.set(`${path}.${name}.bias`, role === 'idle' ? born.bias : filled([outputs], 0))
    }
  return tensors
}

interface Linear {
  name: 'dense' | 'query' | 'key' | 'value'
  outputs: number
  bias: boolean
  role?: 'idle'
}

function linears({ query, key, value }: FusionConfig, H: number): Linear[] {
  if (!query && !key && !value) return [{ name: 'dense', outputs: 1, bias: true, role: 'idle' }]
  const all: Linear[] = []
  if (query) all.push({ name: 'query', outputs: H, bias: true })
  if (key) all.push({ name: 'key', outputs: H, bias: true })
  if (value) all.push({ name: 'value', outputs: H, bias: false })
  return all
}

/** Where the fusion has tensors, lowest first: at every site that the members have, in every layer. */
function places(
  base: RobertaConfig,
  members: AdapterConfig[],
  key: string,
): { path: string; used: boolean }[] {
  const bottlenecks = members.filter((member) => member.architecture === null)
  return Array.from({ length: base.num_hidden_layers }, (_, l) => l).flatMap((l) => {
    const used = bottlenecks.some(({ leave_out }) => !leave_out.includes(l))
    const at = (site: SublayerSite) => ({ path: fusionPath(l, site, key), used })
    return [
      ...(bottlenecks[0]?.mh_adapter ? [at('attention.output')] : []),
      ...(bottlenecks[0]?.output_adapter ? [at('output')] : []),
    ]
  })
}

function fusionPath(layer: number, site: SublayerSite, key: string): string {
  return `roberta.encoder.layer.${layer}.${site}.adapter_fusion_layer.${key}`
}

function nearIdentity(H: number): HostTensor {
  const identity = filled([H, H], 1e-6)
  for (let i = 0; i < H; i++) identity.data[i * (H + 1)] = 1
  return identity
}

/** What a fusion joins: the query, each member's up-projection, and the residual, [N,H] each. */
export interface Fused {
  query: Matrix
  ups: Matrix[]
  residual: Matrix
}

/**
 * Σᵢ pᵢ·V(upᵢ) + residual with p = softmax over the members of Q(query)·K(upᵢ), unscaled, dropout on the scores: [N,H].
 * With residual_before the residual is added to every upᵢ instead, to the keys as well as the values.
 */
export function fuse(walk: Walk, site: SublayerSite, key: string, { query, ups, residual }: Fused): Matrix {
  const { ops } = walk
  const config = walk.fusion(key)
  const path = fusionPath(walk.layer, site, key)
  const linear = (name: string, x: Matrix, bias: boolean) =>
    ops.linear(
      x,
      walk.parameter(`${path}.${name}.weight`),
      bias ? walk.parameter<Vector>(`${path}.${name}.bias`) : null,
    )
  const parts = config.residual_before ? ups.map((up) => ops.add(up, residual)) : ups
  const q = config.query ? linear('query', query, true) : query
  const scores = parts.map((part) => ops.sum(ops.mul(config.key ? linear('key', part, true) : part, q), 1))
  // 0 counts as not given, as in the library.
  const rate = config.dropout_prob || walk.base.attention_probs_dropout_prob
  const p = ops.softmax(ops.dropout(ops.concat(scores, 1), rate)) // [N,k]
  const before = config.value && config.value_before_softmax
  const weighted = parts.map((part, i) =>
    ops.mul(before ? linear('value', part, false) : part, ops.slice(p, 1, i, 1)),
  )
  const sum = weighted.reduce((a, b) => ops.add(a, b))
  const context = config.value && !before ? linear('value', sum, false) : sum
  return config.residual_before ? context : ops.add(context, residual)
}
