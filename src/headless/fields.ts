/** Every field of `npm run trial`: its name, its help, how it is read. The help text and the parser are this table. */
import type { AdapterConfig } from '../config.ts'
import { defaultsOf, trainingDefaults, type TrainingArguments } from '../trainingArguments.ts'
import { presets } from '../methods/registry.ts'

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
    precision: {
      help: 'how matrices of the base lie on a GPU: auto keeps F16 ones as they are, at no loss; float16 rounds all',
      kind: 'text',
      value: 'auto',
      choices: ['auto', 'float32', 'float16'],
    },
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
    task: {
      help: 'what the labels are: a class, several labels, a number; masked_lm needs none',
      kind: 'text',
      value: 'classes',
      choices: ['classes', 'multilabel', 'regression', 'masked_lm'],
    },
    label_columns: { help: 'multilabel: a column of 0 and 1 for each label', kind: 'list', value: null },
    separator: {
      help: 'multilabel: what stands between the labels of one column',
      kind: 'text',
      value: null,
    },
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
    forms: {
      help: 'what is written there: adapter, full_model, onnx, python (a folder to go on with in Python)',
      kind: 'list',
      value: ['adapter'],
    },
  },
  Adapter: {
    adapter: {
      help: `method, as the library writes it, with changes in brackets: "lora[r=4,alpha=16]", "prefix_tuning|par_bn[reduction_factor=8]"; or one of ${presets.map(({ name }) => name).join(', ')}`,
      kind: 'text',
      value: 'seq_bn',
    },
    head_layers: { help: 'linear layers of the head', kind: 'number', value: 2 },
    head_activation: { help: "between the head's layers", kind: 'text', value: 'tanh' },
    head_pooling: {
      help: 'what the head reads: token <s>, the mean of all tokens, or the pooler',
      kind: 'text',
      value: 'first',
      choices: ['first', 'mean', 'pooler'],
    },
    adapter_drop: {
      help: 'AdapterDrop: so many of the lowest layers train without adapter',
      kind: 'number',
      value: 0,
    },
    adapter_drop_mode: {
      help: 'fixed, or drawn anew at every step',
      kind: 'text',
      value: 'fixed',
      choices: ['fixed', 'random'],
    },
    template: {
      help: 'prompt mode: {text} and <mask>, such as "{text} It was<mask>."; the LM head answers',
      kind: 'text',
      value: null,
    },
    label_words: { help: 'prompt mode: the word of each class, in their order', kind: 'list', value: [] },
    fresh_head: {
      help: 'masked_lm: a new LM head instead of the pretrained one',
      kind: 'switch',
      value: false,
    },
    mlm_probability: { help: 'masked_lm: share of the tokens that are hidden', kind: 'number', value: 0.15 },
    pack: {
      help: 'masked_lm: join the texts and cut them into blocks of max_length',
      kind: 'switch',
      value: true,
    },
    summary: {
      help: 'print adapter_summary() for this model and adapter, and stop',
      kind: 'switch',
      value: false,
    },
  },
  'Other adapters beside it': {
    load: { help: 'adapter folders as name=DIR, comma-separated (load_adapter)', kind: 'list', value: [] },
    with_head: { help: 'load their heads too', kind: 'switch', value: false },
    train_loaded: { help: 'names of loaded adapters that train further', kind: 'list', value: [] },
    second_dataset: {
      help: 'labelled files of a second task, whose head trains together with the first on one backbone',
      kind: 'list',
      value: null,
    },
    second_name: { help: "name of the second task's head", kind: 'text', value: 'second' },
    second_label: { help: 'its label column (default: guessed)', kind: 'text', value: null },
    active: {
      help: 'what is active (set_active_adapters), such as Stack("a", "trial") or Fuse("a", "b")',
      kind: 'text',
      value: null,
    },
    fusion: {
      help: 'fusion layers of a Fuse block that the run trains',
      kind: 'text',
      value: 'dynamic',
      choices: ['dynamic', 'static'],
    },
    skip_layers: { help: 'layers (from 0) whose adapters are passed by', kind: 'list', value: [] },
  },
  Training: {
    learning_rate: training('learning rate', 'learning_rate'),
    num_train_epochs: training('passes over the training rows (--epochs)', 'num_train_epochs'),
    max_steps: training('stop after so many steps; -1: off', 'max_steps'),
    per_device_train_batch_size: training('rows to a batch (--batch-size)', 'per_device_train_batch_size'),
    per_device_eval_batch_size: training('rows to a batch in evaluation', 'per_device_eval_batch_size'),
    gradient_accumulation_steps: training('batches to one optimiser step', 'gradient_accumulation_steps'),
    max_tokens_per_batch: training(
      'tokens, padding included, computed at once: a larger batch goes in parts; 0: no limit',
      'max_tokens_per_batch',
    ),
    gradient_checkpointing: training(
      "make each layer's activations again on the way down: less memory, a third more work, the same step",
      'gradient_checkpointing',
    ),
    half_precision_activations: training(
      'keep activations for the way down in half precision: less memory, gradients to about three digits',
      'half_precision_activations',
    ),
    half_precision_products: training(
      'multiply frozen matrices in half precision where the GPU can (shader-f16): gradients to about three digits',
      'half_precision_products',
    ),
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
    base_dropout: {
      help: "the frozen model's own dropout while training, as in Python; off, layers below all that trains run once for a text (default true; false for the head alone)",
      kind: 'switch',
      value: null,
    },
    group_by_length: training('batches of texts of like length', 'group_by_length'),
  },
  'Of loaded adapters alone (no training)': {
    average: {
      help: 'average_adapter: shares as name:weight, comma-separated; the result is named --name',
      kind: 'list',
      value: [],
    },
    combine_strategy: {
      help: 'how they are averaged',
      kind: 'text',
      value: 'linear',
      choices: ['linear', 'lora_linear_only_negate_b', 'lora_delta_w_svd'],
    },
    normalize_weights: { help: 'divide the shares by their sum', kind: 'switch', value: true },
    svd_rank: { help: 'lora_delta_w_svd: rank of the result', kind: 'number', value: null },
    merge: {
      help: 'merge_adapter: write the whole model with this loaded adapter folded in',
      kind: 'text',
      value: null,
    },
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

/** The training arguments among the fields; what is not given is the default for `adapter`. */
export function trainingOf(values: Values, adapter: AdapterConfig): TrainingArguments {
  const alone = (values.load as string[]).length === 0 && values.task !== 'masked_lm'
  const given = Object.keys(trainingDefaults).flatMap((key) => {
    const value = values[key] ?? null
    return value === null ? [] : [[key, value]]
  })
  return { ...defaultsOf(adapter, alone), ...Object.fromEntries(given) }
}
