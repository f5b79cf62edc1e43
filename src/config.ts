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

export type LoRAMatrix = 'q' | 'k' | 'v'

/** Sequential bottleneck after the feed-forward block: `SeqBnConfig` (Pfeiffer et al. 2020). */
export interface SeqBnConfig {
  method: 'seq_bn'
  /** Width is `max(floor(hidden_size / reduction_factor), 1)`. */
  reduction_factor: number
  /** Layers (from 0) that get no adapter. */
  leave_out: number[]
  /** Dropout on the bottleneck's output while training. */
  dropout: number
}

/** Low-rank update of chosen linear layers: `LoRAConfig` (Hu et al. 2021). */
export interface LoRAConfig {
  method: 'lora'
  r: number
  /** The update is scaled by `alpha / r`. */
  alpha: number
  dropout: number
  attn_matrices: LoRAMatrix[]
  selfattn_lora: boolean
  intermediate_lora: boolean
  output_lora: boolean
  leave_out: number[]
}

/** No adapter at all: the frozen model with a trained head, the baseline that every adapter is held against. */
export interface HeadOnlyConfig {
  method: 'head'
}

export type AdapterConfig = SeqBnConfig | LoRAConfig | HeadOnlyConfig
export type AdapterMethod = AdapterConfig['method']

/** `ClassificationHead` of `adapters`: for each layer dropout, Linear, and tanh between them; reads token 0. */
export interface HeadConfig {
  head_type: 'classification'
  num_labels: number
  layers: 2
  activation_function: 'tanh'
  /** null: the model's classifier_dropout, else its hidden_dropout_prob. */
  dropout_prob: number | null
  use_pooler: false
  bias: true
}

/** Metrics that can choose the best step. `eval_` prefixes are dropped: the split is named where they are shown. */
export type MetricName = 'loss' | 'f1_macro' | 'f1_micro' | 'accuracy'

/** transformers `TrainingArguments`, the fields that have a meaning in a tab, plus the data side of a run. */
export interface TrainingArguments {
  learning_rate: number
  num_train_epochs: number
  /** Positive: stop after so many optimiser steps, whatever num_train_epochs says. -1: off. */
  max_steps: number
  per_device_train_batch_size: number
  per_device_eval_batch_size: number
  gradient_accumulation_steps: number
  adam_beta1: number
  adam_beta2: number
  adam_epsilon: number
  weight_decay: number
  /** Clip the gradient to this global norm; 0: never. */
  max_grad_norm: number
  lr_scheduler_type: 'linear' | 'constant'
  /** Used only when warmup_steps is 0. */
  warmup_ratio: number
  warmup_steps: number
  label_smoothing_factor: number
  /** Read and report the training loss every so many optimiser steps. */
  logging_steps: number
  eval_strategy: 'no' | 'epoch' | 'steps'
  eval_steps: number
  load_best_model_at_end: boolean
  metric_for_best_model: MetricName
  /** Evaluations without improvement before the run stops; 0: never. */
  early_stopping_patience: number
  early_stopping_threshold: number
  /** Feeds order, initialisation and dropout; the split has a seed of its own. */
  seed: number
  /** Longest input in tokens, `<s>` and `</s>` included; longer texts are cut. */
  max_length: number
  /** The base model's own dropout while training, as in Python; off, only head and adapter drop. */
  base_dropout: boolean
  /** Put texts of like length into one batch, within shuffled windows. */
  group_by_length: boolean
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
  head: HeadConfig
  /** Label names by class index. */
  id2label: string[]
  /** Keys are the `adapters` library's: `roberta.encoder.layer.0.output.adapters.{name}.…`, `heads.{name}.1.weight`. */
  tensors: TensorMap
  /** null for a folder made elsewhere, which does not record it. */
  base: BaseIdentity | null
  max_length: number
}

export const seqBnDefaults: SeqBnConfig = {
  method: 'seq_bn',
  reduction_factor: 16,
  leave_out: [],
  dropout: 0,
}

export const loraDefaults: LoRAConfig = {
  method: 'lora',
  r: 8,
  alpha: 8,
  dropout: 0,
  attn_matrices: ['q', 'v'],
  selfattn_lora: true,
  intermediate_lora: false,
  output_lora: false,
  leave_out: [],
}

