/** Every kind of adapter, head and setup on the made-up small model, for the tests of io/ and the round trip to Python. */
import { classificationHead } from '../src/config.ts'
import type { AdapterConfig, AdapterSetup, BnConfig, HeadConfig, SetupBundle } from '../src/config.ts'
import { expectedFusion, expectedShapes } from '../src/io/adapterKeys.ts'
import { headShapes } from '../src/io/headConfig.ts'
import { emptySetup, fusionsIn } from '../src/io/setup.ts'
import { compacter, doubleSeqBn, seqBn } from '../src/methods/bottleneck.ts'
import { namesIn } from '../src/methods/composition.ts'
import { dynamicFusion, staticFusion } from '../src/methods/fusion.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { prefixTuningConfig } from '../src/methods/prefixTuning.ts'
import { presets } from '../src/methods/registry.ts'
import { base, drawn, sizes } from './io.bundles.ts'

/** Switches of every kind, each away from its preset. */
const variants: Record<string, AdapterConfig> = {
  'compacter, shared and factorized': {
    ...compacter,
    reduction_factor: 4,
    shared_W_phm: true,
    factorized_phm_rule: true,
  },
  'compacter with its own rules': { ...compacter, reduction_factor: 4, shared_phm_rule: false, phm_rank: 2 },
  'bottleneck with norms, gate and widths by layer': {
    ...doubleSeqBn,
    original_ln_before: true,
    ln_before: true,
    ln_after: true,
    use_gating: true,
    scaling: 'learned',
    residual_before_ln: 'post_add',
    adapter_residual_before_ln: true,
    dropout: 0.1,
    reduction_factor: { '0': 2, default: 4 },
  },
  'bottleneck in one layer': { ...seqBn, reduction_factor: 0.5, scaling: 2, leave_out: [0, 2] },
  'prefix tuning without layer 1': {
    ...prefixTuningConfig,
    prefix_length: 5,
    bottleneck_size: 7,
    leave_out: [1],
  },
  'gated prefix tuning': { ...prefixTuningConfig, use_gating: true, shared_gating: false, dropout: 0.5 },
  'gated lora': { ...loraConfig, use_gating: true, init_weights: 'bert', alpha: 3.5 },
  'prompt from text': {
    architecture: 'prompt_tuning',
    prompt_length: 4,
    prompt_init: 'from_string',
    prompt_init_text: 'a “good” film',
    combine: 'prefix_after_bos',
    init_weights_seed: null,
  },
  'reft in two layers': {
    architecture: 'reft',
    layers: [0, 2],
    prefix_positions: 2,
    suffix_positions: 1,
    r: 3,
    orthogonality: true,
    tied_weights: true,
    dropout: 0,
    non_linearity: 'relu',
    dtype: null,
    output_reft: true,
    init_weights_seed: null,
  },
  'a union of its own': {
    architecture: 'union',
    configs: [
      { ...loraConfig, r: 2 },
      { ...prefixTuningConfig, flat: true, prefix_length: 3 },
    ],
  },
}

/** Every preset, narrow enough for a small model, and the variants. */
export const methods: Record<string, AdapterConfig> = {
  ...Object.fromEntries(
    presets
      .filter(({ name }) => !['head', 'bitfit', 'full'].includes(name))
      .map(({ name, config }) => [name, narrow(config)]),
  ),
  ...variants,
}

function narrow(config: AdapterConfig): AdapterConfig {
  if (config.architecture === 'union') return { ...config, configs: config.configs.map(narrow) }
  if (config.architecture === 'prefix_tuning') return { ...config, bottleneck_size: 6 }
  return config.architecture === null && config.phm_layer ? { ...config, reduction_factor: 4 } : config
}

const plain = classificationHead(3)

export const heads: Record<string, HeadConfig> = {
  'two layers': plain,
  'one layer': { ...plain, layers: 1, activation_function: null },
  'three layers of relu': { ...plain, layers: 3, activation_function: 'relu', dropout_prob: 0.25 },
  'three layers of nothing': { ...plain, layers: 3, activation_function: null },
  'no bias': { ...plain, bias: false },
  pooler: { ...plain, layers: 1, activation_function: null, use_pooler: true },
  'mean of the tokens': { ...plain, pooling: 'mean' },
  'many labels': { ...plain, head_type: 'multilabel_classification' },
  regression: { ...plain, num_labels: 1 },
  masked_lm: {
    head_type: 'masked_lm',
    vocab_size: sizes.vocab_size,
    embedding_size: sizes.hidden_size,
    layers: 2,
    activation_function: 'gelu',
    layer_norm: true,
    bias: true,
    shift_labels: false,
  },
}

export function labelsOf(head: HeadConfig): string[] {
  const count = head.head_type === 'masked_lm' ? 0 : head.num_labels
  return Array.from({ length: count }, (_, i) => `class ${i} “é🙂”`)
}

const a = 'lang'
const b = 'task_2'
export const compositions: Record<string, AdapterSetup> = {
  'one alone': b,
  stack: { type: 'Stack', children: [a, b] },
  fuse: { type: 'Fuse', children: [a, b] },
  'stack of a fusion': { type: 'Stack', children: ['c', { type: 'Fuse', children: [a, { type: 'Stack', children: ['c', b] }] }] }, // prettier-ignore
  split: { type: 'Split', children: [a, b], splits: [5, 3] },
  batches: { type: 'BatchSplit', children: [a, b], batch_sizes: [2, 1] },
  parallel: { type: 'Parallel', children: [a, { type: 'Stack', children: ['c', b] }] },
  average: { type: 'Average', children: [a, b], weights: [0.25, 0.75], normalize_weights: true },
  'average of equals': { type: 'Average', children: [a, b], weights: null, normalize_weights: true },
  'average as it is': { type: 'Average', children: [a, b], weights: [1, 2], normalize_weights: false },
}

/** All that a composition needs: sequential bottlenecks, fusions where it fuses, and a head for each of its outputs. */
export function makeSetup(
  active: AdapterSetup,
  config: BnConfig = { ...seqBn, reduction_factor: 4 },
): SetupBundle {
  const setup = { ...emptySetup('my-setup', active), base, max_length: 64 }
  for (const [i, name] of [...new Set(namesIn(active))].entries())
    setup.adapters[name] = { config, tensors: drawn(expectedShapes(config, null, name, sizes), 20 + i) }
  for (const name of fusionsIn(active)) {
    const members = name.split(',').map(() => config)
    const fusion = name.startsWith('lang,task') ? dynamicFusion : staticFusion
    setup.fusions[name] = { config: fusion, tensors: drawn(expectedFusion(fusion, members, name, sizes), 30) }
  }
  const parallel = typeof active !== 'string' && ['Parallel', 'BatchSplit'].includes(active.type)
  setup.active_heads = parallel ? [a, b] : [b]
  for (const [i, name] of setup.active_heads.entries()) {
    const head = i === 0 ? plain : { ...plain, num_labels: 2 }
    const tensors = drawn(headShapes(head, name, sizes.hidden_size), 40 + i)
    setup.heads[name] = { config: head, id2label: labelsOf(head), tensors }
  }
  return setup
}
