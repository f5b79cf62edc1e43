/**
 * Plain data that every part of the program shares: the base model's config.json, adapters, heads, training
 * arguments and a tensor as the host sees it. Field names are Hugging Face's and AdapterHub's, so a config file is
 * parsed, never mapped. This file imports nothing and computes almost nothing.
 */

/** A tensor in host memory, row-major float32, whatever its dtype was on disk. */
export interface HostTensor {
  shape: number[]
  data: Float32Array
}

/** Tensors by checkpoint key, in file order. */
export type TensorMap = Map<string, HostTensor>

/** `config.json` of a RoBERTa-family model (transformers `RobertaConfig`), with the class defaults filled in. */
export interface RobertaConfig {
  model_type: string
  vocab_size: number
  hidden_size: number
  num_hidden_layers: number
  num_attention_heads: number
  intermediate_size: number
  hidden_act: string
  hidden_dropout_prob: number
  attention_probs_dropout_prob: number
  classifier_dropout: number | null
  max_position_embeddings: number
  type_vocab_size: number
  layer_norm_eps: number
  initializer_range: number
  pad_token_id: number
  bos_token_id: number
  eos_token_id: number
}

/** `layer -> width` as the library writes it: a number for all layers, or one by layer with "default" for the rest. */
export type ReductionFactor = number | Record<string, number>

/**
 * Bottleneck adapters: `BnConfig` of `adapters`, of which seq_bn, double_seq_bn, par_bn, compacter, AdapterPlus and
 * their like are presets (src/methods/bottleneck.ts). Field for field the `config` of adapter_config.json, which has
 * no `architecture` for them.
 */
export interface BnConfig {
  architecture: null
  mh_adapter: boolean
  output_adapter: boolean
  /** Width is `max(floor(hidden_size / reduction_factor), 1)`. */
  reduction_factor: ReductionFactor
  non_linearity: string
  original_ln_before: boolean
  original_ln_after: boolean
  ln_before: boolean
  ln_after: boolean
  init_weights: 'bert' | 'mam_adapter' | 'houlsby'
  /** The library then draws every module from this seed, all alike; null and 0: from the run's. */
  init_weights_seed: number | null
  is_parallel: boolean
  scaling: number | 'learned' | 'channel'
  use_gating: boolean
  residual_before_ln: boolean | 'post_add'
  adapter_residual_before_ln: boolean
  /** `glow` exists in the library but crashes in its forward pass. */
  inv_adapter: 'nice' | null
  inv_adapter_reduction_factor: number | null
  cross_adapter: boolean
  /** Layers (from 0) that get no adapter. */
  leave_out: number[]
  dropout: number
  phm_layer: boolean
  phm_dim: number
  factorized_phm_W: boolean
  shared_W_phm: boolean
  shared_phm_rule: boolean
  factorized_phm_rule: boolean
  phm_c_init: 'normal' | 'uniform'
  phm_init_range: number
  learn_phm: boolean
  hypercomplex_nonlinearity: string
  phm_rank: number
  phm_bias: boolean
  stochastic_depth: number
}

export type LoRAMatrix = 'q' | 'k' | 'v'

/** Low-rank updates of linear layers: `LoRAConfig`, with IA3 (`composition_mode: scale`) and DoRA (`use_dora`). */
export interface LoRAConfig {
  architecture: 'lora'
  selfattn_lora: boolean
  intermediate_lora: boolean
  output_lora: boolean
  leave_out: number[]
  r: number
  /** The update is scaled by `alpha / r`. */
  alpha: number
  dropout: number
  attn_matrices: LoRAMatrix[]
  composition_mode: 'add' | 'scale'
  init_weights: 'lora' | 'bert' | 'ia3'
  init_weights_seed: number | null
  use_gating: boolean
  use_dora: boolean
  /** VeRA's two numbers; the library's VeRA is refused, see src/methods/lora.ts. */
  vera_d: null
  vera_b: null
  dtype: null
}

/** Keys and values put in front of every layer's own: `PrefixTuningConfig` (Li & Liang 2021). */
export interface PrefixTuningConfig {
  architecture: 'prefix_tuning'
  encoder_prefix: boolean
  cross_prefix: boolean
  leave_out: number[]
  flat: boolean
  prefix_length: number
  bottleneck_size: number
  non_linearity: string
  dropout: number
  use_gating: boolean
  shared_gating: boolean
  init_weights_seed: number | null
}

