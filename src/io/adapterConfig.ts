/**
 * adapter_config.json and head_config.json of the `adapters` library into our configurations. What is absent has the
 * library's default (`BnConfig`, `LoRAConfig`, `ClassificationHead`); what we cannot compute exactly is refused by the
 * field's name, because a wrong guess would only show as bad predictions.
 */
import {
  classificationHead,
  type AdapterConfig,
  type HeadConfig,
  type LoRAConfig,
  type SeqBnConfig,
} from '../config.ts'

type Fields = Record<string, unknown>

/** Fields that change the function, with the only value that ours computes; absent ones have `BnConfig`'s default. */
const seqBnFields: Fields = {
  mh_adapter: false,
  output_adapter: true,
  non_linearity: 'relu',
  original_ln_before: true,
  original_ln_after: true,
  ln_before: false,
  ln_after: false,
  is_parallel: false,
  scaling: 1,
  use_gating: false,
  residual_before_ln: true,
  adapter_residual_before_ln: false,
  inv_adapter: null,
  phm_layer: false,
  stochastic_depth: 0,
}
const bnDefaults: Fields = { ...seqBnFields, original_ln_before: false, leave_out: [], dropout: 0 }
const bnRequired = ['mh_adapter', 'output_adapter', 'reduction_factor', 'non_linearity']

const loraFields: Fields = {
  composition_mode: 'add',
  use_gating: false,
  use_dora: false,
  vera_d: null,
  vera_b: null,
}
const loraFieldDefaults: Fields = {
  ...loraFields,
  r: 8,
  alpha: 8,
  dropout: 0,
  attn_matrices: ['q', 'v'],
  selfattn_lora: true,
  intermediate_lora: false,
  output_lora: false,
  leave_out: [],
}

/** Configuration strings of the library that stand for whole configurations. */
const presets: Record<string, Fields> = {
  seq_bn: { ...seqBnFields, reduction_factor: 16 },
  pfeiffer: { ...seqBnFields, reduction_factor: 16 },
  lora: { architecture: 'lora' },
}

/** Model types whose checkpoints have RoBERTa's layers and the prefix `roberta.`. */
const modelTypes = ['roberta', 'xlm-roberta', 'camembert']

/** The whole of adapter_config.json. Throws one sentence that names the method or field we do not have. */
export function readAdapterConfig(file: Fields, notes: string[]): Exclude<AdapterConfig, { method: 'head' }> {
  if (typeof file.model_type === 'string' && !modelTypes.includes(file.model_type))
    throw new Error(`The adapter is for a ${file.model_type} model; this page has RoBERTa models only.`)
  const given = file.config
  if (typeof given === 'string' && !Object.hasOwn(presets, given))
    throw new Error(`The adapter's configuration “${given}” is not supported; seq_bn and lora are.`)
  const config = typeof given === 'string' ? presets[given] : given
  if (!isFields(config))
    throw new Error('adapter_config.json has no config: this is not an adapter of the adapters library.')
  const architecture = config.architecture ?? null
  if (architecture === 'lora') return readLora(config, file.version, notes)
  if (architecture !== null)
    throw new Error(`The adapter's method “${String(architecture)}” is not supported; seq_bn and lora are.`)
  return readSeqBn(config, file)
}

function readSeqBn(config: Fields, file: Fields): SeqBnConfig {
  const absent = bnRequired.find((field) => !(field in config))
  if (absent)
    throw new Error(`adapter_config.json lacks the field ${absent}, which a bottleneck adapter needs.`)
  const fields: Fields = { ...bnDefaults, ...config }
  // Task adapters of before 2023 name an invertible adapter that they never had.
  if (file.type === 'text_task') fields.inv_adapter = null
  refuseOthers(fields, seqBnFields, 'a sequential bottleneck (seq_bn)')
  let factor = fields.reduction_factor
  if (isFields(factor) && Object.keys(factor).join() === 'default') factor = factor.default
  if (typeof factor !== 'number' || !(factor > 0))
    throw new Error(
      `The reduction_factor ${JSON.stringify(factor)} is not supported: one number for all layers is.`,
    )
  return {
    method: 'seq_bn',
    reduction_factor: factor,
    leave_out: layersOf(fields),
    dropout: dropoutOf(fields),
  }
}

