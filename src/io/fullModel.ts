/**
 * A finished run as a model of its own: a folder that `transformers` opens as RobertaForSequenceClassification (or its
 * XLM-R and CamemBERT twins) without the `adapters` library, with equal logits. The weights are written tensor by
 * tensor as float32 and read back before the folder is handed out.
 */
import type { AdapterBundle, ClassificationHeadConfig } from '../config.ts'
import { adapterTensor, classifierHead, foldedWeights, foldProblem, type BaseModel } from './foldedWeights.ts'
import { parseObject, pythonJson, PyFloat, type PyJson } from './json.ts'
import { fingerprint } from './onnx/graph.ts'
import { openSafetensors } from './safetensors.ts'

/** File contents by path within the folder; the weights are a Blob, which need not be in memory. */
export type ExportFiles = Map<string, Blob | Uint8Array<ArrayBuffer>>

const classes: Record<string, string> = {
  roberta: 'RobertaForSequenceClassification',
  'xlm-roberta': 'XLMRobertaForSequenceClassification',
  camembert: 'CamembertForSequenceClassification',
}

/** Why this run cannot become a folder of its own, in a sentence; null when it can. */
export function fullModelProblem({ adapter, head }: AdapterBundle): string | null {
  return foldProblem(adapter) ?? headProblem(head)
}

/** RobertaClassificationHead is Linear, tanh, Linear on the first token, and nothing else. */
function headProblem(head: AdapterBundle['head']): string | null {
  const no = (what: string) =>
    `RobertaForSequenceClassification has no ${what}, so this head has no place in it: export the adapter folder, or an ONNX file.`
  if (head === null)
    return 'This adapter has no head, so it gives no classes; add or train a classification head first.'
  if (head.head_type === 'masked_lm') return no('masked-LM head')
  if (head.layers !== 2) return no(head.layers === 1 ? 'head of one layer' : `head of ${head.layers} layers`)
  if (head.activation_function !== 'tanh') return no('other activation in its head than tanh')
  if (head.use_pooler) return no('pooler')
  if (!head.bias) return no('head without biases')
  if (head.pooling !== 'first') return no('mean over the tokens')
  return null
}

/**
 * The folder's files: config.json, model.safetensors, tokenizer.json, tokenizer_config.json. Throws fullModelProblem's
 * sentence, when a tensor is missing, and when the weights do not read back as they were made.
 */
export async function fullModelFiles(base: BaseModel, bundle: AdapterBundle): Promise<ExportFiles> {
  const problem = fullModelProblem(bundle)
  if (problem !== null) throw new Error(problem)
  const text = (content: string) => new TextEncoder().encode(content)
  const files: ExportFiles = new Map()
  files.set('config.json', text(classifierConfig(base, bundle)))
  files.set('model.safetensors', await classifierWeights(base, bundle))
  for (const [name, content] of tokenizerFiles(base, bundle)) files.set(name, text(content))
  return files
}

/** config.json of the classifier: the base's own fields, with the class, the labels and the kind of problem. */
export function classifierConfig(base: BaseModel, bundle: AdapterBundle): string {
  const head = classifierHead(bundle)
  const fields = parseObject(base.config_json, 'config.json')
  for (const key of [
    'torch_dtype',
    'transformers_version',
    'adapters',
    '_name_or_path',
    'quantization_config',
  ])
    delete fields[key]
  const dropout = head.dropout_prob ?? base.config.classifier_dropout
  const labels = Array.from({ length: head.num_labels }, (_, i) => bundle.id2label[i] ?? `LABEL_${i}`)
  return pythonJson({
    ...(fields as { [key: string]: PyJson }),
    ...floats(fields),
    architectures: [classes[base.config.model_type] ?? classes.roberta!],
    classifier_dropout: dropout === null ? null : new PyFloat(dropout),
    dtype: 'float32',
    id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])),
    label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
    num_labels: head.num_labels,
    problem_type: problemType(head),
  })
}

/** Rates and epsilons that JSON may hold as whole numbers, as Python's floats. */
function floats(fields: Record<string, unknown>): { [key: string]: PyJson } {
  const names = ['attention_probs_dropout_prob', 'hidden_dropout_prob', 'initializer_range', 'layer_norm_eps']
  return Object.fromEntries(
    names.flatMap((name) => (typeof fields[name] === 'number' ? [[name, new PyFloat(fields[name])]] : [])),
  )
}

