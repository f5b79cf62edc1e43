/**
 * Everything the page shows about the work in hand. `Session` owns the worker (made at the first need), sends its
 * commands and applies its events; components read the fields and call the methods, and never see a message.
 * Values that are replaced whole are `$state.raw`; a run's curves are plain columns and `frame` says when to draw.
 */
import { trainingDefaults } from '../trainingArguments.ts'
import { adapterName } from '../io/adapterKeys.ts'
import type {
  AdapterConfig,
  Command,
  DataSource,
  DatasetSummary,
  DeviceReport,
  Mapping,
  ModelSource,
  Precision,
  Role,
  RunEvent,
  SelfTestReport,
  SplitArguments,
  SummaryRow,
  TablePreview,
  TrainingArguments,
} from '../protocol.ts'
import { settingsProblem } from './fields.ts'
import { standing, type Alert } from './alert.ts'
import { blockedReason, nameProblem } from './blocked.ts'
import type { Connect } from './connect.ts'
import { after, begin, type AboutRun, type EventOf, type Run } from './currentRun.ts'
import { ownName } from './draft.svelte.ts'
import { Memory } from './memory.svelte.ts'
import { Plan, type Made } from './plan.svelte.ts'
import { headline } from './scores.ts'
import { knownMethods } from './methods.svelte.ts'
import { Use } from './use.svelte.ts'
import { Wire } from './wire.svelte.ts'

export interface SessionOptions {
  connect: Connect
  /** Where the slow mode's files lie, absolute. */
  wasmUrl: string
  /** Offers bytes to the user as a file. */
  save: (name: string, mime: string, bytes: Uint8Array<ArrayBuffer>) => void
  /** Calls back before the next drawing of the page. */
  schedule: (draw: () => void) => void
  /** A run was added to or changed in the library. */
  onKept: () => void
}

export class Session {
  backend = $state<'webgpu' | 'wasm'>('webgpu')
  /** How the next model's matrices lie on the GPU. */
  precision = $state<Precision>('auto')
  device = $state.raw<DeviceReport | null>(null)
  selfTest = $state.raw<SelfTestReport | null>(null)
  /** What runs the slower way on this device and why, a sentence each. */
  deviceNotes = $state.raw<string[]>([])
  download = $state.raw<EventOf<'download'> | null>(null)
  model = $state.raw<EventOf<'model'> | null>(null)
  tables = $state.raw<TablePreview[]>([])
  mapping = $state<Mapping | null>(null)
  roles = $state<Role[]>([])
  split = $state<SplitArguments>({
    validation: 0.1,
    test: 0.2,
    fraction: 1,
    sampling: 'stratified',
    seed: 42,
  })
  dataset = $state.raw<DatasetSummary | null>(null)
  plan = new Plan()
  args = $state<TrainingArguments>({ ...trainingDefaults })
  memory = new Memory()
  summary = $state.raw<SummaryRow[]>([])
  run = $state.raw<Run | null>(null)
  use = new Use((command, expect) => this.ask(command, expect))
  alerts = $state.raw<Alert[]>([])
  /** The run that an import became, the newest. */
  imported = $state<string | null>(null)
  notice = $state('')
  /** Bumped once per drawn frame while numbers come in. */
  frame = $state(0)

  #options: SessionOptions
  /** Where the model came from. */
  #source: ModelSource | null = null
  #wire: Wire
  #ids = 0
  #drawing = false
  /** The split or the columns changed and the worker does not know yet. */
  #mapDue = false
  #mapTimer: ReturnType<typeof setTimeout> | undefined
  #describeTimer: ReturnType<typeof setTimeout> | undefined

  constructor(options: SessionOptions) {
    this.#options = options
    this.#wire = new Wire(options.connect, (event) => this.apply(event))
  }

  /** Commands whose answer has not come yet. */
  get pending(): Command['type'][] {
    return this.#wire.pending
  }

  get training(): boolean {
    return this.run?.state === 'running' || this.run?.state === 'paused'
  }

  /** Why Train cannot act, in one sentence; null when it can. */
  get blocked(): string | null {
    return blockedReason(this)
  }

  /** Sends `command` and waits for its event: false when it failed, which the alerts then say. */
  ask(command: Command, expect: RunEvent['type']): Promise<boolean> {
    this.alerts = standing(this.alerts, command.type)
    return this.#wire.ask(command, expect)
  }

  async openDevice(): Promise<boolean> {
    if (this.device?.backend === this.backend) return true
    const { backend } = this
    const { wasmUrl } = this.#options
    return this.ask({ type: 'openDevice', backend, powerPreference: 'high-performance', wasmUrl }, 'device')
  }

