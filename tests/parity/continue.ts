/**
 * Runs that go on in Python: the app trains a few steps, exports the run for Python (continueInPython.ts), and the
 * exported script trains them again with the real library under `accelerate launch`. Without the base's and the head's
 * dropout both must have the same losses, gradient norms, rates and evaluations, step by step.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { assemble, type Own } from '../../src/assembly.ts'
import { openBase, type Base } from '../../src/base.ts'
import {
  classificationHead,
  type AdapterBundle,
  type AdapterConfig,
  type AdapterDrop,
  type AdapterSetup,
  type Assembly,
  type FusionConfig,
} from '../../src/config.ts'
import type { Dataset, Example } from '../../src/data/dataset.ts'
import { openModelDir, openNodeBackend } from '../../src/headless/node.ts'
import { toAdapterHub } from '../../src/io/adapterhub.ts'
import { continueInPython } from '../../src/io/continueInPython.ts'
import type { ModelFolder } from '../../src/io/modelFolder.ts'
import { openSafetensors } from '../../src/io/safetensors.ts'
import { namesIn } from '../../src/methods/composition.ts'
import { dynamicFusion } from '../../src/methods/fusion.ts'
import { parametersOf, presets } from '../../src/methods/registry.ts'
import { disposeModel } from '../../src/model/model.ts'
import { run } from '../../src/run.ts'
import { plainTask } from '../../src/task.ts'
import { trainingDefaults, type TrainingArguments } from '../../src/trainingArguments.ts'
import { madeUpTensors } from '../madeUp.ts'
import { writeFiles, type Report } from './exports.ts'

const limit = 1e-3

interface RunCase {
  adapter: AdapterConfig
  args?: Partial<TrainingArguments>
  adapter_drop?: AdapterDrop
  /** Absent: classes. */
  task?: 'multilabel' | 'regression'
  /** How adapters that were there before, `first` and `second`, and the run's own, `demo`, work together. */
  active?: AdapterSetup | null
  fusions?: Record<string, FusionConfig>
}

const accumulated = { gradient_accumulation_steps: 2, per_device_train_batch_size: 5, group_by_length: false }

const cases: Record<string, RunCase> = {
  seq_bn: { adapter: preset('seq_bn') },
  'lora, accumulated': { adapter: preset('lora'), args: accumulated },
  // Gates see the padding, so this one also says that the batches are padded alike.
  'unipelt, accumulated': { adapter: preset('unipelt'), args: accumulated },
  // The app computes the batches in parts, Python whole.
  'seq_bn, in parts': { adapter: preset('seq_bn'), args: { ...accumulated, max_tokens_per_batch: 30 } },
  'unipelt, in parts': { adapter: preset('unipelt'), args: { max_tokens_per_batch: 60 } },
  'prefix_tuning, smoothed': { adapter: preset('prefix_tuning'), args: { label_smoothing_factor: 0.1 } },
  'compacter by epochs': {
    adapter: preset('compacter'),
    args: { eval_strategy: 'epoch', max_steps: -1, num_train_epochs: 1, per_device_train_batch_size: 16 },
  },
  'seq_bn, fixed AdapterDrop': { adapter: preset('seq_bn'), adapter_drop: { mode: 'fixed', layers: 2 } },
  'several labels': { adapter: preset('lora'), task: 'multilabel' },
  'a number': { adapter: preset('seq_bn'), task: 'regression', args: { metric_for_best_model: 'loss' } },
  'a stack on a kept adapter': {
    adapter: preset('seq_bn'),
    active: { type: 'Stack', children: ['first', 'demo'] },
  },
  'fusion of kept adapters': {
    adapter: { architecture: 'head' },
    active: { type: 'Fuse', children: ['first', 'second'] },
    fusions: { 'first,second': dynamicFusion },
  },
  'head alone': { adapter: { architecture: 'head' } },
  bitfit: { adapter: { architecture: 'bitfit' } },
  full: { adapter: { architecture: 'full' }, args: { learning_rate: 1e-4 } },
}

function preset(name: string): AdapterConfig {
  return presets.find((one) => one.name === name)!.config
}

/** What a run says of a step or an evaluation, under Python's names. */
interface Logged {
  step: number
  loss?: number
  grad_norm?: number
  learning_rate?: number
  eval_loss?: number
  eval_f1_macro?: number
}

function dataset(task: RunCase['task']): Dataset {
  const things = ['film', 'phone', 'food', 'service', 'sound', 'story', 'screen', 'battery', 'room', 'music']
  const says: [string, 0 | 1][] = [
    ['I loved the $, it was wonderful.', 1],
    ['The $ is great and works perfectly, as my whole family told me to say here!', 1],
    ['I hated the $.', 0],
    ['The $ is terrible, a complete waste of money.', 0],
  ]
  const rows = things.flatMap((thing, t) =>
    says.map(([text, label], line): Example => {
      const target = task === 'multilabel' ? [label, t % 2] : label * 2 + t / 10
      const row = { text: text.replace('$', thing), text_pair: null, label, table: 0, line: line + 1 }
      return task ? { ...row, label: 0, target } : row
    }),
  )
  const part = (from: number, to: number) => rows.filter((_, i) => i % 10 >= from && i % 10 < to)
  const id2label = task === 'regression' ? [] : ['negative', 'positive']
  return { id2label, task: task ?? 'classes', train: part(0, 7), validation: part(7, 9), test: part(9, 10) }
}

/** What the run makes. */
function ownOf({ adapter, task }: RunCase): Own {
  const head = { ...classificationHead(task === 'regression' ? 1 : 2), dropout_prob: 0 }
  const several = { ...head, head_type: 'multilabel_classification' as const }
  return { name: 'demo', adapter, head: task === 'multilabel' ? several : head }
}

