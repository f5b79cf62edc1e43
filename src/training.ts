/**
 * A run under way in the tab: pulls the program step by step, obeys pause, step and stop between pulls, keeps the
 * record and checkpoints in the browser, and posts what the page draws. Pausing is simply not pulling.
 */
import type { BaseIdentity } from './config.ts'
import type { Dataset } from './data/dataset.ts'
import { deleteCheckpoints, getRun, putAdapter, putCheckpoint, putRun, type RunRecord } from './io/db.ts'
import { sha256Hex } from './io/digest.ts'
import { gpuBytes } from './kernels/backend.ts'
import type { Metrics, RunEvent } from './protocol.ts'
import { run, type Job, type Outcome } from './run.ts'
import type { TaskOptions } from './task.ts'
import type { Checkpoint, TrainEvent, Wish } from './train/train.ts'

/** A kept run with this program's own metrics. */
export type KeptRun = RunRecord<Metrics> & { task?: TaskOptions }

/** A crash or a closed tab loses at most so much. */
const checkpointEveryMs = 30_000

/** Steps before the time left means something. */
const stepsBeforeEstimate = 8

export class Training {
  #paused = false
  #wish: Wish
  /** Ends the wait of a paused run. */
  #wake: (() => void) | null = null
  #checkpointMs = performance.now()
  /** Steps that were asked for one by one and not yet taken. */
  #steps = 0
  /** Time of one step; null until it says something. */
  #secondsPerStep: number | null = null
  #total = 0
  readonly #firstStep: number
  /** What tells this data from any other, see `fingerprint`. */
  #data = ''

  constructor(
    readonly record: KeptRun,
    readonly job: Job,
    readonly post: (event: RunEvent) => void,
  ) {
    this.#firstStep = job.resume?.step ?? 0
  }

  /** Runs to the end and keeps the result. Throws what the program throws; the last checkpoint then stands. */
  async finish(): Promise<Outcome> {
    await putRun(this.record)
    this.#data = await fingerprint(this.job.dataset)
    const program = run(this.job)
    try {
      for (let listening = false; ;) {
        const wish: Wish = listening ? this.#wish : undefined
        if (listening) this.#wish = undefined
        const { value, done } = await program.next(wish)
        if (done) return await this.#keep(value)
        await this.#handle(value)
        // Only here does the program take a wish: after a step, and after the checkpoint that was wished for.
        listening = value.type === 'tick' || (value.type === 'checkpoint' && value.asked)
        if (listening) await this.#rest()
      }
    } catch (error) {
      await program.throw(error) // frees the program's tensors if it is still under way
      throw error
    }
  }

