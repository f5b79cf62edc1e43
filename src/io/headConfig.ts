/**
 * head_config.json of the `adapters` library: its prediction heads, and the heads of Hugging Face's own classes, which
 * it turns into them (`STATIC_TO_FLEX_HEAD_MAP`). What we cannot compute exactly is refused by the field's name.
 */
import { classificationHead, type ClassificationHeadConfig, type HeadConfig } from '../config.ts'
import { checkModelType, valueJson } from './adapterConfig.ts'
import { checkTypes, isFields, readFields, shown, type Fields } from './fields.ts'
import type { PyJson } from './json.ts'

export interface ReadHead {
  /** Of a masked-LM head in the file of a Hugging Face class, `vocab_size` is 0: only its tensors tell. */
  head: HeadConfig
  /** Label names by class; empty for a head that has no classes. */
  id2label: string[]
  /** A file's key to ours under the name `heads.{name}`; null for what is not this head's. */
  rename(key: string, name: string): string | null
}

/** Fields of each `head_type` with the defaults of the library's classes. */
const classFields: Fields = {
  num_labels: 2,
  layers: 2,
  activation_function: 'tanh',
  dropout_prob: null,
  use_pooler: false,
  bias: true,
  // Ours alone: in the library the unknown field stops the load, where leaving it out would change the numbers.
  pooling: 'first',
}

/** `BertStyleMaskedLMHead`: the defaults of `add_masked_lm_head` are the only form that we compute. */
const maskedForm: Fields = { layers: 2, activation_function: 'gelu', layer_norm: true, bias: true, shift_labels: false } // prettier-ignore

/** The whole of head_config.json, with the labels in order. Throws one sentence for a head that we do not have. */
export function readHeadConfig(file: Fields, notes: string[]): ReadHead {
  checkModelType(file, 'prediction head')
  if (!isFields(file.config)) return readStaticHead(file, notes)
  const model = String(file.model_class ?? 'RobertaAdapterModel')
  if (!/(AdapterModel|ModelWithHeads)$/.test(model))
    throw new Error(`The prediction head is of the class ${model}, which is not one with named heads.`)
  const { label2id, id2label: _, head_type, ...given } = file.config
  const own = typeof file.name === 'string' ? file.name : 'default'
  const rename = (key: string, name: string) =>
    key.startsWith(`heads.${own}.`) ? `heads.${name}.${key.slice(`heads.${own}.`.length)}` : null
  if (head_type === 'classification' || head_type === 'multilabel_classification') {
    const head = readClasses(head_type, given)
    return { head, id2label: readLabels(label2id, head.num_labels, notes), rename }
  }
  if (head_type === 'masked_lm') return { head: readMasked(given, file), id2label: [], rename }
  throw new Error(
    `The prediction head is of type ${shown(head_type)}; classification, multilabel_classification and masked_lm are supported, and the adapter alone can be imported without its head.`,
  )
}

function readClasses(
  head_type: ClassificationHeadConfig['head_type'],
  given: Fields,
): ClassificationHeadConfig {
  const fields = readFields(given, classFields, [], 'prediction head', null)
  checkTypes(
    fields,
    classFields,
    { dropout_prob: 'number', activation_function: 'string' },
    'prediction head',
  )
  const { layers, dropout_prob, pooling, num_labels } = fields
  if (!Number.isInteger(layers) || Number(layers) < 1 || Number(layers) > 100)
    throw new Error(`The head's layers is ${shown(layers)}; it must be a whole number from 1.`)
  if (typeof dropout_prob === 'number' && !(dropout_prob >= 0 && dropout_prob < 1))
    throw new Error(`The head's dropout_prob is ${dropout_prob}; it must be a share from 0 to 1, or null.`)
  if (pooling !== 'first' && pooling !== 'mean')
    throw new Error(`The head's pooling is ${shown(pooling)}; it must be first or mean.`)
  checkCount(num_labels)
  return { ...(fields as unknown as ClassificationHeadConfig), head_type }
}

function readMasked(given: Fields, { hidden_size }: Fields): HeadConfig {
  const fields = readFields(
    given,
    { ...maskedForm, vocab_size: 0, embedding_size: 0 },
    [],
    'prediction head',
    null,
  )
  for (const [field, value] of Object.entries(maskedForm))
    if (fields[field] !== value)
      throw new Error(
        `The masked-LM head has ${field}: ${shown(fields[field])}; only the head of RoBERTa itself is supported, which has ${shown(value)} there.`,
      )
  const embedding_size = fields.embedding_size || hidden_size
  if (typeof hidden_size === 'number' && embedding_size !== hidden_size)
    throw new Error(
      `The masked-LM head has embedding_size ${shown(embedding_size)} for a model of ${hidden_size}.`,
    )
  return { ...(fields as unknown as HeadConfig & { head_type: 'masked_lm' }), head_type: 'masked_lm', embedding_size: Number(embedding_size) } // prettier-ignore
}

