/**
 * Interventions on a few tokens after each layer (ReFT, Wu et al. 2024), as `methods/reft.py` of `adapters` computes
 * them: x' = dropout(x + (act(S·x + b) - R·x)·R) at the first and the last tokens of each text, with R orthonormal in
 * LoReFT. Positions are counted in the text without prompts, so a prompt in front takes the place of the first tokens.
 */
import type { Tensor3D } from '@tensorflow/tfjs-core'
import type { AdapterSetup, ReftConfig, RobertaConfig, TensorMap } from '../config.ts'
import type { TrainingArguments } from '../trainingArguments.ts'
import type { Matrix, Vector } from '../model/ops.ts'
import type { Var } from '../model/tape.ts'
import { bornLinear } from './draws.ts'
import type { Field, Method, Parameter, Start, Walk } from './method.ts'
import { nonLinearities, nonLinearity, nonLinearityProblem } from './nonLinearity.ts'
import { freshOrthogonal, orthogonalRows } from './orthogonal.ts'

/** `LoReftConfig()`. */
export const loreft: ReftConfig = {
  layers: 'all',
  prefix_positions: 3,
  suffix_positions: 0,
  r: 1,
  orthogonality: true,
  tied_weights: false,
  dropout: 0.05,
  non_linearity: null,
  dtype: null,
  architecture: 'reft',
  output_reft: true,
  init_weights_seed: null,
}

/** `NoReftConfig()`. */
export const noreft: ReftConfig = { ...loreft, orthogonality: false }

const fields: Field[] = [
  {
    key: 'r',
    kind: 'integer',
    label: 'Rank',
    help: 'Dimensions in which an intervention changes a token.',
    min: 1,
    first: true,
  },
  {
    key: 'prefix_positions',
    kind: 'integer',
    label: 'First tokens',
    help: 'How many tokens at the start of a text are changed; <s> is the first.',
    min: 0,
    first: true,
  },
  {
    key: 'suffix_positions',
    kind: 'integer',
    label: 'Last tokens',
    help: 'How many tokens at the end of a text are changed; no text may be shorter.',
    min: 0,
    first: true,
  },
  {
    key: 'dropout',
    kind: 'number',
    label: 'Dropout',
    help: 'Share of a changed token’s whole representation that is set to zero while training.',
    min: 0,
    max: 1,
    first: true,
  },
  {
    key: 'layers',
    kind: 'layers',
    label: 'Layers',
    help: 'Layers, from 0, after which tokens are changed; “all” for every one.',
  },
  {
    key: 'orthogonality',
    kind: 'switch',
    label: 'Orthonormal projection',
    help: 'Keep the rows of the projection orthonormal, as LoReFT does; train it without weight decay.',
  },
  {
    key: 'tied_weights',
    kind: 'switch',
    label: 'One for both ends',
    help: 'Change first and last tokens with the same weights.',
  },
  {
    key: 'non_linearity',
    kind: 'choice',
    label: 'Activation',
    help: 'Function on what the intervention reads from a token; none in the published method.',
    choices: [null, ...nonLinearities],
  },
  {
    key: 'init_weights_seed',
    kind: 'integer',
    label: 'Seed of the initial values',
    help: 'When set and not 0, every intervention starts from the same draws of this seed.',
    min: 0,
  },
]

/** Sentences to show before a run with these arguments; empty when there is nothing to say. */
export function trainingWarnings(
  config: ReftConfig,
  args: Pick<TrainingArguments, 'weight_decay'>,
): string[] {
  if (!config.orthogonality || !(args.weight_decay > 0)) return []
  return [
    `weight_decay is ${args.weight_decay}, which LoReFT does not survive: the first step takes the diagonal of its projection from -1 to just below, of which the library keeps the whole part, 0, and the projection is gone; set weight_decay to 0.`,
  ]
}

