/**
 * What the tab's worker has open: a device, a base model, tables and a data set, and the adapter in the model. Each
 * method carries out one command of the page and posts what came of it.
 */
import { assemble, noMembers, withDrop, type Assembled, type Own } from './assembly.ts'
import { openBase, type Base } from './base.ts'
import type { AdapterBundle, Assembly, HeadOptions, ModelSetup, SetupBundle } from './config.ts'
import { buildDataset, guessMapping, guessRoles, summarise, type Dataset } from './data/dataset.ts'
import { deviceLine, failures, slowerWays } from './deviceText.ts'
import { parseSources, preview, type Table } from './data/parse.ts'
import { adapterName, checkBase } from './io/adapterKeys.ts'
import { getCheckpoint, getRun } from './io/db.ts'
import type { DownloadProgress } from './io/progress.ts'
import { checkSetupBase } from './io/setup.ts'
import { openBackend } from './kernels/backend.ts'
import { testDevice, type DeviceTestReport } from './model/deviceTest.ts'
import { disposeRoberta } from './model/roberta.ts'
import { Opened, promptOfRun, summaryOf } from './opened.ts'
import type { Command, Mapping, RunEvent } from './protocol.ts'
import { alone, predictTexts } from './predict.ts'
import { predictFile } from './predictFile.ts'
import {
  averageKept,
  exportKept,
  exportOpened,
  importFiles,
  keptAdapter,
  loneAdapter,
  tryOnnx,
} from './shelf.ts'
import { openFolder, openRows } from './sources.ts'
import { givenHead, headFor, plainTask, taskOf, type TaskOptions } from './task.ts'
import { newRecord, refuseOther, Training, type KeptRun } from './training.ts'
import { plannedSizes } from './train/fitting.ts'
import { Foresight } from './train/foresight.ts'
import type { Checkpoint } from './train/train.ts'
import { plan } from './train/schedule.ts'

type Of<T extends Command['type']> = Extract<Command, { type: T }>

const outOfMemory =
  'If it ran out of memory, a lower max_tokens_per_batch or gradient_checkpointing takes less.'

/** What a checkpoint keeps besides tensors. */
type ResumeState = Checkpoint['state'] & { name: string; data: string }

/** The open data set, and where its rows came from. */
interface Mapped {
  dataset: Dataset
  /** Tokens of every row. */
  lengths: Int32Array
  data: KeptRun['data']
}

export class Workbench {
  #test: DeviceTestReport | null = null
  #base: Base | null = null
  #download: AbortController | null = null
  #tables: Table[] = []
  #mapped: Mapped | null = null
  /** What predictions and exports use, and the run it came from (null: several, put together by hand). */
  #opened: { runId: string | null; opened: Opened } | null = null
  #training: Training | null = null
  readonly #foresight = new Foresight()
  /** A run is under way, or about to be. */
  #busy = false
  /** Why the device can no longer be used; everything after that fails for this one reason. */
  #gone: string | null = null

  constructor(readonly post: (event: RunEvent) => void) {}

