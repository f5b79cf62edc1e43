/**
 * A run under way in the tab: pulls the program step by step, obeys pause, step and stop between pulls, keeps the
 * record and checkpoints in the browser, and posts what the page draws. Pausing is simply not pulling.
 */
import { deleteCheckpoints, getRun, putAdapter, putCheckpoint, putRun, type RunRecord } from './io/db.ts'
import { gpuBytes } from './kernels/backend.ts'
import type { Metrics, RunEvent } from './protocol.ts'
import { run, type Job, type Outcome } from './run.ts'
import type { Checkpoint, TrainEvent, Wish } from './train/train.ts'

/** A kept run with this program's own metrics. */
export type KeptRun = RunRecord<Metrics>

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
  #clock = new Clock()

  constructor(
    readonly record: KeptRun,
    readonly job: Job,
    readonly post: (event: RunEvent) => void,
  ) {}

  /** Runs to the end and keeps the result. Throws what the program throws; the last checkpoint then stands. */
  async finish(): Promise<Outcome> {
    await putRun(this.record)
    const program = run(this.job)
    try {
      for (let listening = false; ;) {
        const wish: Wish = listening ? this.#wish : undefined
        if (listening) this.#wish = undefined
        const { value, done } = await program.next(wish)
        if (done) return await this.#keep(value)
        await this.#handle(value)
        // Only here does the program take a wish: after a step, and after the checkpoint that was wished for.
        listening = value.type === 'tick' || (value.type === 'checkpoint' && wish === 'checkpoint')
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
    this.#clock.restart()
    this.#announce()
    this.#wake?.()
  }

  /** One optimiser step of a paused run. */
  step(): void {
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
        const { type, samples_per_second, tokens_per_second, ...kept } = event
        record.history.step.push(kept)
        const speed = { samples_per_second, tokens_per_second }
        const seconds_left = this.#clock.secondsLeft
        this.post({ type, runId: record.id, ...kept, ...speed, gpu_bytes: gpuBytes(), seconds_left })
        return
      }
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
    if (this.#paused && this.#wish === undefined) await new Promise<void>((resolve) => (this.#wake = resolve))
    this.#wake = null
  }

  #tick({ step, total }: { step: number; total: number }): void {
    this.#clock.tick(step, total)
    this.post({ type: 'tick', runId: this.record.id, step, seconds_left: this.#clock.secondsLeft })
    if (performance.now() - this.#checkpointMs > checkpointEveryMs) this.#wish ??= 'checkpoint'
  }

  /** A full disk pauses the run instead of ending it: nothing trained so far is lost. */
  async #keepCheckpoint({ step, state, tensors }: Checkpoint): Promise<void> {
    const { dataset } = this.job
    const rows = [dataset.train.length, dataset.validation.length, dataset.test.length]
    this.#checkpointMs = performance.now()
    try {
      await putCheckpoint(this.record.id, { step, state: { ...state, rows }, tensors })
      await this.#save()
    } catch (error) {
      if (!this.#paused) this.pause()
      this.#wish = undefined
      this.#complain(error)
    }
  }

  /** The result stays in the model, and can be exported, even when the browser cannot keep it. */
  async #keep(outcome: Outcome): Promise<Outcome> {
    const { reason, note, best_step, test, judged } = outcome
    Object.assign(this.record, { status: reason, best_step, test })
    try {
      await this.#save()
      await putAdapter(this.record.id, outcome.bundle)
      await deleteCheckpoints(this.record.id)
    } catch (error) {
      this.#complain(error)
    }
    this.post({ type: 'done', runId: this.record.id, reason, note, best_step, test, judged })
    return outcome
  }

  /** Writes the record, under the name it may have been given meanwhile. */
  async #save(): Promise<void> {
    this.record.name = (await getRun(this.record.id)).name
    await putRun(this.record)
  }

  #complain(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error)
    this.post({ type: 'error', command: null, message, fatal: false })
  }
}

/** Speed of the last steps, pauses left out. */
class Clock {
  #lastMs = performance.now()
  #msPerStep: number | null = null
  #steps = 0
  secondsLeft: number | null = null

  restart(): void {
    this.#lastMs = performance.now()
  }

  tick(step: number, total: number): void {
    const nowMs = performance.now()
    const ms = nowMs - this.#lastMs
    this.#lastMs = nowMs
    // The first steps compile shaders; they say nothing about the rest.
    if (++this.#steps <= 2) return
    this.#msPerStep = this.#msPerStep === null ? ms : 0.9 * this.#msPerStep + 0.1 * ms
    this.secondsLeft = this.#steps < stepsBeforeEstimate ? null : ((total - step) * this.#msPerStep) / 1000
  }
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