/** A fresh two-layer tanh head for `num_labels` classes. */
export function classificationHead(num_labels: number): HeadConfig {
  return {
    head_type: 'classification',
    num_labels,
    layers: 2,
    activation_function: 'tanh',
    dropout_prob: null,
    use_pooler: false,
    bias: true,
  }
}

/** Hugging Face's defaults except where a small run in a tab is better served; `learning_rate` depends on the method. */
export const trainingDefaults: TrainingArguments = {
  learning_rate: 1e-3,
  num_train_epochs: 5,
  max_steps: -1,
  per_device_train_batch_size: 16,
  per_device_eval_batch_size: 64,
  gradient_accumulation_steps: 1,
  adam_beta1: 0.9,
  adam_beta2: 0.999,
  adam_epsilon: 1e-8,
  weight_decay: 0.01,
  max_grad_norm: 1,
  lr_scheduler_type: 'linear',
  warmup_ratio: 0.1,
  warmup_steps: 0,
  label_smoothing_factor: 0,
  logging_steps: 5,
  eval_strategy: 'epoch',
  eval_steps: 50,
  load_best_model_at_end: true,
  metric_for_best_model: 'f1_macro',
  early_stopping_patience: 0,
  early_stopping_threshold: 0,
  seed: 42,
  max_length: 128,
  base_dropout: true,
  group_by_length: true,
}

/** What is wrong with an adapter's fields, one sentence each; empty when nothing is. */
export function adapterProblems(adapter: AdapterConfig): string[] {
  if (adapter.method === 'head') return []
  const problems: string[] = []
  if (!adapter.leave_out.every((layer) => Number.isInteger(layer) && layer >= 0))
    problems.push('leave_out must list layers by number, from 0.')
  if (!(adapter.dropout >= 0 && adapter.dropout < 1))
    problems.push(`The adapter's dropout is ${adapter.dropout}; it must be at least 0 and below 1.`)
  if (adapter.method === 'seq_bn') {
    if (!(adapter.reduction_factor > 0 && Number.isFinite(adapter.reduction_factor)))
      problems.push(`reduction_factor is ${adapter.reduction_factor}; it must be above 0.`)
    return problems
  }
  const { r, alpha, attn_matrices, selfattn_lora, intermediate_lora, output_lora } = adapter
  if (!(Number.isInteger(r) && r >= 1)) problems.push(`r is ${r}; it must be a whole number of at least 1.`)
  if (!Number.isFinite(alpha)) problems.push(`alpha is ${alpha}; it must be a number.`)
  const unknown = attn_matrices.find((matrix) => !['q', 'k', 'v'].includes(matrix))
  if (unknown !== undefined) problems.push(`attn_matrices names ${unknown}; it may name q, k and v.`)
  if (!(selfattn_lora && attn_matrices.length > 0) && !intermediate_lora && !output_lora)
    problems.push('LoRA changes no matrix; choose at least one of q, k, v, intermediate_lora, output_lora.')
  return problems
}

/** What is wrong with training arguments, one sentence each; empty when nothing is. */
export function trainingProblems(args: TrainingArguments): string[] {
  const problems: string[] = []
  const whole = [
    'per_device_train_batch_size',
    'per_device_eval_batch_size',
    'gradient_accumulation_steps',
    'logging_steps',
    'eval_steps',
  ] as const
  for (const key of whole)
    if (!(Number.isInteger(args[key]) && args[key] >= 1))
      problems.push(`${key} is ${args[key]}; it must be a whole number of at least 1.`)
  if (!(Number.isInteger(args.max_length) && args.max_length >= 3))
    problems.push(`max_length is ${args.max_length}; it must be a whole number of at least 3.`)
  if (!(args.learning_rate >= 0 && Number.isFinite(args.learning_rate)))
    problems.push(`learning_rate is ${args.learning_rate}; it must not be negative.`)
  if (args.max_steps <= 0 && !(args.num_train_epochs > 0))
    problems.push('num_train_epochs must be above 0, or max_steps must say how many steps to take.')
  return problems
}
