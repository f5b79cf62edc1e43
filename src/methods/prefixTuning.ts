/**
 * Prefix tuning (Li & Liang 2021) as `adapters` has it: learned keys and values before every layer's own, made for all
 * layers together by one small network, or held as one flat vector; with a gate for each text where asked for.
 */
import type { Tensor } from '@tensorflow/tfjs-core'
import type { PrefixTuningConfig, RobertaConfig, TensorMap } from '../config.ts'
import type { Heads, Matrix, Vector } from '../model/ops.ts'
import type { Var } from '../model/tape.ts'
import { compose, type Place } from './composition.ts'
import { bornLinear, normal } from './draws.ts'
import { meanGate, type Gate } from './gate.ts'
import { refuseLeftPadding } from './leftPadding.ts'
import type { Field, Method, Parameter, Prefix, Start, Walk } from './method.ts'
import { nonLinearities, nonLinearity, nonLinearityProblem } from './nonLinearity.ts'

/** `PrefixTuningConfig()` of the library. */
export const prefixTuningConfig: PrefixTuningConfig = {
  architecture: 'prefix_tuning',
  encoder_prefix: true,
  cross_prefix: true,
  leave_out: [],
  flat: false,
  prefix_length: 30,
  bottleneck_size: 512,
  non_linearity: 'tanh',
  dropout: 0,
  use_gating: false,
  shared_gating: true,
  init_weights_seed: null,
}

/** `prefix_tuning_flat`. */
export const prefixTuningFlat: PrefixTuningConfig = { ...prefixTuningConfig, flat: true }

const fields: Field[] = [
  {
    key: 'prefix_length',
    kind: 'integer',
    label: 'Prefix length',
    help: 'How many learned keys and values stand before each layer’s own.',
    min: 1,
    first: true,
  },
  {
    key: 'flat',
    kind: 'switch',
    label: 'Flat',
    help: 'Train each number directly instead of a small network that makes them.',
    first: true,
  },
  {
    key: 'bottleneck_size',
    kind: 'integer',
    label: 'Network width',
    help: 'Hidden units of the network that makes the prefixes; a flat prefix has none.',
    min: 1,
    first: true,
  },
  {
    key: 'non_linearity',
    kind: 'choice',
    label: 'Non-linearity',
    help: 'Activation in the network that makes the prefixes.',
    choices: nonLinearities,
  },
  {
    key: 'dropout',
    kind: 'number',
    label: 'Dropout',
    help: 'Drops single prefix numbers in training.',
    min: 0,
    max: 1,
  },
  {
    key: 'use_gating',
    kind: 'switch',
    label: 'Gate',
    help: 'Scale the prefixes for each text by a learned gate on the layer’s input.',
  },
  {
    key: 'shared_gating',
    kind: 'switch',
    label: 'One gate for both',
    help: 'Use one gate for keys and values instead of one for each.',
  },
  { key: 'leave_out', kind: 'layers', label: 'Leave out', help: 'Layers, from 0, that get no prefix.' },
  {
    key: 'init_weights_seed',
    kind: 'integer',
    label: 'Own seed',
    help: 'Draw the prefix from this seed instead of the run’s; 0 counts as none.',
  },
]

export const prefixTuning: Method<PrefixTuningConfig> = {
  architecture: 'prefix_tuning',
  defaults: prefixTuningConfig,
  fields,
  problems,
  parameters,
  initialise,
  keyValues,
  prefix,
}

/** Layers that carry the prefix, lowest first. */
function prefixedLayers(base: RobertaConfig, { leave_out }: PrefixTuningConfig): number[] {
  return Array.from({ length: base.num_hidden_layers }, (_, l) => l).filter((l) => !leave_out.includes(l))
}

function problems(config: PrefixTuningConfig, base: RobertaConfig | null): string[] {
  const found: string[] = []
  for (const key of ['prefix_length', 'bottleneck_size'] as const)
    if (!(Number.isInteger(config[key]) && config[key] >= 1))
      found.push(`${key} is ${config[key]}; it must be a whole number of at least 1.`)
  if (!(config.dropout >= 0 && config.dropout < 1))
    found.push(`dropout is ${config.dropout}; it must be at least 0 and below 1.`)
  const activation = nonLinearityProblem(config.non_linearity)
  if (activation !== null) found.push(activation)
  if (base && prefixedLayers(base, config).length === 0)
    found.push('leave_out names every layer, so no layer would have a prefix.')
  return found
}

/** Where the tensors that all layers share stand. */
export function poolKey(name: string): string {
  return `roberta.prefix_tuning.prefix_tunings.${name}.self_prefix`
}

