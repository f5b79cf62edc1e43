/**
 * What the page says about each field of TrainingArguments: words first, the library's name beside them, one or two
 * sentences of help, where that comes from, and the values it can take. The form and its checks are one walk each.
 */
import type { RobertaConfig } from '../config.ts'
import type { TrainingArguments } from '../trainingArguments.ts'

type Key = keyof TrainingArguments

export interface Choice {
  value: string
  label: string
}

export interface FieldSpec {
  key: Key
  label: string
  help: string
  source: string
  /** In the short set that is always in view. */
  basic: boolean
  kind: 'number' | 'boolean' | 'choice'
  min?: number
  max?: number
  /** `any` for real numbers. */
  step?: number | 'any'
  choices?: Choice[]
  /** What a GPU must offer for it; elsewhere it is shown, cannot be switched on, and does nothing. */
  needs?: GPUFeatureName
}

const trainer = 'Hugging Face TrainingArguments'
const adamW = 'Loshchilov and Hutter 2019 (AdamW)'

/** A whole number from `min` up. */
function whole(key: Key, min: number, label: string, help: string, source: string, basic = false): FieldSpec {
  return { key, label, help, source, basic, kind: 'number', min, step: 1 }
}

/** A real number between `min` and `max`. */
function real(
  key: Key,
  min: number,
  max: number,
  label: string,
  help: string,
  source: string,
  basic = false,
): FieldSpec {
  return { key, label, help, source, basic, kind: 'number', min, max, step: 'any' }
}

function yesNo(key: Key, label: string, help: string, source: string): FieldSpec {
  return { key, label, help, source, basic: false, kind: 'boolean' }
}

function choice(key: Key, label: string, help: string, source: string, choices: Choice[]): FieldSpec {
  return { key, label, help, source, basic: false, kind: 'choice', choices }
}

export const trainingFields: FieldSpec[] = [
  real(
    'learning_rate',
    0,
    1,
    'how big each step is',
    'Adapters bear larger steps than full fine-tuning: 1e-4 to 1e-3 usually works. Too large, and the loss jumps or rises.',
    'Pfeiffer et al. 2020; AdapterHub uses 1e-4',
    true,
  ),
  real(
    'num_train_epochs',
    0,
    10000,
    'passes over the training rows',
    'Small data needs more passes; watch the validation curve and stop when it no longer improves.',
    trainer,
    true,
  ),
  whole(
    'per_device_train_batch_size',
    1,
    'rows per step',
    'More rows per step make the loss calmer and take more GPU memory.',
    trainer,
    true,
  ),
  whole(
    'max_length',
    4,
    'longest text, in tokens',
    'Longer texts are cut at the end. Time and memory grow with it; the histogram under Data shows how much is cut.',
    'Hugging Face tokenizers',
    true,
  ),
  whole(
    'seed',
    0,
    'seed',
    'Feeds the order of the rows, the first weights and dropout. The same seed repeats the run.',
    trainer,
    true,
  ),
  whole(
    'max_steps',
    -1,
    'stop after this many steps',
    'Overrides the passes when positive; -1 turns it off.',
    trainer,
  ),
  whole(
    'per_device_eval_batch_size',
    1,
    'rows per evaluation step',
    'Changes speed and memory, not the result: every row counts once.',
    trainer,
  ),
  whole(
    'gradient_accumulation_steps',
    1,
    'batches per step',
    'Averages the gradients of several batches before one step: a larger batch in less memory.',
    trainer,
  ),
  whole(
    'max_tokens_per_batch',
    0,
    'tokens computed at once',
    'Rows with more tokens than this, padding included, are computed in parts whose gradients add up: the same step in less memory. 0 computes all at once.',
    'after --max-tokens of fairseq (Ott et al. 2019)',
  ),
  yesNo(
    'gradient_checkpointing',
    'compute twice, keep less',
    'Each layer is computed again on the way back instead of kept: a third more time, often a third of the memory, the same numbers.',
    'Chen et al. 2016; Hugging Face TrainingArguments',
  ),
  yesNo(
    'half_precision_activations',
    'keep half as many digits',
    'What is kept for the way back takes half the memory. The loss stays as it is; each gradient is right to about three digits.',
    'after Micikevicius et al. 2018',
  ),
  {
    ...yesNo(
      'half_precision_products',
      'multiply with half as many digits',
      'Matrices that are not trained are multiplied in half precision and summed in full, which some GPUs do faster; each gradient is right to about three digits. What is trained, and every evaluation, stays as it is.',
      'after Micikevicius et al. 2018',
    ),
    needs: 'shader-f16',
  },
  choice(
    'lr_scheduler_type',
    'how the step size changes',
    'Linear rises over the warm-up and falls to zero at the end; constant stays, without warm-up.',
    trainer,
    [
      { value: 'linear', label: 'linear' },
      { value: 'constant', label: 'constant' },
    ],
  ),
  real(
    'warmup_ratio',
    0,
    1,
    'warm-up, as a share of all steps',
    'The step size grows from zero over this share, so that fresh weights do not leap. Used when warm-up steps is 0.',
    'Goyal et al. 2017',
  ),
  whole('warmup_steps', 0, 'warm-up, in steps', 'Overrides the share when it is not 0.', trainer),
  real(
    'weight_decay',
    0,
    10,
    'pull towards zero',
    'Shrinks weights a little each step; biases and norms are left alone.',
    adamW,
  ),
  real(
    'adam_beta1',
    0,
    0.9999999,
    'memory of the gradient',
    'How much of the past the running mean keeps.',
    adamW,
  ),
  real(
    'adam_beta2',
    0,
    0.9999999,
    'memory of its square',
    'How much of the past the running square keeps. RoBERTa used 0.98.',
    adamW,
  ),
  real('adam_epsilon', 0, 1, 'smallest divisor', 'Keeps the division stable; RoBERTa used 1e-6.', adamW),
  real(
    'max_grad_norm',
    0,
    1e6,
    'largest gradient',
    'A longer gradient is scaled down to this length; 0 never does.',
    'Pascanu et al. 2013',
  ),
  real(
    'label_smoothing_factor',
    0,
    0.999,
    'doubt in the labels',
    'Moves a share of each label to all classes, against over-confidence.',
    'Szegedy et al. 2016',
  ),
  yesNo(
    'base_dropout',
    "the model's own dropout",
    'Python has it on while training, whatever trains. Off, only the head and the adapter drop, and layers below everything that trains read each text once: later passes need under a hundredth of the arithmetic for a head alone, for which it is off unless you switch it on, and 1.4 times less where the lowest 5 of 12 layers have no adapter.',
    'Srivastava et al. 2014; RobertaConfig',
  ),
  yesNo(
    'group_by_length',
    'like lengths together',
    'Puts texts of like length into one batch, which pads less and runs faster.',
    trainer,
  ),
  choice(
    'eval_strategy',
    'when to evaluate',
    'On the validation split, which training never sees.',
    trainer,
    [
      { value: 'epoch', label: 'after each pass' },
      { value: 'steps', label: 'every few steps' },
      { value: 'no', label: 'never' },
    ],
  ),
  whole('eval_steps', 1, 'steps between evaluations', 'Used when evaluating every few steps.', trainer),
  yesNo(
    'load_best_model_at_end',
    'keep the best, not the last',
    'The weights of the best evaluation are kept and judged on the test split.',
    trainer,
  ),
  choice(
    'metric_for_best_model',
    'what best means',
    'Measured on validation. Macro-F1 counts every class alike.',
    trainer,
    [
      { value: 'f1_macro', label: 'macro-F1' },
      { value: 'f1_micro', label: 'micro-F1' },
      { value: 'accuracy', label: 'accuracy' },
      { value: 'loss', label: 'loss (lowest)' },
    ],
  ),
  whole(
    'early_stopping_patience',
    0,
    'stop after evaluations without gain',
    'Ends the run when the best has not improved for so many evaluations; 0 never does.',
    'Hugging Face EarlyStoppingCallback',
  ),
  real(
    'early_stopping_threshold',
    0,
    1,
    'smallest gain that counts',
    'An improvement below this does not reset the count.',
    'Hugging Face EarlyStoppingCallback',
  ),
  whole(
    'logging_steps',
    1,
    'steps between reports',
    'The loss is read from the GPU only this often, because each read makes it wait.',
    trainer,
  ),
]

