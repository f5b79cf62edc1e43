/**
 * The headless twin of the tab: `npm run trial -- --help`. The same run.ts in Node; a model folder and a table in, JSON
 * lines of events and an adapter folder out.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { openBase, type Base } from '../base.ts'
import { buildDataset, guessMapping, summarise, type Role } from '../data/dataset.ts'
import { parseSources, type Table } from '../data/parse.ts'
import { adapterName } from '../io/adapterKeys.ts'
import { exportZip } from '../io/export.ts'
import { readZip } from '../io/zip.ts'
import type { BackendKind } from '../kernels/backend.ts'
import { exampleLogits } from '../predict.ts'
import { run, type Outcome } from '../run.ts'
import type { KeptRun } from '../training.ts'
import type { TrainEvent } from '../train/train.ts'
import { dumpBatch } from './dump.ts'
import { adapterOf, helpText, parseFields, trainingOf, type Values } from './fields.ts'
import { openModelDir, openNodeBackend, openSources } from './node.ts'

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
  const report = await openNodeBackend(values.backend as BackendKind)
  progress(`${report.backend}: ${report.description}`)
  if (values.dump !== null || values.batch !== null)
    return dumpBatch(
      transformer,
      required(values, 'load_adapter'),
      required(values, 'batch'),
      required(values, 'dump'),
    )
  await trial(values, transformer, `${report.backend}: ${report.description}`)
}

async function trial(values: Values, transformer: string, device: string): Promise<void> {
  if (values.output_dir !== null) await mkdir(String(values.output_dir), { recursive: true })
  const args = trainingOf(values)
  const adapter = adapterOf(values)
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
  const base = await openBase(await openModelDir(transformer))
  const rows = [...dataset.train, ...dataset.validation, ...dataset.test]
  const lengths = Int32Array.from(rows, ({ text, text_pair }) => base.tokenizer.lengthOf(text, text_pair))
  emit({ type: 'dataset', summary: summarise(tables, roles, mapping, dataset, lengths, args.max_length) })

  const program = run({ base, dataset, name, adapter, args, resume: null })
  const history: KeptRun['history'] = { step: [], evaluation: [] }
  for (;;) {
    const { value, done } = await program.next()
    if (!done) {
      note(value, history)
      continue
    }
    const { reason, note: why, step, best_step, test } = value
    emit({ type: 'done', reason, note: why, step, best_step, test })
    const data = { names: tables.map((table) => table.name), mapping, split, roles }
    const outcome = { status: reason, test, best_step, history, id2label: dataset.id2label }
    const origin = { base: base.identity, device, self_test: 'not run' as const, data, created: Date.now() }
    const record: KeptRun = { id: name, name, adapter, args, size: 0, ...outcome, ...origin }
    if (values.output_dir !== null) await writeFolder(String(values.output_dir), value, record, base)
    return
  }
}

/** Prints an event and keeps what the export's metrics need. */
function note(event: TrainEvent, history: KeptRun['history']): void {
  if (event.type === 'tick' || event.type === 'checkpoint') return
  emit(event)
  if (event.type === 'step') history.step.push(event)
  else {
    const { step, epoch, metrics } = event
    history.evaluation.push({ step, epoch, split: 'validation', metrics })
    progress(
      `step ${step}: validation loss ${metrics.loss.toFixed(4)}, macro-F1 ${metrics.f1_macro.toFixed(4)}`,
    )
  }
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

function mappingOf(values: Values, tables: Table[]): NonNullable<ReturnType<typeof guessMapping>> {
  const guess = guessMapping(tables)
  const text = values.text ?? guess?.text
  const label = values.label ?? guess?.label
  if (typeof text !== 'string' || typeof label !== 'string')
    throw new Error(
      `Which columns hold text and label is not clear; name them with --text and --label (there are ${tables[0]!.columns.join(', ')}).`,
    )
  const text_pair = (values.text_pair ?? guess?.text_pair ?? null) as string | null
  return { text, text_pair, label, threshold: (values.threshold ?? null) as number | null }
}

/** The export zip's files, unpacked: `adapterhub/` is what Python's load_adapter takes. */
async function writeFolder(
  path: string,
  outcome: Outcome,
  record: KeptRun,
  { folder, tokenizer }: Base,
): Promise<void> {
  const examples = await exampleLogits(outcome, tokenizer)
  for (const [file, bytes] of readZip(await exportZip(outcome.bundle, record, { ...folder, examples }))) {
    const target = join(path, file)
    await mkdir(dirname(target), { recursive: true })
    await writeFile(target, bytes)
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