function readLora(config: Fields, version: unknown, notes: string[]): LoRAConfig {
  const fields: Fields = { ...loraFieldDefaults, ...config }
  refuseOthers(fields, loraFields, 'plain LoRA')
  const { r, attn_matrices } = fields
  let { alpha } = fields
  if (typeof r !== 'number' || !Number.isInteger(r) || r < 1)
    throw new Error(`The LoRA rank r is ${JSON.stringify(r)}; it must be a whole number from 1.`)
  if (typeof alpha !== 'number' || !Number.isFinite(alpha))
    throw new Error(`The LoRA alpha is ${JSON.stringify(alpha)}; it must be a number.`)
  if (!Array.isArray(attn_matrices) || !attn_matrices.every((matrix) => ['q', 'k', 'v'].includes(matrix)))
    throw new Error(`The attn_matrices ${JSON.stringify(attn_matrices)} are not supported: q, k and v are.`)
  if (alpha !== r && isBefore11(version)) {
    notes.push(`Written before adapters 1.1, which ignored alpha: it counts as ${r}, as the library does.`)
    alpha = r
  }
  return {
    method: 'lora',
    r,
    alpha: alpha as number,
    dropout: dropoutOf(fields),
    attn_matrices,
    selfattn_lora: fields.selfattn_lora === true,
    intermediate_lora: fields.intermediate_lora === true,
    output_lora: fields.output_lora === true,
    leave_out: layersOf(fields),
  }
}

/** `adapters.0.2.1` and `adapters.1.0.0`; other strings are not the library's and count as new, as it does. */
function isBefore11(version: unknown): boolean {
  const [, major, minor] = /^adapters\.(\d+)\.(\d+)/.exec(String(version)) ?? []
  return major !== undefined && (Number(major) < 1 || (Number(major) === 1 && Number(minor) < 1))
}

/** The head's own config, or that of a static `RobertaForSequenceClassification`, with the labels in order. */
export function readHeadConfig(file: Fields, notes: string[]): { head: HeadConfig; id2label: string[] } {
  if (!isFields(file.config)) return readStaticHead(file, notes)
  const config = file.config
  if (config.head_type !== 'classification')
    throw new Error(
      `The prediction head is of type ${JSON.stringify(config.head_type)}; only classification is supported.`,
    )
  const fields: Fields = { layers: 2, activation_function: 'tanh', use_pooler: false, bias: true, ...config }
  refuseOthers(
    fields,
    { layers: 2, activation_function: 'tanh', use_pooler: false, bias: true },
    'the two-layer tanh head',
  )
  const labels = readLabels(config.label2id, config.num_labels ?? 2, notes)
  const { dropout_prob = null } = config
  if (dropout_prob !== null && typeof dropout_prob !== 'number')
    throw new Error(
      `The head's dropout_prob is ${JSON.stringify(dropout_prob)}; it must be a number or null.`,
    )
  return { head: { ...classificationHead(labels.length), dropout_prob }, id2label: labels }
}

function readStaticHead(file: Fields, notes: string[]): { head: HeadConfig; id2label: string[] } {
  if (!/ForSequenceClassification$/.test(String(file.model_class)))
    throw new Error(
      `The head of ${String(file.model_class)} is not a classification head, which is the only kind supported.`,
    )
  const id2label = readLabels(file.label2id, file.num_labels, notes)
  return { head: classificationHead(id2label.length), id2label }
}

/** Label names by id; `LABEL_0`… where the file has none, as the library names them. */
function readLabels(label2id: unknown, num_labels: unknown, notes: string[]): string[] {
  if (
    typeof num_labels !== 'number' ||
    !Number.isInteger(num_labels) ||
    num_labels < 1 ||
    num_labels > 10_000
  )
    throw new Error(
      `The head's num_labels is ${JSON.stringify(num_labels)}; it must be a whole number from 2.`,
    )
  if (num_labels === 1)
    throw new Error('The head has one output, which is a regression; only classification is supported.')
  if (!isFields(label2id)) {
    notes.push('The head does not name its labels: they are called LABEL_0, LABEL_1 and so on.')
    return Array.from({ length: num_labels }, (_, id) => `LABEL_${id}`)
  }
  const id2label = new Array<string>(num_labels)
  for (const [label, id] of Object.entries(label2id)) if (typeof id === 'number') id2label[id] = label
  const count = Object.keys(label2id).length
  if (count !== num_labels || id2label.length !== num_labels || Object.keys(id2label).length !== num_labels)
    throw new Error(`The head's label2id does not name each of its ${num_labels} classes once.`)
  return id2label
}

/** Throws for the first field whose value is not the one we compute. */
function refuseOthers(fields: Fields, supported: Fields, what: string): void {
  for (const [field, value] of Object.entries(supported))
    if (fields[field] !== value)
      throw new Error(
        `The adapter has ${field}: ${JSON.stringify(fields[field])}; only ${what} is supported, which has ${JSON.stringify(value)} there.`,
      )
}

function layersOf({ leave_out }: Fields): number[] {
  if (!Array.isArray(leave_out) || !leave_out.every((l) => Number.isInteger(l) && l >= 0 && l < 1000))
    throw new Error(`The leave_out ${JSON.stringify(leave_out)} is not a list of layers.`)
  return leave_out
}

function dropoutOf({ dropout }: Fields): number {
  if (typeof dropout !== 'number' || !(dropout >= 0 && dropout < 1))
    throw new Error(`The dropout ${JSON.stringify(dropout)} is not a share from 0 to 1.`)
  return dropout
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