  pause(): void {
    if (this.#paused) return
    this.#paused = true
    this.#wish ??= 'checkpoint'
    this.#announce()
  }

  resume(): void {
    this.#paused = false
    this.#steps = 0
    this.#announce()
    this.#wake?.()
  }

  /** One optimiser step of a paused run, now or as soon as the pause has taken hold. */
  step(): void {
    if (!this.#paused) return
    this.#steps++
    this.#wake?.()
  }

  stop(): void {
    this.#wish = 'stop'
    this.#wake?.()
  }

  #announce(): void {
    this.post({ type: 'state', runId: this.record.id, state: this.#paused ? 'paused' : 'running' })
  }

  async #handle(event: TrainEvent): Promise<void> {
    const { record } = this
    switch (event.type) {
      case 'tick':
        return this.#tick(event)
      case 'checkpoint':
        return this.#keepCheckpoint(event)
      case 'step': {
        const { type, samples_per_second, tokens_per_second, seconds_per_step, ...kept } = event
        record.history.step.push(kept)
        this.#time(kept.step, seconds_per_step)
        const speed = { samples_per_second, tokens_per_second, seconds_left: this.#secondsLeft(kept.step) }
        this.post({ type, runId: record.id, ...kept, ...speed, gpu_bytes: gpuBytes() })
        return
      }
      case 'inPath':
        return this.post({ ...event, runId: record.id })
      case 'evaluation': {
        const { step, epoch, metrics } = event
        record.history.evaluation.push({ step, epoch, split: 'validation', metrics })
        if (event.best) record.best_step = step
        this.post({ ...event, runId: record.id, split: 'validation' })
        return
      }
      default:
        event satisfies never
    }
  }

  /** Lets messages in; waits while the run is paused. */
  async #rest(): Promise<void> {
    await turn()
    while (this.#paused && this.#wish === undefined && this.#steps === 0)
      await new Promise<void>((resolve) => (this.#wake = resolve))
    this.#wake = null
    if (this.#wish === undefined && this.#steps > 0) this.#steps--
  }

  /** The first steps compile shaders and say nothing about the rest. */
  #time(step: number, seconds: number): void {
    if (step > this.#firstStep + stepsBeforeEstimate) this.#secondsPerStep = seconds
  }

  #secondsLeft(step: number): number | null {
    return this.#secondsPerStep === null ? null : (this.#total - step) * this.#secondsPerStep
  }

  /** A step taken by hand shows its loss at once: a checkpoint reports what has not been read yet. */
  #tick({ step, total }: { step: number; total: number }): void {
    this.#total = total
    this.post({ type: 'tick', runId: this.record.id, step, seconds_left: this.#secondsLeft(step) })
    const due = performance.now() - this.#checkpointMs > checkpointEveryMs
    if (this.#paused || due) this.#wish ??= 'checkpoint'
  }

  /** A full disk pauses the run instead of ending it: nothing trained so far is lost. */
  async #keepCheckpoint({ step, state, tensors }: Checkpoint): Promise<void> {
    const { name } = this.job.own
    this.#checkpointMs = performance.now()
    try {
      await putCheckpoint(this.record.id, { step, state: { ...state, name, data: this.#data }, tensors })
      await this.#save()
    } catch (error) {
      if (!this.#paused) this.pause()
      if (this.#wish === 'checkpoint') this.#wish = undefined
      this.#complain(error)
    }
  }

  /** The result stays in the model, and can be exported, even when the browser cannot keep it. */
  async #keep(outcome: Outcome): Promise<Outcome> {
    const { reason, note, best_step, test, judged } = outcome
    let kept = false
    try {
      await putAdapter(this.record.id, outcome.kept)
      // Only now: a run whose adapter could not be kept must still be resumable from its checkpoint.
      Object.assign(this.record, { status: reason, best_step, test })
      await this.#save()
      await deleteCheckpoints(this.record.id)
      kept = true
    } catch (error) {
      this.#complain(error)
    }
    this.post({ type: 'done', runId: this.record.id, reason, note, best_step, test, judged, kept })
    return outcome
  }

  /** Writes the record, with the name it may have been given meanwhile and the size of its adapter. */
  async #save(): Promise<void> {
    const { name, size } = await getRun(this.record.id)
    Object.assign(this.record, { name, size })
    await putRun(this.record)
  }

  #complain(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error)
    this.post({ type: 'error', command: null, runId: null, message, fatal: false })
  }
}

/** A digest of labels, texts and splits: a run goes on only with the data it began with. */
export function fingerprint({ id2label, train, validation, test }: Dataset): Promise<string> {
  const rows = [train, validation, test].map((split) =>
    split.map(({ text, text_pair, label }) => [text, text_pair, label]),
  )
  return sha256Hex(new Blob([JSON.stringify([id2label, rows])]))
}

/** The record of a run that is about to begin. */
export function newRecord(
  asked: Pick<KeptRun, 'id' | 'name' | 'adapter' | 'head' | 'task' | 'adapter_drop' | 'args' | 'data'>,
  found: Pick<KeptRun, 'base' | 'id2label' | 'device' | 'self_test'>,
): KeptRun {
  const nothing = { history: { step: [], evaluation: [] }, test: null, best_step: 0, size: 0 }
  return { ...asked, ...found, ...nothing, created: Date.now(), status: 'running' }
}

/** Throws when a run began with other data (see `fingerprint`) or on another base than are open now. */
export async function refuseOther(
  { name, base }: KeptRun,
  data: string,
  dataset: Dataset,
  open: BaseIdentity,
): Promise<void> {
  if (data !== (await fingerprint(dataset)))
    throw new Error(
      `“${name}” began with other rows, labels or another split than are open now; open the same data with the same split first.`,
    )
  if (base?.sha256 !== open.sha256)
    throw new Error(`“${name}” stands on ${base?.name ?? 'another model'}; open that model first.`)
}

/** One turn of the event loop: without it a busy worker would never see a queued message. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => {
      port1.close()
      resolve()
    }
    port2.postMessage(null)
  })
}