function gateKey(l: number, name: string): string {
  return `roberta.encoder.layer.${l}.attention.self.prefix_tuning.prefix_gates.${name}`
}

function parameters(base: RobertaConfig, config: PrefixTuningConfig, name: string): Parameter[] {
  const { hidden_size: H } = base
  const { prefix_length: P, bottleneck_size: B, use_gating, shared_gating, flat } = config
  const layers = prefixedLayers(base, config)
  const gates = shared_gating ? 1 : 2
  const own: Parameter[] = []
  for (const l of use_gating ? layers : [])
    own.push(
      { key: `${gateKey(l, name)}.weight`, shape: [gates, H] },
      { key: `${gateKey(l, name)}.bias`, shape: [gates] },
    )
  const pool = poolKey(name)
  const all = 2 * layers.length * H
  if (flat) return [...own, { key: `${pool}.control_trans`, shape: [P * all] }]
  return [
    ...own,
    { key: `${pool}.wte.weight`, shape: [P, H] },
    { key: `${pool}.control_trans.0.weight`, shape: [B, H] },
    { key: `${pool}.control_trans.0.bias`, shape: [B] },
    { key: `${pool}.control_trans.2.weight`, shape: [all, B] },
    { key: `${pool}.control_trans.2.bias`, shape: [all] },
  ]
}

/**
 * Gates first, as they stand in the layers: a Linear as torch makes it, its weights then again from N(0, 0.02). Then the
 * pool: embeddings and the flat vector N(0, 1), both Linears as torch makes them.
 */
function initialise({ generator, base }: Start, config: PrefixTuningConfig, name: string): TensorMap {
  const { hidden_size: H } = base
  const { prefix_length: P, bottleneck_size: B, use_gating, shared_gating, flat } = config
  const tensors: TensorMap = new Map()
  const layers = prefixedLayers(base, config)
  const linear = (key: string, inputs: number, outputs: number) => {
    const { weight, bias } = bornLinear(generator, inputs, outputs)
    tensors.set(`${key}.weight`, weight)
    if (bias) tensors.set(`${key}.bias`, bias)
    return weight
  }
  for (const l of use_gating ? layers : []) {
    const { shape } = linear(gateKey(l, name), H, shared_gating ? 1 : 2)
    tensors.set(`${gateKey(l, name)}.weight`, normal(generator, shape, 0.02))
  }
  const pool = poolKey(name)
  const all = 2 * layers.length * H
  if (config.init_weights_seed) generator.manual_seed(config.init_weights_seed)
  if (flat) return tensors.set(`${pool}.control_trans`, normal(generator, [P * all], 1))
  tensors.set(`${pool}.wte.weight`, normal(generator, [P, H], 1))
  linear(`${pool}.control_trans.0`, H, B)
  linear(`${pool}.control_trans.2`, B, all)
  return tensors
}

/** Keys and values [B,N,T,D] of some rows of the batch, the layer's input [B·S,H] and the keys' padding. */
interface State {
  x: Matrix
  k: Heads
  v: Heads
  padding: Matrix
  /** Keys that prefixes have added so far. */
  added: number
}

function keyValues(walk: Walk, x: Matrix, k: Heads, v: Heads): State {
  const state: State = { x, k, v, padding: walk.padding, added: 0 }
  return walk.setup === null ? state : compose(walk.setup, state, walk.B, placeOf(walk))
}

/** The common case: one adapter without dropout. */
function prefix(walk: Walk): Prefix | null | undefined {
  const { setup, base, layer } = walk
  if (typeof setup !== 'string') return undefined
  const config = activeConfig(walk, setup)
  if (config === null) return null
  if (config.dropout > 0) return undefined
  refuseLeftPadding(walk, 'prefix tuning')
  return {
    pool: poolOf(walk, config, setup),
    first: 2 * prefixedLayers(base, config).indexOf(layer) * base.hidden_size,
    gate: config.use_gating ? (x) => gateOf(walk, setup, x, walk.B) : null,
  }
}