function problems(config: ReftConfig, base: RobertaConfig | null): string[] {
  const { r, layers, prefix_positions, suffix_positions, dropout, init_weights_seed, dtype } = config
  const found: string[] = []
  if (!(Number.isInteger(r) && r >= 1)) found.push(`r is ${r}; it must be a whole number of at least 1.`)
  if (config.orthogonality && base && r >= base.hidden_size)
    found.push(`r is ${r}; with orthogonality it must be below the hidden size, ${base.hidden_size}.`)
  for (const key of ['prefix_positions', 'suffix_positions'] as const)
    if (!(Number.isInteger(config[key]) && config[key] >= 0))
      found.push(`${key} is ${config[key]}; it must be a whole number of at least 0.`)
  if (prefix_positions === 0 && suffix_positions === 0)
    found.push('prefix_positions and suffix_positions are both 0, so no token would change.')
  if (!(dropout >= 0 && dropout < 1)) found.push(`dropout is ${dropout}; it must be at least 0 and below 1.`)
  const activation = config.non_linearity === null ? null : nonLinearityProblem(config.non_linearity)
  if (activation !== null) found.push(activation)
  if (layers !== 'all' && !(Array.isArray(layers) && layers.every((l) => Number.isInteger(l) && l >= 0)))
    found.push('layers must be “all” or list layers by number, from 0.')
  else if (!config.output_reft || (base && reftLayers(base, config).length === 0))
    found.push('layers and output_reft leave no layer after which tokens would change.')
  if (init_weights_seed !== null && !(Number.isInteger(init_weights_seed) && init_weights_seed >= 0))
    found.push(`init_weights_seed is ${init_weights_seed}; it must be a whole number of at least 0.`)
  if (dtype !== null) found.push(`dtype is ${String(dtype)}; here adapters are float32, so leave dtype out.`)
  return found
}

function stands({ layers, output_reft }: ReftConfig, layer: number): boolean {
  return output_reft && (layers === 'all' || layers.includes(layer))
}

function reftLayers(base: RobertaConfig, config: ReftConfig): number[] {
  return Array.from({ length: base.num_hidden_layers }, (_, l) => l).filter((l) => stands(config, l))
}

/** Key of one intervention: unit 0 changes the first tokens, unit 1 the last; tied, unit 0 changes both. */
export function reftPath(layer: number, name: string, unit: number): string {
  return `roberta.encoder.layer.${layer}.reft_layer.refts.${name}.units.${unit}`
}

const originalKey = (path: string) => `${path}.projection.parametrizations.weight.original`
const baseKey = (path: string) => `${path}.projection.parametrizations.weight.0.base`

/** The units of a layer, and whether any token passes through each; the library makes both all the same. */
function units({ tied_weights, prefix_positions, suffix_positions }: ReftConfig): { used: boolean }[] {
  if (tied_weights) return [{ used: true }]
  return [{ used: prefix_positions > 0 }, { used: suffix_positions > 0 }]
}

function parameters(base: RobertaConfig, config: ReftConfig, name: string): Parameter[] {
  const { hidden_size: H } = base
  const { r, orthogonality } = config
  return reftLayers(base, config).flatMap((layer) =>
    units(config).flatMap(({ used }, unit) => {
      const path = reftPath(layer, name, unit)
      const role = used ? {} : { role: 'idle' as const }
      const own: Parameter[] = [
        { key: `${path}.learned_source.weight`, shape: [r, H], ...role },
        { key: `${path}.learned_source.bias`, shape: [r], ...role },
        { key: orthogonality ? originalKey(path) : `${path}.projection.weight`, shape: [r, H], ...role },
      ]
      return orthogonality ? [...own, { key: baseKey(path), shape: [H, H], role: 'buffer' as const }] : own
    }),
  )
}

function initialise({ generator, base }: Start, config: ReftConfig, name: string): TensorMap {
  const { hidden_size: H } = base
  const { r, orthogonality, init_weights_seed } = config
  const tensors: TensorMap = new Map()
  for (const layer of reftLayers(base, config))
    units(config).forEach((_, unit) => {
      const path = reftPath(layer, name, unit)
      if (init_weights_seed) generator.manual_seed(init_weights_seed)
      const source = bornLinear(generator, H, r)
      const projection = bornLinear(generator, H, r, false).weight
      tensors.set(`${path}.learned_source.weight`, source.weight)
      tensors.set(`${path}.learned_source.bias`, source.bias!)
      if (orthogonality) {
        const { original, base: square } = freshOrthogonal(generator, projection.data, r)
        tensors.set(originalKey(path), { shape: [r, H], data: original })
        tensors.set(baseKey(path), { shape: [H, H], data: square })
      } else tensors.set(`${path}.projection.weight`, projection)
    })
  return tensors
}

/** The first adapter of a setup, which alone intervenes. Throws where the library fails or would pass by the others. */
function firstOf(walk: Walk, setup: AdapterSetup): { name: string; config: ReftConfig } | null {
  let first = setup
  let through: string | null = null
  while (typeof first !== 'string') {
    if (first.type !== 'Stack') through ??= first.type
    first = first.children[0]!
  }
  const config = walk.config(reft, first, (config) => stands(config, walk.layer))
  if (config === null) return null
  const block = through ?? (hasParallel(setup) ? 'Parallel' : null)
  if (block !== null)
    throw new Error(
      `${block} is not possible with ReFT (“${first}”): the library applies only the first adapter of a Stack.`,
    )
  return { name: first, config }
}