/** The adapters that were there before, with made-up weights and no head. */
function keptOf({ config, identity }: Base, { active }: RunCase): Map<string, AdapterBundle> {
  const names = active ? namesIn(active).filter((name) => name !== 'demo') : []
  return new Map(
    names.map((name) => {
      const adapter = preset('seq_bn')
      const shapes = parametersOf(config, adapter, name)
      const tensors = madeUpTensors(shapes.map(({ key, shape }) => [key, shape]))
      return [name, { name, adapter, head: null, id2label: [], tensors, base: identity, max_length: 128 }]
    }),
  )
}

/** The same adapters as a run has them beside its own. */
function assemblyOf({ active = null, fusions = {} }: RunCase, names: string[]): Assembly {
  const frozen = { with_head: false, train: false, train_head: false }
  return {
    members: names.map((name) => ({ name, runId: name, ...frozen })),
    active,
    skip_layers: [],
    fusions,
  }
}

/** The run in the app, and what it logged. */
async function trainHere(base: Base, one: RunCase, args: TrainingArguments): Promise<Logged[]> {
  const own = ownOf(one)
  const kept = keptOf(base, one)
  const assembled = assemble(own, assemblyOf(one, [...kept.keys()]), kept)
  const adapter_drop = one.adapter_drop ?? null
  const job = {
    base,
    dataset: dataset(one.task),
    own,
    assembled,
    args,
    task: plainTask,
    adapter_drop,
    resume: null,
  }
  const program = run(job)
  const logged: Logged[] = []
  for (;;) {
    const { value, done } = await program.next()
    if (done) {
      disposeModel(value.model)
      return logged
    }
    if (value.type === 'step') {
      const { step, loss, grad_norm, learning_rate } = value
      logged.push({ step, loss, grad_norm, learning_rate })
    } else if (value.type === 'evaluation') {
      const { loss: eval_loss, f1_macro: eval_f1_macro } = value.metrics
      logged.push({ step: value.step, eval_loss, eval_f1_macro })
    }
  }
}

/** The folder for Python of the same run. */
async function exportRun(
  folder: ModelFolder,
  base: Base,
  one: RunCase,
  args: TrainingArguments,
  out: string,
): Promise<void> {
  const { config: config_json, tokenizer, tokenizer_config } = folder
  const weights = await openSafetensors(folder.weights)
  const kept = keptOf(base, one)
  const { members, ...assembly } = assemblyOf(one, [...kept.keys()])
  const rows = dataset(one.task)
  const files = continueInPython(
    { config: base.config, config_json, tokenizer, tokenizer_config, weights },
    {
      ...ownOf(one),
      ...assembly,
      members: members.map((member) => ({ ...member, files: toAdapterHub(kept.get(member.name)!) })),
      id2label: rows.id2label,
      args,
      base: base.identity,
      rows,
      adapter_drop: one.adapter_drop ?? null,
    },
  )
  await writeFiles(out, files)
}

/** Largest differences of each quantity, in units of Python's value where that is above 1. */
function compareLogs(ours: Logged[], theirs: Logged[]): Record<string, number> {
  const worst: Record<string, number> = {}
  const kinds = ['loss', 'grad_norm', 'learning_rate', 'eval_loss', 'eval_f1_macro'] as const
  for (const kind of kinds) {
    const values = (logged: Logged[]) => logged.flatMap(({ step, [kind]: value }) => (Number.isFinite(value) ? [[step, value!] as const] : [])) // prettier-ignore
    const [a, b] = [values(ours), values(theirs)]
    const apart = a.map(([step, value], i) =>
      b[i]?.[0] === step ? Math.abs(value - b[i][1]) / Math.max(1, Math.abs(b[i][1])) : NaN,
    )
    // A number has no F1, on either side.
    if (a.length > 0 || b.length > 0 || kind === 'loss')
      worst[kind] = a.length === b.length ? Math.max(...apart) : NaN
  }
  return worst
}

/** Trains every case here and in Python, and reports one line for each. */
export async function compareContinued(
  interpreter: string,
  model: string,
  out: string,
  report: Report,
  only: string[] = Object.keys(cases),
): Promise<void> {
  rmSync(out, { recursive: true, force: true })
  await openNodeBackend('wasm')
  const folder = await openModelDir(model)
  const base = await openBase(folder)
  for (const name of only) {
    const one = cases[name]!
    const target = resolve(join(out, name.replaceAll(/\W+/g, '-')))
    const few = { max_steps: 4, logging_steps: 1, eval_strategy: 'steps', eval_steps: 2 } as const
    const args: TrainingArguments = { ...trainingDefaults, ...few, base_dropout: false, ...one.args }
    const ours = await trainHere(base, one, args)
    await exportRun(folder, base, one, args, target)
    const launch = ['-m', 'accelerate.commands.launch', '--cpu', '--num_processes', '1', 'train.py', '--base']
    const { status, stderr } = spawnSync(interpreter, [...launch, resolve(model)], {
      cwd: target,
      encoding: 'utf8',
      env: { ...process.env, HF_HUB_OFFLINE: '1', TOKENIZERS_PARALLELISM: 'false' },
    })
    const title = `run of ${name} repeated in Python`
    if (status !== 0) {
      report(false, title, stderr.trim().slice(-600))
      continue
    }
    const results = JSON.parse(readFileSync(join(target, 'out', 'results.json'), 'utf8'))
    const worst = Object.entries(compareLogs(ours, results.log_history as Logged[]))
    const detail = worst.map(([what, value]) => `${what} ${value.toExponential(1)}`).join(', ')
    report(
      worst.every(([, value]) => value <= limit),
      title,
      detail,
    )
  }
}
