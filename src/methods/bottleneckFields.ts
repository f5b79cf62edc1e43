/** The fields of a bottleneck configuration in words, and what can be wrong with their values. */
import type { BnConfig, RobertaConfig } from '../config.ts'
import { factorAt, widthAt } from './bottleneckModules.ts'
import { floorDivide } from './floorDivide.ts'
import type { Field } from './method.ts'
import { nonLinearities, nonLinearityProblem } from './nonLinearity.ts'

const places: Field[] = [
  {
    key: 'reduction_factor',
    kind: 'factor',
    label: 'Reduction factor',
    help: 'How much narrower the bottleneck is than the model: 16 on 768 gives 48; smaller means more parameters.',
    min: 0.01,
    first: true,
  },
  {
    key: 'non_linearity',
    kind: 'choice',
    label: 'Activation',
    help: 'The function between the two projections, and inside an invertible block.',
    choices: nonLinearities,
  },
  {
    key: 'dropout',
    kind: 'number',
    label: 'Dropout',
    help: 'The share of the adapter’s output that is dropped at random while training.',
    min: 0,
    max: 0.99,
    first: true,
  },
  {
    key: 'mh_adapter',
    kind: 'switch',
    label: 'After the attention',
    help: 'Puts a bottleneck after each layer’s attention.',
  },
  {
    key: 'output_adapter',
    kind: 'switch',
    label: 'After the feed-forward part',
    help: 'Puts a bottleneck after each layer’s feed-forward part.',
  },
  {
    key: 'leave_out',
    kind: 'layers',
    label: 'Layers without',
    help: 'Layers, counted from 0, that get no bottleneck.',
  },
  {
    key: 'cross_adapter',
    kind: 'switch',
    label: 'After the cross-attention',
    help: 'Stands in the library’s files; RoBERTa has no cross-attention, so it changes nothing.',
  },
]

const wiring: Field[] = [
  {
    key: 'is_parallel',
    kind: 'switch',
    label: 'Beside instead of after',
    help: 'Reads the sub-layer’s input instead of its output, and adds to the result.',
  },
  {
    key: 'scaling',
    kind: 'number',
    label: 'Scale',
    help: 'A number that multiplies the adapter’s output; “learned” trains one, “channel” one for each feature.',
    choices: ['learned', 'channel'],
  },
  {
    key: 'use_gating',
    kind: 'switch',
    label: 'Gate',
    help: 'Learns for each text how much of the adapter to let through.',
  },
  {
    key: 'original_ln_before',
    kind: 'switch',
    label: 'Model’s norm before',
    help: 'Adds the residual and applies the model’s own LayerNorm before the adapter.',
  },
  {
    key: 'original_ln_after',
    kind: 'switch',
    label: 'Model’s norm after',
    help: 'Adds the residual and applies the model’s own LayerNorm after the adapter.',
  },
  {
    key: 'ln_before',
    kind: 'switch',
    label: 'New norm before',
    help: 'Trains a LayerNorm of its own before the projection down.',
  },
  {
    key: 'ln_after',
    kind: 'switch',
    label: 'New norm after',
    help: 'Trains a LayerNorm of its own after the projection up.',
  },
  {
    key: 'residual_before_ln',
    kind: 'choice',
    label: 'Adapter’s residual',
    help: 'Where it branches off: before the residual is added (true), before the model’s norm (post_add) or after it (false).',
    choices: [true, 'post_add', false],
  },
  {
    key: 'adapter_residual_before_ln',
    kind: 'switch',
    label: 'Residual inside the new norm',
    help: 'Adds the adapter’s residual before its new norm instead of after it.',
  },
  {
    key: 'stochastic_depth',
    kind: 'number',
    label: 'Stochastic depth',
    help: 'The chance that a text passes an adapter by while training; Python needs torchvision for values above 0.',
    min: 0,
    max: 0.99,
  },
]

const start: Field[] = [
  {
    key: 'init_weights',
    kind: 'choice',
    label: 'Initial weights',
    help: 'How fresh weights are drawn: small normal (bert), up-projection zero (mam_adapter), cut normal (houlsby).',
    choices: ['bert', 'mam_adapter', 'houlsby'],
  },
  {
    key: 'init_weights_seed',
    kind: 'integer',
    label: 'Seed of its own',
    help: 'Draws every module from this seed, so that all start alike; empty or 0 takes the run’s seed.',
    min: 0,
  },
  {
    key: 'inv_adapter',
    kind: 'choice',
    label: 'Invertible block',
    help: 'Adds an invertible block on the embeddings, which a language-model head undoes.',
    choices: [null, 'nice'],
  },
  {
    key: 'inv_adapter_reduction_factor',
    kind: 'number',
    label: 'Its reduction factor',
    help: 'How much narrower the invertible block’s networks are than half the model.',
    min: 0.01,
  },
]

