/**
 * Kept adapters as a whole: one that came from files, one averaged from others, and everything that one can be exported
 * as. Each function is one wish of the page; the workbench says what is open.
 */
import type { Base } from './base.ts'
import type { AdapterBundle, AdapterConfig, Assembly, RobertaConfig, SetupBundle } from './config.ts'
import { leftOut, passedBy } from './assembly.ts'
import { toAdapterHub } from './io/adapterhub.ts'
import { continueInPython, type PythonRun } from './io/continueInPython.ts'
import { getAdapter, getRun, getSetup, putAdapter, putRun } from './io/db.ts'
import { exportZip } from './io/export.ts'
import type { BaseModel } from './io/foldedWeights.ts'
import { fullModelFiles, type ExportFiles } from './io/fullModel.ts'
import { readFiles } from './io/import.ts'
import { onnxFiles } from './io/onnxModel.ts'
import { openSafetensors } from './io/safetensors.ts'
import { writeZip } from './io/zip.ts'
import { averageAdapter, type AverageArguments } from './methods/average.ts'
import type { Opened } from './opened.ts'
import { openOnnxPipeline } from './onnxPipeline.ts'
import { exampleLogits, textLogits } from './predict.ts'
import type { Command, ExportForm, RunEvent } from './protocol.ts'
import type { Dataset } from './data/dataset.ts'
import type { KeptRun } from './training.ts'

type Of<T extends Command['type']> = Extract<Command, { type: T }>
type FileEvent = Extract<RunEvent, { type: 'file' }>

/** Keeps an adapter, or a setup of several, from files; returns its name and what the files did not say. */
export async function importFiles(
  { runId, files, with_head = true }: Of<'importAdapter'>,
  base: Base | null,
): Promise<{ name: string; notes: string[] }> {
  const named = files.map(async (file) => ({
    name: file.webkitRelativePath || file.name,
    bytes: new Uint8Array(await file.arrayBuffer()),
  }))
  const layers = base ? { num_hidden_layers: base.config.num_hidden_layers } : {}
  const read = await readFiles(await Promise.all(named), { with_head, ...layers })
  const kept = 'bundle' in read ? read.bundle : read.setup
  await keepImported(runId, kept)
  return { name: kept.name, notes: read.notes }
}

/** `average_adapter` over kept adapters of one configuration. */
export async function averageKept(
  { runId, name, members, ...args }: Of<'averageAdapters'>,
  { config }: Base,
): Promise<void> {
  const shares = members.map(async (member) => ({
    bundle: await loneAdapter(member.runId),
    weight: member.weight,
  }))
  await keepImported(runId, averageBundles(config, name, await Promise.all(shares), args))
}

/** A new adapter from shares of others of one configuration; the first one's head comes along. */
export function averageBundles(
  config: RobertaConfig,
  name: string,
  shares: { bundle: AdapterBundle; weight: number }[],
  args: AverageArguments,
): AdapterBundle {
  const members = shares.map(({ bundle, weight }) => ({
    name: bundle.name,
    config: bundle.adapter,
    tensors: bundle.tensors,
    weight,
  }))
  const { config: adapter, tensors } = averageAdapter(config, name, members, args)
  const first = shares[0]!.bundle
  const head = [...first.tensors].filter(([key]) => key.startsWith('heads.'))
  for (const [key, tensor] of head) tensors.set(key.replace(`heads.${first.name}.`, `heads.${name}.`), tensor)
  return { ...first, name, adapter, tensors }
}

/** A kept run's one adapter, without the layers that it passes by. Throws when it is a composition or was never finished. */
export async function loneAdapter(runId: string): Promise<AdapterBundle> {
  const kept = await keptAdapter(runId)
  if ('adapter' in kept)
    return leftOut(kept, passedBy(await getRun(runId)), kept.base?.num_hidden_layers ?? 0)
  throw new Error(`“${kept.name}” is a composition of several adapters; choose a single one.`)
}

/** What a run left behind. Throws when it has not come to its end. */
export async function keptAdapter(runId: string): Promise<AdapterBundle | SetupBundle> {
  const { name } = await getRun(runId)
  const kept = (await getAdapter(runId)) ?? (await getSetup(runId))
  if (!kept) throw new Error(`“${name}” has no finished adapter yet; train it to its end first.`)
  return kept
}

/** A record for an adapter that no run of this browser trained. */
async function keepImported(runId: string, kept: AdapterBundle | SetupBundle): Promise<void> {
  const alone = 'adapter' in kept ? kept : null
  const record: KeptRun = {
    id: runId,
    name: kept.name,
    created: Date.now(),
    status: 'imported',
    adapter: alone?.adapter ?? configOf(kept as SetupBundle),
    head: alone?.head ?? null,
    args: null,
    base: kept.base,
    id2label: alone?.id2label ?? [],
    device: '',
    self_test: 'not run',
    history: { step: [], evaluation: [] },
    test: null,
    best_step: 0,
    data: null,
    size: 0,
  }
  await putRun(record)
  await putAdapter(runId, kept)
}