  async openModel(source: ModelSource): Promise<boolean> {
    const [device] = await Promise.all([this.openDevice(), this.plan.load()])
    if (!device) return false
    const { precision } = this
    const opened = await this.ask({ type: 'openModel', source, precision }, 'model')
    this.download = null
    if (opened) this.#source = source
    if (opened) await Promise.all([this.describe(), this.tables.length ? this.mapData() : true])
    return opened
  }

  /** The open model once more, its matrices another way. */
  async reopen(precision: Precision): Promise<boolean> {
    this.precision = precision
    return this.#source ? this.openModel(this.#source) : false
  }

  cancelDownload(): void {
    this.#post({ type: 'cancelDownload' })
  }

  async openData(source: DataSource): Promise<boolean> {
    if (!(await this.ask({ type: 'openData', source }, 'tables'))) return false
    return this.model ? this.mapData() : true
  }

  /** Applies the columns, roles and split that are chosen; the answer is `dataset`. */
  async mapData(): Promise<boolean> {
    if (!this.mapping || !this.model || this.training) return false
    this.#mapDue = false
    clearTimeout(this.#mapTimer)
    const { max_length } = this.args
    const mapping = $state.snapshot(this.mapping)
    const split = $state.snapshot(this.split)
    const roles = $state.snapshot(this.roles)
    const mapped = await this.ask({ type: 'mapData', mapping, split, roles, max_length }, 'dataset')
    if (!mapped) this.dataset = null
    else await this.describe()
    return mapped
  }

  /** As `mapData`, once the user has paused typing. */
  remap(): void {
    this.#mapDue = true
    clearTimeout(this.#mapTimer)
    this.#mapTimer = setTimeout(() => void this.mapData(), 250)
  }

  /** As `describe`, once the user has paused typing. */
  redescribe(): void {
    this.plan.followedBy(this.args, this.mapping?.task)
    clearTimeout(this.#describeTimer)
    this.#describeTimer = setTimeout(() => void this.describe(), 250)
  }

  /** Asks for the summary table of what Train would train. */
  async describe(): Promise<boolean> {
    this.plan.followedBy(this.args, this.mapping?.task)
    if (!this.model || this.training) return false
    const problems = knownMethods()?.planProblems(this.plan, this.model.config) ?? []
    if (problems.length > 0) return ((this.summary = []), false)
    const num_labels = this.dataset?.id2label.length ?? 2
    return this.ask({ type: 'describe', num_labels, ...this.#made(ownName) }, 'summary')
  }

  /** Asks what Train would take of the GPU's memory; nothing is said while something keeps it from being known. */
  async measure(): Promise<boolean> {
    if (this.training) return false
    const config = this.model?.config ?? null
    const unknown = !config || knownMethods()?.planProblems(this.plan, config).length !== 0
    if (unknown || settingsProblem(this.args, config) !== null) return ((this.memory.fit = null), false)
    const num_labels = this.dataset?.id2label.length ?? 2
    const { available } = this.memory
    const args = $state.snapshot(this.args)
    return this.ask({ type: 'measure', num_labels, args, available, ...this.#made(ownName) }, 'memory')
  }

  async train(name: string): Promise<boolean> {
    if (this.#mapDue && !(await this.mapData())) return false
    if (this.blocked) return false
    const clash = nameProblem(this, name)
    if (clash !== null) return (this.alert(clash, false, 'train'), false)
    const args = $state.snapshot(this.args)
    this.notice = 'Preparing the run.'
    const runId = crypto.randomUUID()
    const made = { ...this.#made(adapterName(name)), name }
    return this.ask({ type: 'train', runId, args, ...made }, 'started')
  }

  /** Shows a kept run's curves and result; its adapter comes into the model with `openRun`. */
  show(run: Run | null): void {
    if (!this.training) this.run = run
  }

  /** Puts a run's settings into the form. */
  adopt(adapter: AdapterConfig, args: TrainingArguments | null): void {
    this.plan.choose(adapter)
    this.plan.followedBy(this.args, this.mapping?.task)
    if (args) this.args = { ...args }
    this.redescribe()
  }

  /** Puts columns, split and roles of an earlier run into the form. */
  choose(mapping: Mapping, split: SplitArguments, roles: Role[]): void {
    this.mapping = { ...mapping }
    this.split = { ...split }
    if (roles.length === this.tables.length) this.roles = [...roles]
  }

  resumeRun(runId: string): Promise<boolean> {
    return this.ask({ type: 'resumeRun', runId }, 'started')
  }

  /** Pause, resume, step or stop the run that is going on. */
  control(type: 'pause' | 'resume' | 'step' | 'stop'): void {
    if (this.training) this.#post({ type })
  }

  importAdapter(files: File[], with_head = true): Promise<boolean> {
    const runId = crypto.randomUUID()
    return this.ask({ type: 'importAdapter', runId, files, with_head }, 'imported')
  }

  /** Makes a new kept adapter from others (`average_adapter`). */
  average(what: Omit<Extract<Command, { type: 'averageAdapters' }>, 'type' | 'runId'>): Promise<boolean> {
    return this.ask({ type: 'averageAdapters', runId: crypto.randomUUID(), ...what }, 'imported')
  }

  alert(message: string, fatal = false, command: Command['type'] | null = null): void {
    if (this.alerts.some((alert) => alert.message === message)) return
    this.alerts = [...this.alerts, { id: ++this.#ids, message, fatal, command }]
  }

  dismiss(id: number): void {
    this.alerts = this.alerts.filter((alert) => alert.id !== id)
  }

  /** Takes one event of the worker in, then lets whoever waits for it go on. */
  apply(event: RunEvent): void {
    this.#take(event)
    this.#wire.settle(event)
  }

  #made(name: string): Made {
    return this.plan.made(name, this.mapping?.task)
  }

  #post(command: Command): void {
    this.#wire.post(command)
  }

  #take(event: RunEvent): void {
    switch (event.type) {
      case 'device':
        this.device = event.report
        return
      case 'selfTest':
        this.selfTest = event.report
        this.deviceNotes = event.notes
        return
      case 'download':
        this.download = event
        return
      case 'model':
        this.model = event
        this.use.activate(null)
        this.notice = `The model ${event.base.name} is loaded.`
        return
      case 'tables':
        this.dataset = null
        this.tables = event.tables
        this.mapping = event.mapping
        this.roles = event.roles
        return
      case 'dataset':
        return void (this.dataset = event.summary)
      case 'summary':
        return void (this.summary = event.rows)
      case 'memory':
        return void (this.memory.fit = event.fit)
      case 'opened':
      case 'assembled':
      case 'prediction':
      case 'onnxTried':
        this.use.take(event)
        return
      case 'imported':
        this.imported = event.runId
        this.notice = `${event.name} is kept.`
        for (const note of event.notes) this.alert(note)
        this.#options.onKept()
        return
      case 'file':
        this.#options.save(event.name, event.mime, event.bytes)
        return
      case 'error':
        this.#takeError(event)
        return
      case 'started':
      case 'state':
      case 'tick':
      case 'step':
      case 'inPath':
      case 'evaluation':
      case 'done':
        this.#takeRunEvent(event)
        return
      default:
        event satisfies never
    }
  }

  #takeError(event: EventOf<'error'>): void {
    this.alert(event.message, event.fatal, event.command)
    const ended = event.fatal || (event.runId !== null && event.runId === this.run?.runId)
    if (ended && this.run && this.training) {
      this.run = { ...this.run, state: 'broken', note: event.message }
      this.#options.onKept()
    }
    if (!event.fatal) return
    this.device = null
    this.selfTest = null
    this.deviceNotes = []
    this.model = null
    this.tables = []
    this.download = null
    this.use.activate(null)
    this.dataset = null
    this.#wire.close()
  }

  #takeRunEvent(event: AboutRun): void {
    if (event.type === 'started') {
      this.run = begin(event, this.device?.slow ?? false, this.run)
      this.use.activate(null)
      this.summary = event.rows
      this.notice = `Training has started: ${event.total_steps} steps.`
      return this.#options.onKept()
    }
    if (this.run?.runId !== event.runId) return
    const run = after(this.run, event)
    this.run = run
    if (event.type === 'evaluation')
      this.notice = `Step ${event.step}: ${headline(event.metrics)} on validation.`
    if (event.type === 'done') {
      this.use.activate({ runId: run.runId, name: run.name, id2label: run.id2label })
      const where = event.kept ? 'kept' : 'in this tab only: export it before you close the page'
      this.notice = `The run has ended; its adapter is ${where}, with the weights of step ${run.best_step}.`
      if (this.#mapDue) this.remap()
      this.#options.onKept()
    }
    this.#draw()
  }

  #draw(): void {
    if (this.#drawing) return
    this.#drawing = true
    this.#options.schedule(() => {
      this.#drawing = false
      this.frame += 1
    })
  }
}