const hypercomplex: Field[] = [
  {
    key: 'phm_layer',
    kind: 'switch',
    label: 'Hypercomplex layers',
    help: 'Puts both projections together from small factors, as Compacter does.',
  },
  {
    key: 'phm_dim',
    kind: 'integer',
    label: 'Number of factors',
    help: 'How many pairs of factors a projection is the sum of; it must divide the model’s and the bottleneck’s width.',
    min: 1,
  },
  {
    key: 'phm_rank',
    kind: 'integer',
    label: 'Rank of the factors',
    help: 'The rank of each weight factor where it is a product of two.',
    min: 1,
  },
  {
    key: 'factorized_phm_W',
    kind: 'switch',
    label: 'Weights as products',
    help: 'Makes each weight factor the product of two thin matrices.',
  },
  {
    key: 'shared_W_phm',
    kind: 'switch',
    label: 'Shared weights',
    help: 'Uses the same weight factors in all layers.',
  },
  {
    key: 'shared_phm_rule',
    kind: 'switch',
    label: 'Shared rule',
    help: 'Uses the same rule factors in all layers.',
  },
  {
    key: 'factorized_phm_rule',
    kind: 'switch',
    label: 'Rule as products',
    help: 'Makes each rule factor the product of a column and a row.',
  },
  {
    key: 'phm_c_init',
    kind: 'choice',
    label: 'Rule’s initial values',
    help: 'Draws the rule from a normal or a uniform distribution.',
    choices: ['normal', 'uniform'],
  },
  {
    key: 'phm_init_range',
    kind: 'number',
    label: 'Rule’s spread',
    help: 'The standard deviation of a fresh shared rule, where it is normal.',
    min: 0,
  },
  {
    key: 'phm_bias',
    kind: 'switch',
    label: 'Bias',
    help: 'Gives hypercomplex projections a bias.',
  },
  {
    key: 'learn_phm',
    kind: 'switch',
    label: 'Train the rule',
    help: 'Stands in the library’s files; its train_adapter trains the rule either way, and so does this page.',
  },
  {
    key: 'hypercomplex_nonlinearity',
    kind: 'choice',
    label: 'Weights’ initial values',
    help: 'Stands in the library’s files; whatever it says, the library draws Xavier normal values.',
    choices: ['glorot-uniform', 'glorot-normal', 'normal', 'phm'],
  },
]

/** Every field of `BnConfig`. */
export const bottleneckFields: Field[] = [...places, ...wiring, ...start, ...hypercomplex]

/** Sentences on values that cannot work; `base` null: its width and depth are not known yet. */
export function bottleneckProblems(config: BnConfig, base: RobertaConfig | null): string[] {
  const sizes = sizeProblems(config, base)
  return [
    ...placeProblems(config, base),
    ...sizes,
    ...valueProblems(config),
    ...invertibleProblems(config, base),
    ...(config.phm_layer ? phmProblems(config, sizes.length === 0 ? base : null) : []),
  ]
}

function placeProblems(config: BnConfig, base: RobertaConfig | null): string[] {
  const { mh_adapter, output_adapter, leave_out, inv_adapter } = config
  if (inv_adapter !== null) return []
  if (!mh_adapter && !output_adapter)
    return [
      'mh_adapter and output_adapter are both off, so the adapter would have no weights; switch one on.',
    ]
  if (base && layersOf(base).every((l) => leave_out.includes(l)))
    return [`leave_out names all ${base.num_hidden_layers} layers, so the adapter would have no weights.`]
  return []
}

function sizeProblems(config: BnConfig, base: RobertaConfig | null): string[] {
  const { reduction_factor, leave_out } = config
  const given = typeof reduction_factor === 'object' ? Object.values(reduction_factor) : [reduction_factor]
  const wrong = given.find((factor) => !(factor > 0 && Number.isFinite(factor)))
  if (given.length === 0) return ['reduction_factor is empty; give a number, or one for “default”.']
  if (wrong !== undefined) return [`reduction_factor is ${wrong}; it must be a number above 0.`]
  const bare = base
    ? layersOf(base).find((l) => !leave_out.includes(l) && factorAt(config, l) === undefined)
    : undefined
  if (bare === undefined) return []
  return [`reduction_factor says nothing about layer ${bare}; name it, or give a “default”.`]
}