function hasParallel(setup: AdapterSetup): boolean {
  return typeof setup !== 'string' && (setup.type === 'Parallel' || setup.children.some(hasParallel))
}

/** A layer's output x [B·S,H] with the interventions of the first active adapter. */
function layerOutput(walk: Walk, x: Matrix): Matrix {
  const found = walk.setup && firstOf(walk, walk.setup)
  if (!found) return x
  const { name, config } = found
  const { ops, B, S } = walk
  const tokens = ops.reshape<Tensor3D>(x, [B, S, x.shape[1]])
  const [first, last] = [firstTokens(walk, config), lastTokens(walk, config)]
  const kept = first.map((row, b) => row.map((token) => (last[b]!.includes(token) ? null : token)))
  const groups = config.tied_weights
    ? [
        {
          read: first.map((row, b) => [...row, ...last[b]!]),
          write: kept.map((row, b) => [...row, ...last[b]!]),
        },
      ]
    : [
        { read: first, write: kept },
        { read: last, write: last },
      ]
  let changed = x
  groups.forEach(({ read, write }, unit) => {
    const count = read[0]!.length
    if (count === 0) return
    const key = `reft ${name} ${unit}`
    const picked = ops.matmul(selection(walk, `${key} read`, read), tokens) // [B,count,H]
    const change = intervene(
      walk,
      config,
      reftPath(walk.layer, name, unit),
      ops.reshape(picked, [B * count, x.shape[1]]),
    )
    const wide = ops.reshape<Tensor3D>(change, [B, count, x.shape[1]])
    const put = ops.matmul(selection(walk, `${key} write`, write), wide, true, false) // [B,S,H]
    changed = ops.add(changed, ops.reshape<Matrix['tensor']>(put, x.shape))
  })
  return changed
}

/** The first tokens of each row, by number. */
function firstTokens({ first, S }: Walk, { prefix_positions }: ReftConfig): number[][] {
  const count = Math.min(prefix_positions, S)
  return [...first].map((start) =>
    Array.from({ length: count }, (_, i) => within(start + i, S, 'prefix_positions')),
  )
}

/** The last tokens of each row. Throws when a text has fewer, where the library fails. */
function lastTokens({ first, lengths, S }: Walk, { suffix_positions: count }: ReftConfig): number[][] {
  return [...first].map((start, b) => {
    if (lengths[b]! < count)
      throw new Error(
        `A text has ${lengths[b]} tokens, fewer than suffix_positions, ${count}; lower suffix_positions or leave such texts out.`,
      )
    const end = start + lengths[b]!
    return Array.from({ length: count }, (_, i) => within(end - count + i, S, 'suffix_positions'))
  })
}

function within(token: number, S: number, field: string): number {
  if (token < 0 || token >= S)
    throw new Error(`${field} reaches token ${token} of a batch that is ${S} tokens long.`)
  return token
}

/** [B,count,S] with a 1 for each token that is taken; null takes none. */
function selection(walk: Walk, key: string, tokens: (number | null)[][]): Var<Tensor3D> {
  const { S } = walk
  const count = tokens[0]!.length
  return walk.once(key, () => {
    const ones = new Float32Array(tokens.length * count * S)
    tokens.forEach((row, b) =>
      row.forEach((token, i) => {
        if (token !== null) ones[(b * count + i) * S + token] = 1
      }),
    )
    return walk.constant(ones, [tokens.length, count, S])
  })
}

/** What an intervention adds to tokens x [N,H]. */
function intervene(walk: Walk, config: ReftConfig, path: string, x: Matrix): Matrix {
  const { ops } = walk
  const { non_linearity, orthogonality, dropout } = config
  const R = orthogonality
    ? orthogonalRows(walk, walk.parameter(originalKey(path)), walk.parameter(baseKey(path)))
    : walk.parameter(`${path}.projection.weight`)
  const bias = walk.parameter<Vector>(`${path}.learned_source.bias`)
  const read = ops.linear(x, walk.parameter(`${path}.learned_source.weight`), bias) // [N,r]
  const source = non_linearity === null ? read : ops.activation(nonLinearity(non_linearity), read)
  const change = ops.matmul(ops.add(source, ops.linear(x, R, null), -1), R) // [N,H]
  const whole = ops.add(x, change)
  const dropped = ops.dropout(whole, dropout)
  return dropped === whole ? change : ops.add(dropped, x, -1)
}

export const reft: Method<ReftConfig> = {
  architecture: 'reft',
  defaults: loreft,
  fields,
  problems,
  parameters,
  initialise,
  layerOutput,
}
