/**
 * What the tab's worker has open: a device, a base model, tables and a data set, and the adapter in the model. Each
 * method carries out one command of the page and posts what came of it.
 */
import Papa from 'papaparse'
import { openBase, type Base } from './base.ts'
import { classificationHead, type AdapterBundle, type AdapterConfig } from './config.ts'
import { buildDataset, guessMapping, guessRoles, guessText, summarise, type Dataset } from './data/dataset.ts'
import { parseSources, preview, type Source, type Table } from './data/parse.ts'
import { adapterName, checkBase } from './io/adapterKeys.ts'
import { getAdapter, getCheckpoint, getRun, putAdapter, putRun } from './io/db.ts'
import { exportZip } from './io/export.ts'
import { openHub } from './io/hub.ts'
import { readAdapterFiles } from './io/import.ts'
import { openBundled, openFiles, type ModelFolder } from './io/modelFolder.ts'
import type { DownloadProgress } from './io/progress.ts'
import { openBackend, openedDevice } from './kernels/backend.ts'
import { adapterShapes, headShapes } from './model/adapters.ts'
import { createModel, disposeModel, type Model } from './model/model.ts'
import { adapterSummary, type SummaryRow } from './model/params.ts'
import { maxTokens } from './model/robertaConfig.ts'
import { disposeRoberta } from './model/roberta.ts'
import { selfTest, type SelfTestReport } from './model/selfTest.ts'
import type { Command, DataSource, Mapping, ModelSource, Prediction, RunEvent } from './protocol.ts'
import { alone, exampleLogits, predictTexts } from './predict.ts'
import { fingerprint, Training, type KeptRun } from './training.ts'
import type { Checkpoint } from './train/train.ts'
import { plan } from './train/schedule.ts'

type Of<T extends Command['type']> = Extract<Command, { type: T }>

/** The adapter that predictions and exports use. */
interface Opened {
  runId: string
  model: Model
  bundle: AdapterBundle
}

/** What a checkpoint keeps besides tensors. */
type ResumeState = Checkpoint['state'] & { name: string; data: string }

/** The open data set, and where its rows came from. */
interface Mapped {
  dataset: Dataset
  data: KeptRun['data']
}

