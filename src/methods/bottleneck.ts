/**
 * Bottleneck adapters: every `BnConfig` of the `adapters` library (Houlsby et al. 2019, Pfeiffer et al. 2020, He et al.
 * 2021, Mahabadi et al. 2021, Steitz & Roth 2024). Presets are the library's classes.
 */
import type { BnConfig } from '../config.ts'
import { bottleneckFields, bottleneckProblems } from './bottleneckFields.ts'
import { bottleneckSublayer } from './bottleneckForward.ts'
import { bottleneckParameters, initialiseBottleneck, standsAt } from './bottleneckModules.ts'
import { firstOf } from './composition.ts'
import { nice, niceInverse } from './invertible.ts'
import type { Method, Walk } from './method.ts'

/** `BnConfig` itself. Its four fields without a default have those of `SeqBnConfig`. */
const defaults: BnConfig = {
  architecture: null,
  mh_adapter: false,
  output_adapter: true,
  reduction_factor: 16,
  non_linearity: 'relu',
  original_ln_before: false,
  original_ln_after: true,
  ln_before: false,
  ln_after: false,
  init_weights: 'bert',
  init_weights_seed: null,
  is_parallel: false,
  scaling: 1,
  use_gating: false,
  residual_before_ln: true,
  adapter_residual_before_ln: false,
  inv_adapter: null,
  inv_adapter_reduction_factor: null,
  cross_adapter: false,
  leave_out: [],
  dropout: 0,
  phm_layer: false,
  phm_dim: 4,
  factorized_phm_W: true,
  shared_W_phm: false,
  shared_phm_rule: true,
  factorized_phm_rule: false,
  phm_c_init: 'normal',
  phm_init_range: 0.0001,
  learn_phm: true,
  hypercomplex_nonlinearity: 'glorot-uniform',
  phm_rank: 1,
  phm_bias: true,
  stochastic_depth: 0,
}

const inverted = { inv_adapter: 'nice', inv_adapter_reduction_factor: 2 } as const
const hypercomplex = { phm_layer: true, reduction_factor: 32, non_linearity: 'gelu' } as const

/** `SeqBnConfig`, “seq_bn” or “pfeiffer” (Pfeiffer et al. 2020). */
export const seqBn: BnConfig = { ...defaults, original_ln_before: true }

/** `DoubleSeqBnConfig`, “double_seq_bn” or “houlsby” (Houlsby et al. 2019). */
export const doubleSeqBn: BnConfig = { ...defaults, mh_adapter: true, non_linearity: 'swish' }

/** `ParBnConfig`, “par_bn” or “parallel” (He et al. 2021). */
export const parBn: BnConfig = {
  ...defaults,
  reduction_factor: 2,
  init_weights: 'mam_adapter',
  is_parallel: true,
  scaling: 4,
}

/** “scaled_par_bn”: the scale is learned. */
export const scaledParBn: BnConfig = { ...parBn, scaling: 'learned' }

/** `SeqBnInvConfig`, “seq_bn_inv” (MAD-X). */
export const seqBnInv: BnConfig = { ...seqBn, ...inverted }

/** `DoubleSeqBnInvConfig`, “double_seq_bn_inv”. */
export const doubleSeqBnInv: BnConfig = { ...doubleSeqBn, ...inverted }

/** `CompacterConfig`, “compacter” (Mahabadi et al. 2021). */
export const compacter: BnConfig = { ...doubleSeqBn, ...hypercomplex }

/** `CompacterPlusPlusConfig`, “compacter++”. */
export const compacterPlusPlus: BnConfig = { ...seqBn, ...hypercomplex }

/** `AdapterPlusConfig` (Steitz & Roth 2024); the library has no string for it. */
export const adapterPlus: BnConfig = {
  ...defaults,
  reduction_factor: 96,
  non_linearity: 'gelu',
  original_ln_before: true,
  original_ln_after: false,
  init_weights: 'houlsby',
  scaling: 'channel',
  residual_before_ln: false,
  stochastic_depth: 0.1,
}

export const bottleneck: Method<BnConfig> = {
  architecture: null,
  defaults,
  fields: bottleneckFields,
  problems: bottleneckProblems,
  parameters: bottleneckParameters,
  initialise: initialiseBottleneck,

  embeddings(walk, x) {
    const first = invertible(walk)
    return first ? nice(walk, first.config, first.name, x) : x
  },

  sublayer(walk, site, ending, norm) {
    const configOf = (name: string) =>
      walk.config(bottleneck, name, (config) => standsAt(config, walk.layer, site))
    return bottleneckSublayer({ walk, site, norm, configOf }, ending)
  },

  beforeDecoder(walk, x) {
    const first = invertible(walk)
    return first ? niceInverse(walk, first.config, first.name, x) : x
  },
}

/** The invertible block in force: the first adapter's of the active setup, or none. */
function invertible(walk: Walk): { name: string; config: BnConfig } | null {
  if (walk.setup === null) return null
  const name = firstOf(walk.setup)
  const config = walk.config(bottleneck, name, ({ inv_adapter }) => inv_adapter !== null)
  return config && { name, config }
}