/** What is wrong with the values as they stand, in sentences; empty when nothing is. */
export function problemsIn(args: TrainingArguments): string[] {
  const problems: string[] = []
  for (const { key, label, kind, min = -Infinity, max = Infinity, step } of trainingFields) {
    const value = args[key]
    if (kind !== 'number') continue
    if (typeof value !== 'number' || !Number.isFinite(value))
      problems.push(`${label} (${key}) needs a number.`)
    else if (value < min) problems.push(`${label} (${key}) is ${value}; the least is ${min}.`)
    else if (value > max) problems.push(`${label} (${key}) is ${value}; the most is ${max}.`)
    else if (step === 1 && !Number.isInteger(value))
      problems.push(`${label} (${key}) is ${value}; it must be whole.`)
  }
  if (args.learning_rate <= 0) problems.push('how big each step is (learning_rate) must be above 0.')
  if (args.max_steps === 0)
    problems.push('stop after this many steps (max_steps) is 0; use -1 to turn it off.')
  if (args.num_train_epochs <= 0 && args.max_steps < 0)
    problems.push('passes over the training rows (num_train_epochs) must be above 0.')
  if (args.load_best_model_at_end && args.eval_strategy === 'no')
    problems.push(
      'Keeping the best (load_best_model_at_end) needs evaluations: choose when to evaluate, or keep the last.',
    )
  return problems.map((problem) => problem.charAt(0).toUpperCase() + problem.slice(1))
}

/** The first thing that keeps these settings from being trained on this model, or null. */
export function settingsProblem(
  args: TrainingArguments,
  { max_position_embeddings, pad_token_id }: RobertaConfig,
): string | null {
  const readable = max_position_embeddings - pad_token_id - 1
  const length =
    args.max_length > readable
      ? [`The longest text (max_length) is ${args.max_length} tokens; this model reads at most ${readable}.`]
      : []
  return [...problemsIn(args), ...length][0] ?? null
}
