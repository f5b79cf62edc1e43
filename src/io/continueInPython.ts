/**
 * A run as a folder that repeats it with the `adapters` library under `accelerate launch`: the script (trainScript.ts),
 * pinned requirements, the run as JSON, and its rows in the splits they had. For whoever outgrows the tab.
 */
import type {
  AdapterConfig,
  AdapterDrop,
  AdapterSetup,
  BaseIdentity,
  FusionConfig,
  HeadConfig,
} from '../config.ts'
import type { TrainingArguments } from '../trainingArguments.ts'
import { childConfigs } from '../methods/union.ts'
import { configJson } from './adapterConfig.ts'
import type { BaseModel } from './foldedWeights.ts'
import { tokenizerFiles } from './fullModel.ts'
import { parseObject, pythonJson, PyFloat, type PyJson } from './json.ts'
import { trainScript } from './trainScript.ts'

/** A row of the data set: `label` is a class index, or `target` a number or 0 and 1 for each of several labels. */
export interface PythonRow {
  text: string
  text_pair: string | null
  label: number
  target?: number | number[]
}

/** An adapter that was in the model already. */
export interface PythonMember {
  name: string
  /** Its AdapterHub folder. */
  files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>
  with_head: boolean
  train: boolean
  train_head: boolean
}

/** Everything that a run is made of. */
export interface PythonRun {
  /** Of the run's own adapter and head. */
  name: string
  adapter: AdapterConfig
  head: HeadConfig
  id2label: string[]
  args: TrainingArguments
  base: BaseIdentity
  rows: Record<'train' | 'validation' | 'test', PythonRow[]>
  /** Absent: the run's own adapter alone. */
  members?: PythonMember[]
  active?: AdapterSetup | null
  skip_layers?: number[]
  fusions?: Record<string, FusionConfig>
  adapter_drop?: AdapterDrop | null
}

const requirements = [
  'adapters==1.3.0',
  'transformers==4.57.6',
  'torch==2.13.0',
  'accelerate==1.15.0',
  'tokenizers==0.22.2',
  'safetensors==0.8.0',
  'numpy==2.4.6',
]

/** Why a run cannot be repeated in Python, in a sentence; null when it can. */
export function pythonProblem({ name, adapter, head, active }: PythonRun): string | null {
  if (head.head_type === 'masked_lm')
    return 'The script repeats classification runs; for masked-LM pretraining export the adapter folder and go on with run_mlm.py of transformers.'
  if (head.pooling === 'mean')
    return 'The head reads the mean of the tokens, which the adapters library does not have, so this run cannot be repeated there.'
  if (active && (adapter.architecture === 'full' || adapter.architecture === 'bitfit'))
    return 'The run trains the model’s own weights beside adapters, which the library’s trainer cannot repeat; train one or the other.'
  if (/[./]/.test(name))
    return `“${name}” is no name for a module in Python; rename the run without dots and slashes.`
  return null
}

/**
 * Files by path within the folder: train.py, requirements.txt, run.json, the rows, tokenizer/ and, for every member,
 * adapters/{name}/. Throws pythonProblem's sentence, and when run.json or the rows do not read back as they were meant.
 */
export function continueInPython(base: BaseModel, run: PythonRun): Map<string, Uint8Array<ArrayBuffer>> {
  const problem = pythonProblem(run)
  if (problem !== null) throw new Error(problem)
  const text = (content: string) => new TextEncoder().encode(content)
  const files = new Map<string, Uint8Array<ArrayBuffer>>()
  files.set('train.py', text(trainScript))
  files.set('requirements.txt', text([...requirements, ...extraRequirements(run.adapter), ''].join('\n')))
  files.set('run.json', text(`${pythonJson(runJson(run))}\n`))
  for (const split of ['train', 'validation', 'test'] as const) {
    const lines = run.rows[split].map((row) => JSON.stringify(jsonRow(row)))
    files.set(`${split}.jsonl`, text(lines.map((line) => `${line}\n`).join('')))
  }
  const cut = { max_length: run.args.max_length }
  for (const [name, content] of tokenizerFiles(base, cut)) files.set(`tokenizer/${name}`, text(content))
  for (const member of run.members ?? [])
    for (const [name, bytes] of member.files) files.set(`adapters/${member.name}/${name}`, bytes)
  checkFiles(files, run)
  return files
}

/** A row as the script reads it. */
function jsonRow({ text, text_pair, label, target }: PythonRow) {
  return { text, text_pair, label: target ?? label }
}

/** Stochastic depth acts in training, where the library takes it from torchvision. */
function extraRequirements(adapter: AdapterConfig): string[] {
  const deep = childConfigs(adapter).some(
    (child) => child.architecture === null && child.stochastic_depth > 0,
  )
  return deep ? ['torchvision==0.28.0'] : []
}

function runJson(run: PythonRun): { [key: string]: PyJson } {
  const { head_type, ...head } = run.head
  const { pooling: _, ...fields } = 'pooling' in head ? head : { ...head, pooling: null }
  return {
    name: run.name,
    adapter: configJson(run.adapter),
    head: { head_type, ...fields } as PyJson,
    id2label: run.id2label,
    args: argumentsJson(run.args),
    base: { ...run.base },
    members: (run.members ?? []).map(({ files: _files, ...member }) => member),
    active: (run.active ?? null) as PyJson,
    skip_layers: run.skip_layers ?? [],
    fusions: Object.fromEntries(
      Object.entries(run.fusions ?? {}).map(([key, fusion]) => [key, { ...fusion }]),
    ),
    adapter_drop: run.adapter_drop ? { ...run.adapter_drop } : null,
  }
}

/** Training arguments, with what TrainingArguments calls a float written as one. */
function argumentsJson(args: TrainingArguments): { [key: string]: PyJson } {
  const whole =
    /_steps$|_size$|^seed$|^max_length$|^max_tokens_per_batch$|^early_stopping_patience$|^logging_steps$|^gradient_accumulation_steps$/
  return Object.fromEntries(
    Object.entries(args).map(([key, value]): [string, PyJson] => [
      key,
      typeof value === 'number' && !whole.test(key) ? new PyFloat(value) : (value as PyJson),
    ]),
  )
}

/** Throws unless the JSON says again what the run said. */
function checkFiles(files: Map<string, Uint8Array<ArrayBuffer>>, run: PythonRun): void {
  const fail = (what: string) =>
    new Error(`The export for Python was stopped: ${what} does not read back as written.`)
  const content = (name: string) => new TextDecoder().decode(files.get(name))
  const back = parseObject(content('run.json'), 'run.json')
  for (const [key, value] of Object.entries(run.args))
    if ((back.args as Record<string, unknown>)[key] !== value) throw fail(`${key} of run.json`)
  for (const split of ['train', 'validation', 'test'] as const) {
    const rows = content(`${split}.jsonl`)
      .split('\n')
      .filter((line) => line !== '')
    if (rows.length !== run.rows[split].length) throw fail(`${split}.jsonl`)
    rows.forEach((line, i) => {
      const { text, text_pair, label } = jsonRow(run.rows[split][i]!)
      const again = JSON.parse(line) as ReturnType<typeof jsonRow>
      if (again.text !== text || again.text_pair !== text_pair || String(again.label) !== String(label))
        throw fail(`row ${i + 1} of ${split}.jsonl`)
    })
  }
}