/** What stands in a composition's record: its first adapter's configuration. */
function configOf({ adapters }: SetupBundle): AdapterConfig {
  return Object.values(adapters)[0]!.config
}

/** One kept run in the form that was asked for. `dataset`: the open rows, which only the folder for Python needs. */
export async function exportKept(
  form: ExportForm,
  opened: Opened,
  whole: AdapterBundle | SetupBundle,
  record: KeptRun,
  dataset: Dataset | null,
): Promise<FileEvent> {
  const { base } = opened
  const kept =
    'adapter' in whole && form !== 'python'
      ? leftOut(whole, passedBy(record), base.config.num_hidden_layers)
      : whole
  const file = (suffix: string, bytes: Uint8Array<ArrayBuffer>): FileEvent => ({
    type: 'file',
    name: `${kept.name}${suffix}.zip`,
    mime: 'application/zip',
    bytes,
  })
  if (form === 'adapter') {
    const examples = opened.labelsTexts ? await exampleLogits(opened, base.tokenizer) : []
    const own = 'adapter' in kept && ['full', 'bitfit'].includes(kept.adapter.architecture ?? '')
    const files = own ? await bytesOf(await fullModelFiles(await baseModel(base), kept), 'model/') : undefined
    return file('', await exportZip(kept, record, { ...base.folder, examples, ...(files && { files }) }))
  }
  if (!('adapter' in kept))
    throw new Error(
      `“${kept.name}” is a composition; export its adapters, which is the form that holds compositions.`,
    )
  if (form === 'full_model')
    return file('-model', writeZip(await bytesOf(await fullModelFiles(await baseModel(base), kept)), 0))
  if (form === 'onnx')
    return file('-onnx', writeZip(await bytesOf(await onnxFiles(await baseModel(base), kept)), 0))
  if (!dataset || !record.args)
    throw new Error(
      'To go on in Python its rows are needed too; open the same data and map its columns first.',
    )
  return file(
    '-python',
    writeZip(continueInPython(await baseModel(base), await pythonRun(kept, record, dataset)), 6),
  )
}

/** A composition that stands in the model, in the form of `save_adapter_setup`; its record is its first member's. */
export async function exportOpened(opened: Opened, name: string, { members }: Assembly): Promise<FileEvent> {
  const { folder, tokenizer } = opened.base
  const examples = opened.labelsTexts ? await exampleLogits(opened, tokenizer) : []
  const record = (await getRun(members[0]!.runId)) as KeptRun
  const bytes = await exportZip(opened.bundle(name), record, { ...folder, examples })
  return { type: 'file', name: `${name}.zip`, mime: 'application/zip', bytes }
}

/** All that Python needs to repeat a run: its rows in their splits, and the adapters that stood beside its own. */
async function pythonRun(kept: AdapterBundle, record: KeptRun, dataset: Dataset): Promise<PythonRun> {
  const { name, adapter, head, id2label, base } = kept
  if (!head || !base || !record.args)
    throw new Error(`“${kept.name}” was not trained here; there is no run to repeat.`)
  const { members = [], ...assembly } = record.assembly ?? {}
  const beside = members.map(async (member) => ({
    ...member,
    files: toAdapterHub(await loneAdapter(member.runId)),
  }))
  return {
    ...{ name, adapter, head, id2label, base, args: record.args },
    rows: { train: dataset.train, validation: dataset.validation, test: dataset.test },
    members: await Promise.all(beside),
    ...assembly,
    adapter_drop: record.adapter_drop ?? null,
  }
}

/** Runs a kept run's ONNX export in transformers.js; the largest difference of a logit from this program's. */
export async function tryOnnx(
  opened: Opened,
  kept: AdapterBundle,
  texts: string[],
): Promise<{ furthest: number; texts: number; ms: number }> {
  const files = await onnxFiles(await baseModel(opened.base), kept)
  const started = performance.now()
  const pipeline = await openOnnxPipeline(files)
  try {
    const theirs = await pipeline.logits(texts)
    const ms = performance.now() - started
    const ours = await textLogits(opened, opened.base.tokenizer, texts)
    const differences = ours.flatMap((row, i) => [...row].map((logit, c) => Math.abs(logit - theirs[i]![c]!)))
    return { furthest: Math.max(...differences), texts: texts.length, ms }
  } finally {
    await pipeline.dispose()
  }
}

/** The base as exports read it. */
async function baseModel({ config, folder }: Base): Promise<BaseModel> {
  const { config: config_json, tokenizer, tokenizer_config, weights } = folder
  return { config, config_json, tokenizer, tokenizer_config, weights: await openSafetensors(weights) }
}

/** Files in memory, for a zip. */
async function bytesOf(files: ExportFiles, folder = ''): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const all = new Map<string, Uint8Array<ArrayBuffer>>()
  for (const [name, content] of files)
    all.set(
      `${folder}${name}`,
      content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : content,
    )
  return all
}