function problemType({ head_type, num_labels }: ClassificationHeadConfig): string {
  if (head_type === 'multilabel_classification') return 'multi_label_classification'
  return num_labels === 1 ? 'regression' : 'single_label_classification'
}

/** The base's tokenizer, told to cut texts where the run cut them. */
export function tokenizerFiles(
  { config, tokenizer, tokenizer_config }: BaseModel,
  { max_length }: { max_length: number },
): [string, string][] {
  const given = tokenizer_config === null ? {} : parseObject(tokenizer_config, 'tokenizer_config.json')
  const fallback = {
    tokenizer_class: config.model_type === 'roberta' ? 'RobertaTokenizer' : 'PreTrainedTokenizerFast',
    bos_token: '<s>',
    eos_token: '</s>',
    cls_token: '<s>',
    sep_token: '</s>',
    pad_token: '<pad>',
    unk_token: '<unk>',
    mask_token: '<mask>',
  }
  return [
    ['tokenizer.json', tokenizer],
    [
      'tokenizer_config.json',
      JSON.stringify({ ...fallback, ...given, model_max_length: max_length }, null, 2),
    ],
  ]
}

/** Tensors of the classifier's head by their key there -> in an adapter's files. */
function headTensors(bundle: AdapterBundle, hidden_size: number): [string, string, number[]][] {
  const { name } = bundle
  const { num_labels } = classifierHead(bundle)
  return [
    ['classifier.dense.weight', `heads.${name}.1.weight`, [hidden_size, hidden_size]],
    ['classifier.dense.bias', `heads.${name}.1.bias`, [hidden_size]],
    ['classifier.out_proj.weight', `heads.${name}.4.weight`, [num_labels, hidden_size]],
    ['classifier.out_proj.bias', `heads.${name}.4.bias`, [num_labels]],
  ]
}

/** model.safetensors: every weight of the classifier as float32, made one after another. */
async function classifierWeights(base: BaseModel, bundle: AdapterBundle): Promise<Blob> {
  const folded = foldedWeights(base.config, base.weights, bundle)
  const head = headTensors(bundle, base.config.hidden_size)
  const shapes = new Map([
    ...folded.shapes,
    ...head.map(([key, , shape]): [string, number[]] => [key, shape]),
  ])
  const sources = new Map(head.map(([key, source]) => [key, source]))
  const prints = new Map<string, number>()
  const parts: Blob[] = [new Blob([safetensorsHeader(shapes)])]
  for (const [key, shape] of shapes) {
    const source = sources.get(key)
    const size = shape.reduce((product, dim) => product * dim, 1)
    const data = source ? Float32Array.from(adapterTensor(bundle, source, size)) : await folded.read(key)
    if (!data.every(Number.isFinite))
      throw new Error(
        `The tensor ${key} holds a value that is no number; the run diverged and cannot be exported.`,
      )
    prints.set(key, fingerprint(new Uint8Array(data.buffer), 0))
    parts.push(new Blob([data]))
  }
  const file = new Blob(parts)
  await readBack(file, shapes, prints)
  return file
}

function safetensorsHeader(shapes: Map<string, number[]>): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const [key, shape] of shapes) {
    const end = offset + 4 * shape.reduce((product, dim) => product * dim, 1)
    header[key] = { dtype: 'F32', shape, data_offsets: [offset, end] }
    offset = end
  }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const length = Math.ceil(json.length / 8) * 8
  const bytes = new Uint8Array(8 + length).fill(0x20)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true)
  bytes.set(json, 8)
  return bytes
}

/** Throws unless the file holds exactly these tensors, bit for bit. */
async function readBack(
  file: Blob,
  shapes: Map<string, number[]>,
  prints: Map<string, number>,
): Promise<void> {
  const fail = (what: string) =>
    new Error(`The export was stopped: ${what} of model.safetensors does not read back as written.`)
  const back = await openSafetensors(file)
  if (back.names().join('\n') !== [...shapes.keys()].join('\n')) throw fail('the list of tensors')
  for (const [key, shape] of shapes) {
    if (back.shape(key).join() !== shape.join() || back.dtype(key) !== 'F32') throw fail(key)
    const data = await back.read(key)
    if (fingerprint(new Uint8Array(data.buffer), 0) !== prints.get(key)) throw fail(key)
  }
}
