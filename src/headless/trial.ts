/**
 * The headless twin of the tab: `npm run trial -- --help`. The same run.ts in Node; a model folder and a table in, JSON
 * lines of events and an adapter folder out.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { assemble, type Assembled, type Own } from '../assembly.ts'
import { openBase, type Base } from '../base.ts'
import { classificationHead, type AdapterDrop, type HeadOptions } from '../config.ts'
import {
  buildDataset,
  guessMapping,
  summarise,
  type Dataset,
  type Mapping,
  type Role,
} from '../data/dataset.ts'
import { maskingDefaults } from '../data/masking.ts'
import { parseSources, type Table } from '../data/parse.ts'
import { deviceLine } from '../deviceText.ts'
import { adapterName } from '../io/adapterKeys.ts'
import { fusionsIn } from '../io/setup.ts'
import { readZip } from '../io/zip.ts'
import { productsText } from '../deviceText.ts'
import type { BackendKind } from '../kernels/backend.ts'
import { dynamicFusion, staticFusion } from '../methods/fusion.ts'
import { trainingWarnings } from '../methods/reft.ts'
import { childConfigs, parsePreset } from '../methods/registry.ts'
import { parseSetup } from '../methods/setupText.ts'
import type { DeviceTestReport } from '../model/deviceTest.ts'
import type { Precision } from '../model/loadRoberta.ts'
import { summaryText } from '../model/params.ts'
import { parseRobertaConfig } from '../model/robertaConfig.ts'
import { Opened, promptOfRun, summaryOf } from '../opened.ts'
import type { ExportForm } from '../protocol.ts'
import { run, type Job, type Outcome } from '../run.ts'
import { exportKept } from '../shelf.ts'
import { givenHead, headFor, plainTask, type TaskOptions } from '../task.ts'
import type { KeptRun } from '../training.ts'
import type { TrainEvent } from '../train/train.ts'
import { combine, loadAdapters } from './combine.ts'
import { dumpBatch } from './dump.ts'
import { helpText, parseFields, trainingOf, type Values } from './fields.ts'
import { openModelDir, openSources, openTested, readPart } from './node.ts'

const exportForms: ExportForm[] = ['adapter', 'full_model', 'onnx', 'python']

function emit(event: object): void {
  process.stdout.write(`${JSON.stringify(event)}\n`)
}

function progress(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** A field that this use of the runner cannot do without. */
function required(values: Values, name: string): string {
  const value = values[name]
  if (typeof value !== 'string') throw new Error(`--${name} is missing; npm run trial -- --help explains it.`)
  return value
}

async function main(argv: string[]): Promise<void> {
  if (argv.length === 0 || argv.includes('--help') || argv.includes('-h')) {
    process.stdout.write(`${helpText()}\n`)
    return
  }
  const values = parseFields(argv)
  const transformer = required(values, 'transformer')
  if (values.summary) return printSummary(values, transformer)
  if (values.merge !== null || (values.average as string[]).length > 0) return combine(values, transformer)
  const tested = await openTested(values.backend as BackendKind, progress)
  if (values.half_precision_products) progress(productsText())
  if (values.dump !== null || values.batch !== null)
    return dumpBatch(
      transformer,
      required(values, 'load_adapter'),
      required(values, 'batch'),
      required(values, 'dump'),
    )
  await trial(values, transformer, tested)
}

