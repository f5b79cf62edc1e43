/** Every field of `npm run trial`: its name, its help, how it is read. The help text and the parser are this table. */
import {
  loraDefaults,
  seqBnDefaults,
  trainingDefaults,
  type AdapterConfig,
  type LoRAMatrix,
  type TrainingArguments,
} from '../config.ts'

type Kind = 'text' | 'number' | 'switch' | 'list'
export type Value = string | number | boolean | string[]

interface Field {
  help: string
  kind: Kind
  /** null: no default; the field is required where its use says so, or simply off. */
  value: Value | null
  choices?: string[]
}

const training = (help: string, key: keyof TrainingArguments, choices?: string[]): Field => {
  const value = trainingDefaults[key]
  const kind = typeof value === 'number' ? 'number' : typeof value === 'boolean' ? 'switch' : 'text'
  return { help, kind, value, ...(choices && { choices }) }
}

export const fields: Record<string, Record<string, Field>> = {
  'Model and data': {
    name: { help: 'name of the trial and of its adapter', kind: 'text', value: 'trial' },
    transformer: {
      help: 'model folder: config.json, tokenizer.json, model.safetensors',
      kind: 'text',
      value: null,
    },
    backend: { help: 'what computes', kind: 'text', value: 'wasm', choices: ['wasm', 'cpu', 'webgpu'] },
    dataset: {
      help: 'labelled files, comma-separated; "sample" is the bundled reviews',
      kind: 'list',
      value: null,
    },
    validation_file: {
      help: 'a file for validation instead of a share of the data',
      kind: 'text',
      value: null,
    },
    test_file: { help: 'a file for the test instead of a share of the data', kind: 'text', value: null },
    text: { help: 'text column (default: guessed)', kind: 'text', value: null },
    text_pair: { help: 'second text column', kind: 'text', value: null },
    label: { help: 'label column (default: guessed)', kind: 'text', value: null },
    threshold: {
      help: 'numeric labels: this and above are "positive", below "negative"',
      kind: 'number',
      value: null,
    },
    validation: { help: 'share of the rows for validation', kind: 'number', value: 0.1 },
    test: { help: 'share of the rows for the test', kind: 'number', value: 0.2 },
    split_seed: { help: 'seed of the split (default: --seed)', kind: 'number', value: null },
    fraction: { help: 'share of the training rows that is used', kind: 'number', value: 1 },
    sampling: {
      help: 'how that share is drawn',
      kind: 'text',
      value: 'stratified',
      choices: ['stratified', 'first'],
    },
    output_dir: { help: 'folder for the adapter files (made if absent)', kind: 'text', value: null },
  },
  Adapter: {
    adapter: {
      help: 'method; head is the frozen model with a head alone',
      kind: 'text',
      value: 'seq_bn',
      choices: ['seq_bn', 'lora', 'head'],
    },
    reduction_factor: {
      help: 'seq_bn: hidden size over bottleneck width',
      kind: 'number',
      value: seqBnDefaults.reduction_factor,
    },
    r: { help: 'lora: rank', kind: 'number', value: loraDefaults.r },
    alpha: { help: 'lora: the update is scaled by alpha / r', kind: 'number', value: loraDefaults.alpha },
    attn_matrices: { help: 'lora: which of q, k, v', kind: 'list', value: loraDefaults.attn_matrices },
    intermediate_lora: { help: 'lora: on the feed-forward up-projection too', kind: 'switch', value: false },
    output_lora: { help: 'lora: on the feed-forward down-projection too', kind: 'switch', value: false },
    adapter_dropout: { help: "the adapter's own dropout", kind: 'number', value: 0 },
    leave_out: { help: 'layers (from 0) without adapter', kind: 'list', value: [] },
  },
  Training: {
    learning_rate: training('learning rate', 'learning_rate'),
    num_train_epochs: training('passes over the training rows (--epochs)', 'num_train_epochs'),
    max_steps: training('stop after so many steps; -1: off', 'max_steps'),
    per_device_train_batch_size: training('rows to a batch (--batch-size)', 'per_device_train_batch_size'),
    per_device_eval_batch_size: training('rows to a batch in evaluation', 'per_device_eval_batch_size'),
    gradient_accumulation_steps: training('batches to one optimiser step', 'gradient_accumulation_steps'),
    adam_beta1: training('AdamW: decay of the first moment', 'adam_beta1'),
    adam_beta2: training('AdamW: decay of the second moment', 'adam_beta2'),
    adam_epsilon: training('AdamW: added to the root of the second moment', 'adam_epsilon'),
    weight_decay: training('AdamW: decoupled weight decay, not on biases and norms', 'weight_decay'),
    max_grad_norm: training('clip gradients to this global norm; 0: never', 'max_grad_norm'),
    lr_scheduler_type: training('how the learning rate falls', 'lr_scheduler_type', ['linear', 'constant']),
    warmup_ratio: training('share of the steps in which the rate rises from 0', 'warmup_ratio'),
    warmup_steps: training('the same in steps; overrides warmup_ratio', 'warmup_steps'),
    label_smoothing_factor: training('share of the target spread over all classes', 'label_smoothing_factor'),
    logging_steps: training('steps between reads of the loss (--batch-logging)', 'logging_steps'),
    eval_strategy: training('when to evaluate', 'eval_strategy', ['no', 'epoch', 'steps']),
    eval_steps: training('steps between evaluations with eval_strategy steps', 'eval_steps'),
    load_best_model_at_end: training(
      'end with the best weights instead of the last',
      'load_best_model_at_end',
    ),
    metric_for_best_model: training('which are best', 'metric_for_best_model', [
      'loss',
      'f1_macro',
      'f1_micro',
      'accuracy',
    ]),
    early_stopping_patience: training(
      'evaluations without improvement before stopping; 0: never',
      'early_stopping_patience',
    ),
    early_stopping_threshold: training('what counts as improvement', 'early_stopping_threshold'),
    seed: training('of split, order, initialisation and dropout', 'seed'),
    max_length: training('tokens kept of each text', 'max_length'),
    base_dropout: training("the frozen model's own dropout while training", 'base_dropout'),
    group_by_length: training('batches of texts of like length', 'group_by_length'),
  },
  'Compare with Python (no training, no tokenizer)': {
    load_adapter: { help: 'adapter folder, of the adapters library or peft', kind: 'text', value: null },
    batch: { help: 'JSON file {input_ids, attention_mask, labels}', kind: 'text', value: null },
    dump: {
      help: 'file for {logits, loss, last_hidden_state, grads}, evaluation mode',
      kind: 'text',
      value: null,
    },
  },
}