  async openDevice({ backend, powerPreference, wasmUrl }: Of<'openDevice'>): Promise<void> {
    this.#refuseWhileTraining('change the device')
    this.#gone = null
    const complain = (message: string) => {
      this.#gone = `${message} What was trained up to the last checkpoint is kept: reload the page and resume the run.`
      this.post({ type: 'error', command: null, runId: null, message: this.#gone, fatal: true })
    }
    const report = await openBackend(backend, {
      powerPreference,
      wasmPath: wasmUrl,
      onLost: (message) => complain(`${message} ${outOfMemory}`),
      onError: complain,
    })
    this.post({ type: 'device', report })
    this.#test = await testDevice()
    this.post({ type: 'selfTest', report: this.#test, notes: slowerWays(this.#test) })
  }

  async openModel({ source, precision }: Of<'openModel'>): Promise<void> {
    this.#refuseWhileTraining('open another model')
    this.#download = new AbortController()
    const report = (progress: DownloadProgress) => this.post({ type: 'download', ...progress })
    const folder = await openFolder(source, report, this.#download.signal)
    const base = await openBase(folder, precision)
    this.#closeAdapter()
    if (this.#base) disposeRoberta(this.#base.roberta)
    this.#base = base
    const { identity, config, rounded, notes } = base
    const bytes = folder.weights.reduce((sum, { size }) => sum + size, 0)
    this.post({ type: 'model', base: identity, config, rounded, notes, bytes })
  }

  cancelDownload(): void {
    this.#download?.abort()
  }

  async openData({ source }: Of<'openData'>): Promise<void> {
    this.#tables = await parseSources(await openRows(source))
    this.#mapped = null
    const tables = this.#tables.map(preview)
    this.post({
      type: 'tables',
      tables,
      mapping: guessMapping(this.#tables),
      roles: guessRoles(this.#tables),
    })
  }

  mapData({ mapping, split, roles, max_length }: Of<'mapData'>): void {
    this.#mapped = null
    const dataset = buildDataset(this.#tables, roles, mapping, split)
    const rows = [...dataset.train, ...dataset.validation, ...dataset.test]
    const lengths = Int32Array.from(
      this.#base ? rows.map(({ text, text_pair }) => this.#base!.tokenizer.lengthOf(text, text_pair)) : [],
    )
    const summary = summarise(this.#tables, roles, mapping, dataset, lengths, max_length)
    this.#mapped = {
      dataset,
      lengths,
      data: { names: this.#tables.map(({ name }) => name), mapping, split, roles },
    }
    this.post({ type: 'dataset', summary })
  }

  async describe(command: Of<'describe'>): Promise<void> {
    this.post({ type: 'summary', rows: summaryOf(this.#model(), await this.#planned(command)) })
  }

  async measure(command: Of<'measure'>): Promise<void> {
    const { args, available, adapter_drop: drop = null } = command
    const setup = withDrop(await this.#planned(command), drop)
    const sizes = plannedSizes(setup, args, taskOf(command), this.#mapped, drop?.mode === 'random')
    const { roberta } = this.#model()
    this.post({ type: 'memory', fit: this.#foresight.look(roberta, sizes, available, !this.#busy) })
  }

  async train({
    runId,
    name,
    adapter,
    args,
    head,
    assembly,
    adapter_drop,
    ...rest
  }: Of<'train'>): Promise<void> {
    await this.#alone('train another', async () => {
      const { dataset, data } = this.#data()
      const base = this.#model()
      const task = taskOf(rest)
      const own = this.#own(adapterName(name), adapter, head, task, dataset)
      const device = deviceLine(this.#test, { rounded: base.rounded, args })
      const record = newRecord(
        { id: runId, name, adapter, head: own.head, task, adapter_drop: adapter_drop ?? null, args, data },
        { base: base.identity, id2label: dataset.id2label, device, self_test: 'passed' },
      )
      if (assembly) record.assembly = assembly
      await this.#run(record, adapterName(name), null)
    })
  }

  async resumeRun({ runId }: Of<'resumeRun'>): Promise<void> {
    await this.#alone('go on with another run', async () => {
      const record = (await getRun(runId)) as KeptRun
      const checkpoint = await getCheckpoint(runId)
      if (!checkpoint) throw new Error(`“${record.name}” has no checkpoint to go on from; train it again.`)
      const state = checkpoint.state as ResumeState
      await refuseOther(record, state.data, this.#data().dataset, this.#model().identity)
      const { history } = record
      history.step = history.step.filter(({ step }) => step <= checkpoint.step)
      history.evaluation = history.evaluation.filter(({ step }) => step <= checkpoint.step)
      const device = deviceLine(this.#test, { rounded: this.#model().rounded, args: record.args })
      if (!record.device.endsWith(device)) record.device += `, then ${device}`
      record.self_test = 'passed'
      await this.#run(record, state.name, { step: checkpoint.step, state, tensors: checkpoint.tensors })
    })
  }

  pause(): void {
    this.#training?.pause()
  }

  resume(): void {
    this.#training?.resume()
  }

  step(): void {
    this.#training?.step()
  }

  stop(): void {
    this.#training?.stop()
  }

  async openRun({ runId }: Of<'openRun'>): Promise<void> {
    this.#refuseWhileTraining('open another adapter')
    const opened = await this.#open(runId)
    const { name } = await getRun(runId)
    this.post({ type: 'opened', runId, name, id2label: opened.heads[0]?.id2label ?? [] })
  }

  async assemble({ assembly }: Of<'assemble'>): Promise<void> {
    this.#refuseWhileTraining('put adapters together')
    const opened = await Opened.open(this.#model(), assembly, (runId) => this.#loaded(runId))
    this.#closeAdapter()
    this.#opened = { runId: null, opened }
    this.#announce(opened)
  }

  async mergeAdapter({ name }: Of<'mergeAdapter'>): Promise<void> {
    const opened = this.#adapter()
    await opened.merge(name)
    this.#announce(opened)
  }

  async resetAdapter({ name }: Of<'resetAdapter'>): Promise<void> {
    const opened = this.#adapter()
    await opened.reset(name)
    this.#announce(opened)
  }

  async averageAdapters(command: Of<'averageAdapters'>): Promise<void> {
    await averageKept(command, this.#model())
    this.post({ type: 'imported', runId: command.runId, name: command.name, notes: [] })
  }

  async importAdapter(command: Of<'importAdapter'>): Promise<void> {
    this.post({ type: 'imported', runId: command.runId, ...(await importFiles(command, this.#base)) })
  }

  async predict({ id, texts }: Of<'predict'>): Promise<void> {
    const opened = this.#adapter()
    const predictions = await predictTexts(opened, this.#model().tokenizer, texts.map(alone))
    this.post({ type: 'prediction', id, predictions, heads: opened.heads.map(({ name }) => name) })
  }

  async predictFile({ file }: Of<'predictFile'>): Promise<void> {
    const opened = this.#adapter()
    const { runId } = this.#opened!
    const run = runId === null ? null : ((await getRun(runId)) as KeptRun)
    const mapping = run?.data?.mapping as Mapping | undefined
    const csv = await predictFile(opened, this.#model().tokenizer, file, mapping)
    this.post({ type: 'file', mime: 'text/csv', ...csv })
  }

  async exportRun({ runId, form = 'adapter' }: Of<'exportRun'>): Promise<void> {
    this.#refuseWhileTraining('export')
    const record = (await getRun(runId)) as KeptRun
    const opened = await this.#open(runId)
    const dataset = this.#mapped?.dataset ?? null
    this.post(await exportKept(form, opened, await keptAdapter(runId), record, dataset))
  }

  async exportAssembly({ name, assembly }: Of<'exportAssembly'>): Promise<void> {
    await this.assemble({ type: 'assemble', assembly })
    this.post(await exportOpened(this.#adapter(), adapterName(name), assembly))
  }

  async tryOnnx({ runId }: Of<'tryOnnx'>): Promise<void> {
    this.#refuseWhileTraining('run the ONNX file')
    const opened = await this.#open(runId)
    const texts = this.#mapped?.dataset.test.slice(0, 8).map(({ text }) => text) ?? []
    const some = texts.length > 0 ? texts : ['I loved every minute of it.', 'It broke on the second day.']
    this.post({ type: 'onnxTried', runId, ...(await tryOnnx(opened, await loneAdapter(runId), some)) })
  }

  /** Puts a kept run into the model, unless it is there already as it was kept. */
  async #open(runId: string): Promise<Opened> {
    if (this.#opened?.runId === runId && this.#opened.opened.merged.length === 0) return this.#opened.opened
    const kept = await keptAdapter(runId)
    const base = this.#model()
    this.#check(kept)
    const opened = Opened.ofRun(base, (await getRun(runId)) as KeptRun, kept)
    this.#closeAdapter()
    this.#opened = { runId, opened }
    return opened
  }

  /** A kept run's single adapter, if it is for the open model. */
  async #loaded(runId: string): Promise<AdapterBundle> {
    const bundle = await loneAdapter(runId)
    this.#check(bundle)
    return bundle
  }

  #check(kept: AdapterBundle | SetupBundle): void {
    const { identity, config } = this.#model()
    const open = { ...identity, intermediate_size: config.intermediate_size }
    if ('adapter' in kept) checkBase(kept, open)
    else checkSetupBase(kept, open)
  }

  #announce(opened: Opened): void {
    const { assembly, heads, merged, rows } = opened
    this.post({ type: 'assembled', assembly, heads, merged: [...merged], rows })
  }

  /** What a run of a plan would put on the base. */
  async #planned(plan: Of<'describe'> | Of<'measure'>): Promise<ModelSetup> {
    const { adapter, num_labels, name, head, assembly } = plan
    const data = this.#mapped?.dataset ?? { id2label: Array.from({ length: num_labels }, String) }
    const own = this.#own(adapterName(name ?? 'adapter'), adapter, head, taskOf(plan), data)
    return (await this.#assembled(own, assembly ?? noMembers, plainTask)).setup
  }

  /** A run's own adapter beside kept ones. */
  async #assembled(own: Own, assembly: Assembly, task: TaskOptions): Promise<Assembled> {
    const kept = new Map<string, AdapterBundle>()
    for (const { runId } of assembly.members) kept.set(runId, await this.#loaded(runId))
    const assembled = assemble(own, assembly, kept)
    if (task === plainTask) return assembled
    const head = await givenHead(this.#model(), own.head, own.name, task)
    return { ...assembled, given: new Map([...assembled.given, ...head]) }
  }

  /** What a run makes: an adapter and the head that data and page ask for. */
  #own(
    name: string,
    adapter: Own['adapter'],
    head: HeadOptions | undefined,
    task: TaskOptions,
    data: Pick<Dataset, 'task' | 'id2label'>,
  ): Own {
    return { name, adapter, head: headFor(this.#model().config, data, head, task) }
  }

  /** One run at a time, from the moment it is asked for. */
  async #alone(what: string, work: () => Promise<void>): Promise<void> {
    this.#refuseWhileTraining(what)
    this.#foresight.stop()
    this.#busy = true
    try {
      await work()
    } finally {
      this.#busy = false
    }
  }

  async #run(record: KeptRun, name: string, resume: Training['job']['resume']): Promise<void> {
    if (this.#gone) throw new Error(this.#gone)
    if (!this.#test?.passed) throw new Error(`Training is off: ${failures(this.#test)}`)
    const { dataset } = this.#data()
    const { id, adapter, args, assembly, adapter_drop = null, task = plainTask } = record
    if (!args) throw new Error(`“${record.name}” was imported; it has no training to go on with.`)
    const base = this.#model()
    const head = record.head ?? headFor(base.config, dataset, undefined, task)
    const own: Own = { name, adapter, head }
    const assembled = await this.#assembled(own, assembly ?? noMembers, task)
    this.#closeAdapter()
    const job = { base, dataset, own, assembled, args, task, adapter_drop, resume }
    this.#training = new Training(record, job, this.post)
    const rows = summaryOf(base, assembled.setup)
    const { total } = plan(args, dataset.train.length)
    const started = { runId: id, name: record.name, total_steps: total, step: resume?.step ?? 0, rows }
    this.post({ type: 'started', ...started, id2label: dataset.id2label })
    try {
      const { model, kept } = await this.#training.finish()
      this.#opened = { runId: id, opened: Opened.trained(base, id, model, kept, promptOfRun(record)) }
    } catch (error) {
      if (!this.#gone) throw error
    } finally {
      this.#training = null
    }
  }

  #model(): Base {
    if (!this.#base) throw new Error('No base model is open yet; choose one first.')
    return this.#base
  }

  #data(): Mapped {
    if (!this.#mapped) throw new Error('No labelled data is open yet; choose a file and its columns first.')
    return this.#mapped
  }

  #adapter(): Opened {
    if (!this.#opened) throw new Error('No adapter is in the model yet; train one or open a kept run first.')
    return this.#opened.opened
  }

  #closeAdapter(): void {
    this.#opened?.opened.dispose()
    this.#opened = null
  }

  #refuseWhileTraining(what: string): void {
    if (this.#busy) throw new Error(`A run is under way; stop it before you ${what}.`)
  }
}