function valueProblems(config: BnConfig): string[] {
  const problems: string[] = []
  const activation = nonLinearityProblem(config.non_linearity)
  if (activation !== null) problems.push(activation)
  for (const key of ['dropout', 'stochastic_depth'] as const)
    if (!(config[key] >= 0 && config[key] < 1))
      problems.push(`${key} is ${config[key]}; it must be at least 0 and below 1.`)
  const { scaling, init_weights, init_weights_seed: seed, residual_before_ln } = config
  if (typeof scaling === 'number' ? !Number.isFinite(scaling) : !['learned', 'channel'].includes(scaling))
    problems.push(`scaling is ${shown(scaling)}; it must be a number, “learned” or “channel”.`)
  if (!['bert', 'mam_adapter', 'houlsby'].includes(init_weights))
    problems.push(`init_weights is ${shown(init_weights)}; it must be “bert”, “mam_adapter” or “houlsby”.`)
  if (seed !== null && !(Number.isSafeInteger(seed) && seed >= 0))
    problems.push(`init_weights_seed is ${shown(seed)}; it must be empty or a whole number from 0.`)
  if (typeof residual_before_ln !== 'boolean' && residual_before_ln !== 'post_add')
    problems.push(`residual_before_ln is ${shown(residual_before_ln)}; it must be true, false or “post_add”.`)
  if (residual_before_ln === 'post_add' && !config.original_ln_before && !config.is_parallel)
    problems.push(
      'residual_before_ln “post_add” needs original_ln_before: without it the library has no residual and fails.',
    )
  return problems
}

function invertibleProblems(config: BnConfig, base: RobertaConfig | null): string[] {
  const { inv_adapter_reduction_factor: factor } = config
  const kind: string | null = config.inv_adapter
  if (kind === null) return []
  if (kind === 'glow')
    return ['inv_adapter “glow” fails in the library as soon as a text passes through it; use “nice”.']
  if (kind !== 'nice') return [`inv_adapter is ${shown(kind)}; it must be “nice” or empty.`]
  if (factor === null || !(factor > 0 && Number.isFinite(factor)))
    return ['inv_adapter needs an inv_adapter_reduction_factor above 0, such as 2.']
  if (base && floorDivide(Math.floor(base.hidden_size / 2), factor) < 1)
    return [
      `inv_adapter_reduction_factor is ${factor}, which leaves nothing of half the model's ${base.hidden_size} features.`,
    ]
  return []
}

function phmProblems(config: BnConfig, base: RobertaConfig | null): string[] {
  const { phm_dim: p, phm_rank, phm_c_init, hypercomplex_nonlinearity: draw } = config
  const problems: string[] = []
  for (const [key, value] of [
    ['phm_dim', p],
    ['phm_rank', phm_rank],
  ] as const)
    // prettier-ignore
    if (!(Number.isInteger(value) && value >= 1))
      problems.push(`${key} is ${shown(value)}; it must be a whole number of at least 1.`)
  if (config.init_weights !== 'bert')
    problems.push(
      `init_weights “${config.init_weights}” fails in the library with phm_layer, whose layers have no single weight; use “bert”.`,
    )
  if (!['normal', 'uniform'].includes(phm_c_init))
    problems.push(`phm_c_init is ${shown(phm_c_init)}; it must be “normal” or “uniform”.`)
  if (!(config.phm_init_range >= 0))
    problems.push(`phm_init_range is ${shown(config.phm_init_range)}; it must be at least 0.`)
  if (!['phm', 'glorot-normal', 'glorot-uniform', 'normal'].includes(draw))
    problems.push(
      `hypercomplex_nonlinearity is ${shown(draw)}; it must be “glorot-uniform”, “glorot-normal”, “normal” or “phm”.`,
    )
  if (config.shared_W_phm && !config.factorized_phm_W)
    problems.push('shared_W_phm fails in the library without factorized_phm_W; switch that on too.')
  if (config.shared_W_phm && !Number.isInteger(config.reduction_factor))
    problems.push('shared_W_phm needs one whole reduction_factor for all layers, which then have one width.')
  if (base && problems.length === 0) problems.push(...divisionProblems(config, base))
  return problems
}

/** Widths that phm_dim does not divide. */
function divisionProblems(config: BnConfig, base: RobertaConfig): string[] {
  const { phm_dim: p, leave_out } = config
  if (base.hidden_size % p !== 0)
    return [`phm_dim is ${p}, which does not divide the model's width ${base.hidden_size}.`]
  const layer = layersOf(base).find((l) => !leave_out.includes(l) && widthAt(base, config, l) % p !== 0)
  if (layer === undefined) return []
  const width = widthAt(base, config, layer)
  return [
    `phm_dim is ${p}, which does not divide the bottleneck's width ${width} (reduction_factor ${factorAt(config, layer)}).`,
  ]
}

function layersOf({ num_hidden_layers }: RobertaConfig): number[] {
  return Array.from({ length: num_hidden_layers }, (_, l) => l)
}

function shown(value: unknown): string {
  return typeof value === 'string' ? `“${value}”` : JSON.stringify(value)
}