/** Trained rows in front of the embedded text: `PromptTuningConfig` (Lester et al. 2021). */
export interface PromptTuningConfig {
  architecture: 'prompt_tuning'
  prompt_length: number
  prompt_init: 'random_uniform' | 'from_string'
  prompt_init_text: string | null
  combine: 'prefix' | 'prefix_after_bos'
  init_weights_seed: number | null
}

/** Interventions on a few tokens after each layer: `ReftConfig` (Wu et al. 2024), LoReFT and NoReFT. */
export interface ReftConfig {
  architecture: 'reft'
  layers: 'all' | number[]
  prefix_positions: number
  suffix_positions: number
  r: number
  orthogonality: boolean
  tied_weights: boolean
  dropout: number
  non_linearity: string | null
  dtype: null
  output_reft: boolean
  init_weights_seed: number | null
}

/** Several methods under one name: `ConfigUnion`, as MAM and UniPELT are. */
export interface ConfigUnion {
  architecture: 'union'
  configs: AdapterConfig[]
}

/**
 * What an adapter is held against, not of the library: `head` trains a head alone on the frozen model, `bitfit` its
 * biases too (Ben Zaken et al. 2022), `full` every weight.
 */
export interface ComparisonConfig {
  architecture: 'head' | 'bitfit' | 'full'
}

export type AdapterConfig =
  | BnConfig
  | LoRAConfig
  | PrefixTuningConfig
  | PromptTuningConfig
  | ReftConfig
  | ConfigUnion
  | ComparisonConfig
export type Architecture = AdapterConfig['architecture']

/** A composition block of `adapters` (composition.py); a name alone is that adapter. */
export type AdapterSetup =
  | string
  | { type: 'Stack'; children: AdapterSetup[] }
  | { type: 'Parallel'; children: AdapterSetup[] }
  | { type: 'Fuse'; children: AdapterSetup[] }
  /** `splits`: tokens for each child. */
  | { type: 'Split'; children: AdapterSetup[]; splits: number[] }
  /** `batch_sizes`: rows for each child. */
  | { type: 'BatchSplit'; children: AdapterSetup[]; batch_sizes: number[] }
  | { type: 'Average'; children: AdapterSetup[]; weights: number[] | null; normalize_weights: boolean }

/** `AdapterFusionConfig` (Pfeiffer et al. 2021). */
export interface FusionConfig {
  key: boolean
  query: boolean
  value: boolean
  query_before_ln: boolean
  regularization: boolean
  residual_before: boolean
  temperature: boolean
  value_before_softmax: boolean
  value_initialized: boolean
  dropout_prob: number | null
}

/**
 * `ClassificationHead` and `MultiLabelClassificationHead` of `adapters`: for each layer dropout, Linear and, but for
 * the last, an activation. One label is a regression (mean squared error), as in the library.
 */
export interface ClassificationHeadConfig {
  head_type: 'classification' | 'multilabel_classification'
  num_labels: number
  layers: number
  activation_function: string | null
  /** null: the model's classifier_dropout, else its hidden_dropout_prob. */
  dropout_prob: number | null
  use_pooler: boolean
  bias: boolean
  /** What the head reads when it has no pooler: token 0, or (ours alone) the mean of the text's tokens. */
  pooling: 'first' | 'mean'
}

/** `BertStyleMaskedLMHead` of `adapters`: Linear, activation, LayerNorm, and a decoder tied to the word embeddings. */
export interface MaskedLMHeadConfig {
  head_type: 'masked_lm'
  vocab_size: number
  embedding_size: number
  layers: 2
  activation_function: 'gelu'
  layer_norm: true
  bias: true
  shift_labels: false
}

export type HeadConfig = ClassificationHeadConfig | MaskedLMHeadConfig

/**
 * What a batch of B rows of S tokens is measured against when that is no class: classes stay in the batch's `labels`.
 * `multilabel` has labels [B·num_labels] of 0 and 1, `regression` numbers [B]. `masked_lm` has the words `ids` [M] that
 * stood at `positions` [M] (token t of row b is b·S + t). `label_words` reads one position [B] in each row and knows the
 * word of each class, or, with a single word, of class 1 against nothing.
 */
export type Targets =
  | { kind: 'multilabel'; labels: Float32Array; num_labels: number }
  | { kind: 'regression'; labels: Float32Array }
  | { kind: 'masked_lm'; positions: Int32Array; ids: Int32Array }
  | { kind: 'label_words'; positions: Int32Array; words: Int32Array }