function placeOf(walk: Walk): Place<State> {
  const { ops } = walk
  return {
    what: 'prefix tuning',
    has: (name) => activeConfig(walk, name) !== null,
    single: (name, state) => prepend(walk, activeConfig(walk, name)!, name, state),
    rows: ({ x, k, v, padding, added }, start, count) => {
      const queries = padding.shape[0] / k.shape[0]
      return {
        x: ops.slice(x, 0, start * walk.S, count * walk.S),
        k: ops.slice(k, 0, start, count),
        v: ops.slice(v, 0, start, count),
        padding: ops.slice(padding, 0, start * queries, count * queries),
        added,
      }
    },
    join: (parts) => {
      const longest = Math.max(...parts.map(({ added }) => added))
      const padded = parts.map((part) => pad(walk, part, longest - part.added))
      const joined = <T extends Tensor>(of: (part: State) => Var<T>) => ops.concat(padded.map(of), 0)
      return {
        x: joined(({ x }) => x),
        k: joined(({ k }) => k),
        v: joined(({ v }) => v),
        padding: joined(({ padding }) => padding),
        added: longest,
      }
    },
  }
}

function activeConfig(walk: Walk, name: string): PrefixTuningConfig | null {
  return walk.config(prefixTuning, name, ({ leave_out }) => !leave_out.includes(walk.layer))
}

/** Hidden rows of pad_token_id behind, which bring parts with fewer prefixes to one length. */
function pad({ ops, base, constant }: Walk, state: State, count: number): State {
  if (count === 0) return state
  const [B, N, , D] = state.k.shape
  const values = new Float32Array(B * N * count * D).fill(base.pad_token_id)
  const rows = constant<Heads>(values, [B, N, count, D])
  return {
    ...state,
    k: ops.concat([state.k, rows], 2),
    v: ops.concat([state.v, rows], 2),
    padding: ops.addBroadcast(state.padding, constant([0, count], [1, 2], 'int32')),
    added: state.added + count,
  }
}

/** One prefix in front of a state's keys and values; later ones of a Stack go before earlier ones. */
function prepend(walk: Walk, config: PrefixTuningConfig, name: string, state: State): State {
  refuseLeftPadding(walk, 'prefix tuning')
  const { ops, base } = walk
  const { hidden_size: H, num_attention_heads: N } = base
  const P = config.prefix_length
  const [B] = state.k.shape
  const index = prefixedLayers(base, config).indexOf(walk.layer)
  const pool = poolOf(walk, config, name) // [P,2·layers·H]
  const gates = config.use_gating ? gatesOf(walk, name, state.x, B) : []
  const part = (pair: number, gate: Heads | undefined) => {
    const own = ops.splitHeads(ops.slice(pool, 1, (2 * index + pair) * H, H), 1, N) // [1,N,P,D]
    const all = ops.dropout(ops.repeat(own, B), config.dropout) // [B,N,P,D]
    return gate ? ops.mul(all, gate) : all
  }
  return {
    x: state.x,
    k: ops.concat([part(0, gates[0]), state.k], 2),
    v: ops.concat([part(1, gates.at(-1)), state.v], 2),
    padding: state.padding,
    added: state.added + P,
  }
}

/** Keys and values of all layers [P,2·layers·H], made once in a walk: position by position, layer by layer, keys first. */
function poolOf(walk: Walk, config: PrefixTuningConfig, name: string): Matrix {
  const { ops } = walk
  const key = poolKey(name)
  return walk.once(key, () => {
    if (config.flat) {
      const flat = walk.parameter<Vector>(`${key}.control_trans`)
      return ops.reshape<Matrix['tensor']>(flat, [config.prefix_length, flat.shape[0] / config.prefix_length])
    }
    const wte = walk.parameter(`${key}.wte.weight`)
    const hidden = ops.linear(
      wte,
      walk.parameter(`${key}.control_trans.0.weight`),
      walk.parameter<Vector>(`${key}.control_trans.0.bias`),
    )
    const active = ops.activation(nonLinearity(config.non_linearity), hidden)
    return ops.linear(
      active,
      walk.parameter(`${key}.control_trans.2.weight`),
      walk.parameter<Vector>(`${key}.control_trans.2.bias`),
    )
  })
}

/** One gate for keys and values, or one for each, from the layer's input x [B·S,H]: [B,1,1] or [B,1,2]. */
function gateOf(walk: Walk, name: string, x: Matrix, B: number): Gate {
  const key = gateKey(walk.layer, name)
  const weight = walk.parameter(`${key}.weight`) // [1 or 2,H]
  return meanGate(walk.ops, x, weight, walk.parameter<Vector>(`${key}.bias`), B)
}

/** The same apart, as heads are multiplied by them: [B,1,1,1] each. */
function gatesOf(walk: Walk, name: string, x: Matrix, B: number): Heads[] {
  const { ops } = walk
  const gate = gateOf(walk, name, x, B)
  return Array.from({ length: gate.shape[2] }, (_, i) => ops.reshape(ops.slice(gate, 2, i, 1), [B, 1, 1, 1]))
}