async function trial(values: Values, transformer: string, tested: DeviceTestReport | null): Promise<void> {
  if (values.output_dir !== null) await mkdir(String(values.output_dir), { recursive: true })
  const adapter = parsePreset(String(values.adapter))
  const args = trainingOf(values, adapter)
  const name = adapterName(String(values.name))
  const { tables, roles } = await openTables(values)
  const mapping = mappingOf(values, tables)
  const split = {
    validation: values.validation as number,
    test: values.test as number,
    fraction: values.fraction as number,
    sampling: values.sampling as 'stratified' | 'first',
    seed: (values.split_seed ?? args.seed) as number,
  }
  const dataset = buildDataset(tables, roles, mapping, split)
  const base = await openBase(await openModelDir(transformer), values.precision as Precision)
  const rows = [...dataset.train, ...dataset.validation, ...dataset.test]
  const lengths = Int32Array.from(rows, ({ text, text_pair }) => base.tokenizer.lengthOf(text, text_pair))
  emit({ type: 'dataset', summary: summarise(tables, roles, mapping, dataset, lengths, args.max_length) })

  const task = taskOf(values)
  const own: Own = { name, adapter, head: headFor(base.config, dataset, headOptions(values), task) }
  const assembled = await assembledWith(own, values)
  for (const [key, tensor] of await givenHead(base, own.head, name, task)) assembled.given.set(key, tensor)
  const adapter_drop = dropOf(values)
  const beside = await secondTask(values, base, assembled, split)
  for (const config of childConfigs(adapter))
    if (config.architecture === 'reft') trainingWarnings(config, args).forEach(progress)
  const program = run({ base, dataset, beside, own, assembled, args, task, adapter_drop, resume: null })
  const history: KeptRun['history'] = { step: [], evaluation: [] }
  for (;;) {
    const { value, done } = await program.next()
    if (!done) {
      note(value, history)
      continue
    }
    const { reason, best_step, test } = value
    printEnd(value, history)
    const data = { names: tables.map((table) => table.name), mapping, split, roles }
    const outcome = { status: reason, test, best_step, history, id2label: dataset.id2label }
    const device = deviceLine(tested, { rounded: base.rounded, args })
    const self_test = tested ? ('passed' as const) : ('not run' as const)
    const origin = { base: base.identity, device, self_test, data, created: Date.now() }
    const record: KeptRun = {
      id: name,
      name,
      adapter,
      head: own.head,
      task,
      adapter_drop,
      args,
      size: 0,
      ...outcome,
      ...origin,
    }
    if (values.output_dir !== null)
      await writeForms(String(values.output_dir), values.forms as string[], value, record, base, dataset)
    return
  }
}

/** Prints an event and keeps what the export's metrics need. */
function note(event: TrainEvent, history: KeptRun['history']): void {
  if (event.type === 'tick' || event.type === 'checkpoint') return
  emit(event)
  if (event.type === 'step') history.step.push(event)
  else if (event.type === 'evaluation') {
    const { step, epoch, metrics } = event
    history.evaluation.push({ step, epoch, split: 'validation', metrics })
    progress(
      `step ${step}: validation loss ${metrics.loss.toFixed(4)}, macro-F1 ${metrics.f1_macro.toFixed(4)}`,
    )
  }
}

/** Prints how a run ended, and how much of what it computed was text. */
function printEnd({ reason, note, step, best_step, test }: Outcome, history: KeptRun['history']): void {
  const padding_efficiency = history.step.at(-1)?.padding_efficiency ?? null
  emit({ type: 'done', reason, note, step, best_step, test, padding_efficiency })
  if (padding_efficiency !== null)
    progress(
      `${(100 * padding_efficiency).toFixed(1)} % of the positions computed were text, the rest padding`,
    )
}

/** `adapter_summary()` of a model folder, of which only config.json is read, with the adapter of the fields. */
async function printSummary(values: Values, transformer: string): Promise<void> {
  const config = parseRobertaConfig(await readPart(transformer, 'config.json'))
  const name = adapterName(String(values.name))
  const own: Own = {
    name,
    adapter: parsePreset(String(values.adapter)),
    head: { ...classificationHead(2), ...headOptions(values) },
  }
  const { setup } = await assembledWith(own, values)
  process.stdout.write(`${summaryText(summaryOf({ config }, setup))}\n`)
}

function headOptions(values: Values): Partial<HeadOptions> {
  const pooling = String(values.head_pooling)
  return {
    layers: values.head_layers as number,
    activation_function: String(values.head_activation),
    use_pooler: pooling === 'pooler',
    pooling: pooling === 'mean' ? 'mean' : 'first',
  }
}

/** A second task with a head of its own beside the run's, which both train. */
async function secondTask(
  values: Values,
  base: Base,
  { setup, id2label }: Assembled,
  split: Parameters<typeof buildDataset>[3],
): Promise<NonNullable<Job['beside']>> {
  if (values.second_dataset === null) return []
  const head = adapterName(String(values.second_name))
  const tables = await parseSources(await openSources(values.second_dataset as string[]))
  const mapping = mappingOf(
    { ...values, label: values.second_label ?? null, text: null, text_pair: null },
    tables,
  )
  const roles: Role[] = tables.map(() => 'all')
  const dataset = buildDataset(tables, roles, mapping, split)
  if (head in setup.heads) throw new Error(`Two heads are named "${head}"; give --second_name another name.`)
  setup.heads[head] = headFor(base.config, dataset, headOptions(values), plainTask)
  setup.train.heads.push(head)
  setup.active_heads.push(head)
  id2label[head] = dataset.id2label
  return [{ head, dataset }]
}