/** Everything that stands on a base: what exists, what is active, and what trains. */
export interface ModelSetup {
  adapters: Record<string, AdapterConfig>
  /** By the comma-joined names of their members, as the library keys them. */
  fusions: Record<string, FusionConfig>
  heads: Record<string, HeadConfig>
  active: AdapterSetup | null
  /** Heads that are computed, in the order of their outputs; more than one for Parallel and for several tasks. */
  active_heads: string[]
  /** Names of adapters, fusions and heads that train; `base`: which of the model's own weights do. */
  train: { adapters: string[]; fusions: string[]; heads: string[]; base: 'none' | 'bias' | 'all' }
  /** Layers whose adapters are passed by (AdapterDrop, Rücklé et al. 2021). */
  skip_layers: number[]
}

/** What the user may say of a classification head; its labels, and so its type, come from the data. */
export type HeadOptions = Omit<ClassificationHeadConfig, 'head_type' | 'num_labels'>

/** A kept adapter that is put into the model. */
export interface Member {
  /** Its name there: the adapter's own, or another (`load_as`) when two have one name. */
  name: string
  runId: string
  /** `load_adapter(path, with_head=…)` */
  with_head: boolean
  /** In a run: it learns further. Otherwise it stays as it is. */
  train: boolean
  /** In a run: its head learns further. */
  train_head: boolean
}

/** Kept adapters in the model, and how they work together with each other and with the adapter of a run. */
export interface Assembly {
  members: Member[]
  /** `set_active_adapters`; a run's own adapter stands in it under `adapterName(name of the run)`. null: none. */
  active: AdapterSetup | null
  /** Layers, from 0, whose adapters are passed by: `set_active_adapters(…, skip_layers=…)`. */
  skip_layers: number[]
  /** Fusion layers that `active` asks for, by the comma-joined names of their members: new ones, which a run trains. */
  fusions: Record<string, FusionConfig>
}

/** AdapterDrop in training: the lowest `layers` layers go without adapters, or in each step a number drawn from 0 to that. */
export interface AdapterDrop {
  mode: 'fixed' | 'random'
  layers: number
}

/** Which weights a run stood on; an adapter is refused on another base. */
export interface BaseIdentity {
  /** Hub id, folder name, or `mini-roberta`. */
  name: string
  /** SHA-256 of model.safetensors, hex. */
  sha256: string
  hidden_size: number
  num_hidden_layers: number
  vocab_size: number
}

/** Everything that makes an adapter usable again: weights, configs, labels, and where it came from. */
export interface AdapterBundle {
  name: string
  adapter: AdapterConfig
  /** null for an adapter without one of its own: it serves another head, or comes from a file that has none. */
  head: HeadConfig | null
  /** Label names by class index; empty without a head, and for one that has no classes. */
  id2label: string[]
  /** Keys are the `adapters` library's: `roberta.encoder.layer.0.output.adapters.{name}.…`, `heads.{name}.1.weight`. */
  tensors: TensorMap
  /** null for a folder made elsewhere, which does not record it. */
  base: BaseIdentity | null
  /** Of the model, where a file that records no base says it. */
  hidden_size?: number
  max_length: number
}

/** A composition with all that it needs, as `save_adapter_setup` keeps it. */
export interface SetupBundle {
  /** For the record and the file name. */
  name: string
  active: AdapterSetup
  /** Heads that are computed, in the order of their outputs. */
  active_heads: string[]
  /** Every adapter of `active`, by name and without head: heads stand on their own here. */
  adapters: Record<string, { config: AdapterConfig; tensors: TensorMap }>
  /** By the comma-joined names of their members. */
  fusions: Record<string, { config: FusionConfig; tensors: TensorMap }>
  heads: Record<string, { config: HeadConfig; id2label: string[]; tensors: TensorMap }>
  base: BaseIdentity | null
  hidden_size?: number
  max_length: number
}

/** A fresh two-layer tanh head for `num_labels` classes. */
export function classificationHead(num_labels: number): ClassificationHeadConfig {
  return {
    head_type: 'classification',
    num_labels,
    layers: 2,
    activation_function: 'tanh',
    dropout_prob: null,
    use_pooler: false,
    bias: true,
    pooling: 'first',
  }
}