export class Workbench {
  #test: SelfTestReport | null = null
  #base: Base | null = null
  #download: AbortController | null = null
  #tables: Table[] = []
  #mapped: Mapped | null = null
  #opened: Opened | null = null
  #training: Training | null = null
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
      onLost: complain,
      onError: complain,
    })
    this.post({ type: 'device', report })
    this.#test = await selfTest()
    this.post({ type: 'selfTest', report: this.#test })
  }

  async openModel({ source }: Of<'openModel'>): Promise<void> {
    this.#refuseWhileTraining('open another model')
    this.#download = new AbortController()
    const folder = await this.#folder(source, this.#download.signal)
    const base = await openBase(folder)
    this.#closeAdapter()
    if (this.#base) disposeRoberta(this.#base.roberta)
    this.#base = base
    const bytes = folder.weights.reduce((sum, { size }) => sum + size, 0)
    this.post({ type: 'model', base: base.identity, config: base.config, notes: base.notes, bytes })
  }

  cancelDownload(): void {
    this.#download?.abort()
  }

  async openData({ source }: Of<'openData'>): Promise<void> {
    this.#tables = await parseSources(await sourcesOf(source))
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
    this.#mapped = { dataset, data: { names: this.#tables.map(({ name }) => name), mapping, split, roles } }
    this.post({ type: 'dataset', summary })
  }

  describe({ adapter, num_labels }: Of<'describe'>): void {
    this.post({ type: 'summary', rows: this.#summary(adapter, num_labels, adapter.method) })
  }

  async train({ runId, name, adapter, args }: Of<'train'>): Promise<void> {
    await this.#alone('train another', async () => {
      const { dataset, data } = this.#data()
      const base = this.#model()
      const record: KeptRun = {
        id: runId,
        name,
        created: Date.now(),
        status: 'running',
        adapter,
        args,
        base: base.identity,
        id2label: dataset.id2label,
        device: deviceLine(),
        self_test: this.#test?.passed ? 'passed' : 'failed',
        history: { step: [], evaluation: [] },
        test: null,
        best_step: 0,
        data,
        size: 0,
      }
      await this.#run(record, adapterName(name), null)
    })
  }

  async resumeRun({ runId }: Of<'resumeRun'>): Promise<void> {
    await this.#alone('go on with another run', async () => {
      const record = (await getRun(runId)) as KeptRun
      const checkpoint = await getCheckpoint(runId)
      if (!checkpoint) throw new Error(`“${record.name}” has no checkpoint to go on from; train it again.`)
      const state = checkpoint.state as ResumeState
      if (state.data !== (await fingerprint(this.#data().dataset)))
        throw new Error(
          `“${record.name}” began with other rows, labels or another split than are open now; open the same data with the same split first.`,
        )
      if (record.base?.sha256 !== this.#model().identity.sha256)
        throw new Error(
          `“${record.name}” stands on ${record.base?.name ?? 'another model'}; open that model first.`,
        )
      const { history } = record
      history.step = history.step.filter(({ step }) => step <= checkpoint.step)
      history.evaluation = history.evaluation.filter(({ step }) => step <= checkpoint.step)
      if (!record.device.endsWith(deviceLine())) record.device += `, then ${deviceLine()}`
      record.self_test = this.#test?.passed ? 'passed' : 'failed'
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
    const { bundle } = await this.#open(runId)
    const { name } = await getRun(runId)
    this.post({ type: 'opened', runId, name, id2label: bundle.id2label })
  }

  async importAdapter({ runId, files }: Of<'importAdapter'>): Promise<void> {
    const named = files.map(async (file) => ({
      name: file.webkitRelativePath || file.name,
      bytes: new Uint8Array(await file.arrayBuffer()),
    }))
    const { bundle, notes } = await readAdapterFiles(await Promise.all(named))
    const record: KeptRun = {
      id: runId,
      name: bundle.name,
      created: Date.now(),
      status: 'imported',
      adapter: bundle.adapter,
      args: null,
      base: bundle.base,
      id2label: bundle.id2label,
      device: '',
      self_test: 'not run',
      history: { step: [], evaluation: [] },
      test: null,
      best_step: 0,
      data: null,
      size: 0,
    }
    await putRun(record)
    await putAdapter(runId, bundle)
    this.post({ type: 'imported', runId, name: record.name, notes })
  }

  async predict({ id, texts }: Of<'predict'>): Promise<void> {
    const predictions = await predictTexts(this.#adapter(), this.#model().tokenizer, texts.map(alone))
    this.post({ type: 'prediction', id, predictions })
  }

  async predictFile({ file }: Of<'predictFile'>): Promise<void> {
    const opened = this.#adapter()
    const [table, more] = await parseSources([{ name: file.name, blob: file }])
    if (!table) throw new Error(`${file.name} holds no rows to predict.`)
    if (more) throw new Error(`${file.name} holds several tables; give one at a time.`)
    const { text, text_pair } = columnsOf(
      table,
      ((await getRun(opened.runId)) as KeptRun).data?.mapping as Mapping | undefined,
    )
    const texts = table.rows.map((row) => ({
      text: row[text]!,
      text_pair: text_pair < 0 ? null : row[text_pair]!,
    }))
    const predictions = await predictTexts(opened, this.#model().tokenizer, texts)
    const { id2label } = opened.bundle
    const score = (prediction: Prediction, label: string) =>
      prediction.find((one) => one.label === label)!.score
    const data = predictions.map((one, i) => [
      texts[i]!.text,
      one[0]!.label,
      ...id2label.map((label) => score(one, label)),
    ])
    const names = [table.columns[text]!, 'label', ...id2label.map((label) => `score ${label}`)]
    const csv = Papa.unparse({ fields: names, data }, { escapeFormulae: true })
    const bytes = new TextEncoder().encode(csv)
    this.post({
      type: 'file',
      name: `${file.name.replace(/\.\w+$/, '')}-predictions.csv`,
      mime: 'text/csv',
      bytes,
    })
  }

  async exportRun({ runId }: Of<'exportRun'>): Promise<void> {
    this.#refuseWhileTraining('export')
    const record = await getRun(runId)
    const opened = await this.#open(runId)
    const { folder, tokenizer } = this.#model()
    const examples = await exampleLogits(opened, tokenizer)
    const bytes = await exportZip(opened.bundle, record, { ...folder, examples })
    this.post({ type: 'file', name: `${opened.bundle.name}.zip`, mime: 'application/zip', bytes })
  }

  /** Puts a kept run's adapter into the model, unless it is there already. */
  async #open(runId: string): Promise<Opened> {
    if (this.#opened?.runId === runId) return this.#opened
    const { name } = await getRun(runId)
    const bundle = await getAdapter(runId)
    if (!bundle) throw new Error(`“${name}” has no finished adapter yet; train it to its end first.`)
    const { roberta, identity, config } = this.#model()
    checkBase(bundle, { ...identity, intermediate_size: config.intermediate_size })
    const model = createModel(roberta, bundle.name, bundle.adapter, bundle.head, bundle.tensors)
    const max_length = Math.min(bundle.max_length, maxTokens(config))
    this.#closeAdapter()
    return (this.#opened = { runId, model, bundle: { ...bundle, max_length } })
  }

  /** One run at a time, from the moment it is asked for. */
  async #alone(what: string, work: () => Promise<void>): Promise<void> {
    this.#refuseWhileTraining(what)
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
    const { id, adapter, args } = record
    if (!args) throw new Error(`“${record.name}” was imported; it has no training to go on with.`)
    this.#closeAdapter()
    const job = { base: this.#model(), dataset, name, adapter, args, resume }
    this.#training = new Training(record, job, this.post)
    const rows = this.#summary(adapter, dataset.id2label.length, name)
    const { total } = plan(args, dataset.train.length)
    const started = { runId: id, name: record.name, total_steps: total, step: resume?.step ?? 0, rows }
    this.post({ type: 'started', ...started, id2label: dataset.id2label })
    try {
      const { model, bundle } = await this.#training.finish()
      this.#opened = { runId: id, model, bundle }
    } catch (error) {
      if (!this.#gone) throw error
    } finally {
      this.#training = null
    }
  }

  #summary(adapter: AdapterConfig, num_labels: number, name: string): SummaryRow[] {
    const { config } = this.#model()
    const head = classificationHead(num_labels)
    const count = (shapes: [string, number[]][]) =>
      shapes.reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0)
    const own = count(adapterShapes(config, adapter, name))
    return adapterSummary(config, adapter, head, own, count(headShapes(config, head, name)), name)
  }

  async #folder(source: ModelSource, signal: AbortSignal): Promise<ModelFolder> {
    const onProgress = (progress: DownloadProgress) => this.post({ type: 'download', ...progress })
    switch (source.kind) {
      case 'bundled':
        return openBundled(source.url, onProgress, signal)
      case 'hub':
        return openHub(source, onProgress, signal)
      case 'files':
        return openFiles(source.name, source.files, signal)
      default:
        return source satisfies never
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
    return this.#opened
  }

  #closeAdapter(): void {
    if (this.#opened) disposeModel(this.#opened.model)
    this.#opened = null
  }

  #refuseWhileTraining(what: string): void {
    if (this.#busy) throw new Error(`A run is under way; stop it before you ${what}.`)
  }
}

/** The files or the bundled samples as blobs. */
async function sourcesOf(source: DataSource): Promise<Source[]> {
  if (source.kind === 'files') return source.files.map((file) => ({ name: file.name, blob: file }))
  return Promise.all(
    source.urls.map(async (url) => {
      const response = await fetch(url)
      if (!response.ok)
        throw new Error(`The sample ${url} could not be read (${response.status}); reload the page.`)
      return { name: url.split('/').at(-1)!, blob: await response.blob() }
    }),
  )
}

/** Where a table's texts are: in the columns the run was trained on, else where they seem to be; -1: no second text. */
function columnsOf(table: Table, mapping: Mapping | undefined): { text: number; text_pair: number } {
  const own = mapping ? table.columns.indexOf(mapping.text) : -1
  if (own < 0) return { text: table.columns.indexOf(guessText(table)), text_pair: -1 }
  return { text: own, text_pair: table.columns.indexOf(mapping?.text_pair ?? '') }
}

/** The device as a run keeps it. */
function deviceLine(): string {
  const { backend, description, vendor, architecture, slow } = openedDevice()
  const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed'
  return `${backend}: ${name}${slow ? ' (slow: not a GPU)' : ''}`
}

function failures(test: SelfTestReport | null): string {
  if (!test) return 'the device has not been tested yet.'
  const failed = test.checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${name} (${detail})`)
  return `this device computes wrong numbers in ${failed.join(', ')}. Try another browser, update the GPU driver, or use the slow mode.`
}