const aliases: Record<string, string> = {
  epochs: 'num_train_epochs',
  batch_size: 'per_device_train_batch_size',
  batch_logging: 'logging_steps',
}

export type Values = Record<string, Value | null>

/** Reads a command line. Throws one sentence about the first field that is unknown, lacks a value or has a bad one. */
export function parseFields(argv: string[]): Values {
  const known: Record<string, Field> = Object.assign({}, ...Object.values(fields))
  const values: Values = Object.fromEntries(Object.entries(known).map(([name, { value }]) => [name, value]))
  for (let i = 0; i < argv.length; i++) {
    const [flag, inline] = splitOnce(argv[i]!)
    const plain = flag.replace(/^--/, '').replaceAll('-', '_')
    const name = aliases[plain] ?? plain
    const field = Object.hasOwn(known, name) ? known[name] : undefined
    if (!flag.startsWith('--') || !field)
      throw new Error(`There is no field ${argv[i]}; npm run trial -- --help lists them.`)
    const bare = field.kind === 'switch' && inline === null && (argv[i + 1] ?? '--').startsWith('--')
    const text = bare ? 'true' : (inline ?? argv[++i])
    if (text === undefined) throw new Error(`--${name} needs a value.`)
    values[name] = read(name, field, text)
  }
  return values
}

function splitOnce(argument: string): [string, string | null] {
  const at = argument.indexOf('=')
  return at < 0 ? [argument, null] : [argument.slice(0, at), argument.slice(at + 1)]
}

function read(name: string, { kind, choices }: Field, text: string): Value {
  if (choices && !choices.includes(text))
    throw new Error(`--${name} is "${text}", not one of ${choices.join(', ')}.`)
  if (kind === 'text') return text
  if (kind === 'list')
    return text
      .split(',')
      .map((part) => part.trim())
      .filter(Boolean)
  if (kind === 'number') {
    const value = Number(text)
    if (text.trim() === '' || !Number.isFinite(value))
      throw new Error(`--${name} is "${text}", not a number.`)
    return value
  }
  if (/^(true|1|yes|on)$/i.test(text)) return true
  if (/^(false|0|no|off)$/i.test(text)) return false
  throw new Error(`--${name} is "${text}", neither true nor false.`)
}

/** Every field with its help, choices and default. */
export function helpText(): string {
  const lines = ['npm run trial -- --transformer DIR --dataset FILE --output_dir DIR [--field value …]', '']
  for (const [title, group] of Object.entries(fields)) {
    lines.push(`${title}:`)
    for (const [name, { help, value, choices }] of Object.entries(group)) {
      const notes = [
        choices?.join(' | '),
        value === null || String(value) === '' ? null : `default ${String(value)}`,
      ]
      lines.push(
        `  --${name.padEnd(28)} ${help}${notes.some(Boolean) ? ` [${notes.filter(Boolean).join('; ')}]` : ''}`,
      )
    }
    lines.push('')
  }
  lines.push('Events go to standard output as JSON lines, progress to standard error.')
  return lines.join('\n')
}

/** The adapter that the fields describe. */
export function adapterOf(values: Values): AdapterConfig {
  const leave_out = (values.leave_out as string[]).map(Number)
  const dropout = values.adapter_dropout as number
  switch (values.adapter) {
    case 'seq_bn':
      return { method: 'seq_bn', reduction_factor: values.reduction_factor as number, leave_out, dropout }
    case 'lora':
      return {
        method: 'lora',
        r: values.r as number,
        alpha: values.alpha as number,
        dropout,
        attn_matrices: values.attn_matrices as LoRAMatrix[],
        selfattn_lora: (values.attn_matrices as string[]).length > 0,
        intermediate_lora: values.intermediate_lora as boolean,
        output_lora: values.output_lora as boolean,
        leave_out,
      }
    default:
      return { method: 'head' }
  }
}

/** The training arguments among the fields. */
export function trainingOf(values: Values): TrainingArguments {
  const entries = Object.keys(trainingDefaults).map((key) => [key, values[key]])
  return { ...trainingDefaults, ...Object.fromEntries(entries) }
}
