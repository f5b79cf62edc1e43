/** How a run trains: transformers' `TrainingArguments` as far as they mean something in a tab, their defaults and limits. */

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
  /**
   * Positions, padding included, that are computed at once: a larger batch is computed in parts, longest rows first,
   * whose gradients add up to the batch's own. 0: no limit.
   */
  max_tokens_per_batch: number
  /** Each layer's activations are made again on the way down instead of kept: less memory, a third more work, the same step. */
  gradient_checkpointing: boolean
  /** Activations wait for the way down in half precision: less memory, gradients to about three digits. */
  half_precision_activations: boolean
  /** Frozen matrices are multiplied in half precision where the GPU can: gradients to about three digits; elsewhere ignored. */
  half_precision_products: boolean
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
  /** The base model's own dropout while training, as in Python; off, only head and adapter drop. See `defaultsOf`. */
  base_dropout: boolean
  /** Put texts of like length into one batch, within shuffled windows. */
  group_by_length: boolean
}

/** Hugging Face's defaults except where a small run in a tab is better served; `defaultsOf` knows the method too. */
export const trainingDefaults: TrainingArguments = {
  learning_rate: 1e-3,
  num_train_epochs: 5,
  max_steps: -1,
  per_device_train_batch_size: 16,
  per_device_eval_batch_size: 64,
  gradient_accumulation_steps: 1,
  max_tokens_per_batch: 4096,
  gradient_checkpointing: false,
  half_precision_activations: false,
  half_precision_products: false,
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

/**
 * The defaults for a method. For a head alone the base does not drop: what the frozen layers make of a text is then the
 * same in every epoch and is computed once, where Python drops and computes it anew. `alone`: no adapter stands beside
 * the method's own, and the texts themselves do not change as hidden words do.
 */
export function defaultsOf(
  { architecture }: { architecture: string | null },
  alone: boolean,
): TrainingArguments {
  return { ...trainingDefaults, base_dropout: architecture !== 'head' || !alone }
}

/** Rows of `length` tokens that are computed at once; Infinity without a limit, and never none. */
export function rowsAtOnce(max_tokens_per_batch: number, length: number): number {
  return max_tokens_per_batch > 0 ? Math.max(1, Math.floor(max_tokens_per_batch / length)) : Infinity
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
  if (!(Number.isInteger(args.max_tokens_per_batch) && args.max_tokens_per_batch >= 0))
    problems.push(
      `max_tokens_per_batch is ${args.max_tokens_per_batch}; it must be a whole number, or 0 for no limit.`,
    )
  if (!(Number.isInteger(args.max_length) && args.max_length >= 3))
    problems.push(`max_length is ${args.max_length}; it must be a whole number of at least 3.`)
  if (!(args.learning_rate >= 0 && Number.isFinite(args.learning_rate)))
    problems.push(`learning_rate is ${args.learning_rate}; it must not be negative.`)
  if (args.max_steps <= 0 && !(args.num_train_epochs > 0))
    problems.push('num_train_epochs must be above 0, or max_steps must say how many steps to take.')
  return problems
}