/** Parts of Hugging Face's own heads by their place among the library's. */
const staticParts: Record<string, Record<string, number>> = {
  ForSequenceClassification: { 'classifier.dense': 1, 'classifier.out_proj': 4 },
  ForMaskedLM: { 'lm_head.dense': 0, 'lm_head.layer_norm': 2, 'lm_head.decoder': 3 },
}

function readStaticHead(file: Fields, notes: string[]): ReadHead {
  const kind = /For\w+$/.exec(String(file.model_class))?.[0] ?? ''
  const parts = staticParts[kind]
  if (!parts)
    throw new Error(
      `The head of ${String(file.model_class)} is not supported; those of sequence classification and masked language modelling are.`,
    )
  const rename = (key: string, name: string) => {
    // The decoder's bias is there under two names.
    if (key === 'lm_head.bias') return `heads.${name}.3.bias`
    const [, part, end] = /^(.*)\.(weight|bias)$/.exec(key) ?? []
    const index = part === undefined ? undefined : parts[part]
    return index === undefined ? key : `heads.${name}.${index}.${end}`
  }
  if (kind === 'ForMaskedLM') {
    return { head: readMasked({}, file), id2label: [], rename }
  }
  const num_labels = checkCount(file.num_labels)
  return {
    head: classificationHead(num_labels),
    id2label: readLabels(file.label2id, num_labels, notes),
    rename,
  }
}

function checkCount(num_labels: unknown): number {
  if (Number.isInteger(num_labels) && Number(num_labels) >= 1 && Number(num_labels) <= 10_000)
    return Number(num_labels)
  throw new Error(`The head's num_labels is ${shown(num_labels)}; it must be a whole number from 1.`)
}

/** Label names by id; `LABEL_0`… where the file has none, as the library names them. */
function readLabels(label2id: unknown, num_labels: number, notes: string[]): string[] {
  if (!isFields(label2id)) {
    notes.push('The head does not name its labels: they are called LABEL_0, LABEL_1 and so on.')
    return Array.from({ length: num_labels }, (_, id) => `LABEL_${id}`)
  }
  const id2label = new Array<string>(num_labels)
  for (const [label, id] of Object.entries(label2id)) if (Number.isInteger(id)) id2label[Number(id)] = label
  const count = Object.keys(label2id).length
  if (count !== num_labels || id2label.length !== num_labels || Object.keys(id2label).length !== num_labels)
    throw new Error(`The head's label2id does not name each of its ${num_labels} classes once.`)
  return id2label
}

/** The `config` of head_config.json, every field, as the library writes it. */
export function headJson(head: HeadConfig, id2label: string[]): { [key: string]: PyJson } {
  const { ...fields }: { [key: string]: PyJson } = { ...head }
  if (fields.pooling === 'first') delete fields.pooling
  for (const [field, value] of Object.entries(fields)) fields[field] = valueJson(field, value)
  const labels = Object.fromEntries(id2label.map((label, id) => [label, id]))
  return { ...fields, label2id: head.head_type === 'masked_lm' ? null : labels }
}

/** Whether the library has this head: it knows no mean over the tokens. */
export function isLibraryHead(head: HeadConfig): boolean {
  return head.head_type === 'masked_lm' || head.pooling === 'first' || head.use_pooler
}

/**
 * Key and shape of every tensor of a head on a model of `H` hidden features (`PredictionHead.build`: dropout, Linear
 * and activation are numbered alike). The decoder of a masked-LM head is the word table and not among them; its bias is.
 */
export function headShapes(head: HeadConfig, name: string, H: number): Map<string, number[]> {
  const shapes = new Map<string, number[]>()
  const add = (index: number, weight: number[], bias = true) => {
    shapes.set(`heads.${name}.${index}.weight`, weight)
    if (bias) shapes.set(`heads.${name}.${index}.bias`, weight.slice(0, 1))
  }
  if (head.head_type === 'masked_lm') {
    add(0, [H, H])
    add(2, [H])
    return shapes.set(`heads.${name}.3.bias`, [head.vocab_size])
  }
  const step = head.activation_function === null ? 2 : 3
  for (let i = 0; i < head.layers - 1; i++) add(1 + step * i, [H, H])
  add(1 + step * (head.layers - 1), [head.num_labels, H], head.bias)
  return shapes
}

/** The masked-LM decoder's key; files may hold it, and then it must be the word table of the base. */
export function decoderKey(name: string): string {
  return `heads.${name}.3.weight`
}