function taskOf(values: Values): TaskOptions {
  const words = values.label_words as string[]
  const label_words = values.template === null ? null : { template: String(values.template), words }
  if (values.task !== 'masked_lm') return { masked_lm: null, label_words }
  const masked_lm = {
    ...maskingDefaults,
    mlm_probability: values.mlm_probability as number,
    packing: values.pack ? { texts_at_once: 1000 } : null,
    fresh_head: values.fresh_head as boolean,
  }
  return { masked_lm, label_words: null }
}

function dropOf(values: Values): AdapterDrop | null {
  const layers = values.adapter_drop as number
  return layers > 0 ? { mode: values.adapter_drop_mode as AdapterDrop['mode'], layers } : null
}

/** The run's own adapter beside those of `--load name=DIR`. */
async function assembledWith(own: Own, values: Values): Promise<Assembled> {
  const kept = await loadAdapters(values)
  const further = values.train_loaded as string[]
  const members = [...kept.keys()].map((name) => ({
    name,
    runId: name,
    with_head: values.with_head as boolean,
    train: further.includes(name),
    train_head: false,
  }))
  const active = values.active === null ? null : parseSetup(String(values.active))
  const fusion = values.fusion === 'static' ? staticFusion : dynamicFusion
  const fusions = Object.fromEntries((active === null ? [] : fusionsIn(active)).map((key) => [key, fusion]))
  const skip_layers = (values.skip_layers as string[]).map(Number)
  return assemble(own, { members, active, skip_layers, fusions }, kept)
}

async function openTables(values: Values): Promise<{ tables: Table[]; roles: Role[] }> {
  const dataset = values.dataset as string[] | null
  if (!dataset) throw new Error('--dataset is missing; npm run trial -- --help explains it.')
  const tables = await parseSources(await openSources(dataset))
  const roles: Role[] = tables.map(() => 'all')
  for (const role of ['validation', 'test'] as const) {
    const file = values[`${role}_file`]
    if (typeof file !== 'string') continue
    const more = await parseSources(await openSources([file]))
    tables.push(...more)
    roles.push(...more.map(() => role))
  }
  return { tables, roles }
}

function mappingOf(values: Values, tables: Table[]): Mapping {
  const guess = guessMapping(tables)
  const task = values.task as NonNullable<Mapping['task']>
  const text = values.text ?? guess?.text
  const label_columns = values.label_columns as string[] | null
  const label = values.label ?? guess?.label ?? (task === 'masked_lm' || label_columns ? '' : null)
  if (typeof text !== 'string' || typeof label !== 'string')
    throw new Error(
      `Which columns hold text and label is not clear; name them with --text and --label (there are ${tables[0]!.columns.join(', ')}).`,
    )
  return {
    text,
    text_pair: (values.text_pair ?? guess?.text_pair ?? null) as string | null,
    label,
    threshold: (values.threshold ?? null) as number | null,
    ...(task !== 'classes' && { task }),
    ...(label_columns && { label_columns }),
    ...(values.separator !== null && { separator: String(values.separator) }),
  }
}

/** Each form's files, unpacked: `adapterhub/` is what Python's load_adapter takes; the others have folders of their own. */
async function writeForms(
  path: string,
  forms: string[],
  { model, kept }: Outcome,
  record: KeptRun,
  base: Base,
  dataset: Dataset,
): Promise<void> {
  const opened = Opened.trained(base, record.id, model, kept, promptOfRun(record))
  for (const form of forms) {
    if (!exportForms.includes(form as ExportForm))
      throw new Error(`--forms names "${form}"; it may name ${exportForms.join(', ')}.`)
    const { bytes } = await exportKept(form as ExportForm, opened, kept, record, dataset)
    for (const [file, content] of readZip(bytes)) {
      const target = join(path, form === 'adapter' ? '' : form, file)
      await mkdir(dirname(target), { recursive: true })
      await writeFile(target, content)
    }
  }
  progress(`wrote ${path}`)
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(1)
  },
)
