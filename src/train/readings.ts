/**
 * Losses and gradient norms on their way from the device. A read waits for the device, so steps are collected and
 * read together, and the read of one group is awaited only when the next group is full: training never waits for it.
 */
import * as tf from '@tensorflow/tfjs-core'

/** One optimiser step as the page draws it. */
export interface StepReading {
  type: 'step'
  step: number
  epoch: number
  loss: number
  learning_rate: number
  /** Before clipping. */
  grad_norm: number
  samples_per_second: number
  tokens_per_second: number
  /** Time of one step, pauses and evaluations left out. */
  seconds_per_step: number
  /** Tokens that are text, of all positions computed in the step's epoch; the rest is padding. */
  padding_efficiency: number
}

/** A step whose numbers are still on the device; `rows` and `tokens` count real ones. */
export interface PendingStep {
  step: number
  epoch: number
  learning_rate: number
  rows: number
  tokens: number
  padding_efficiency: number
  loss: tf.Scalar
  grad_norm: tf.Scalar
}

export class Readings {
  #collected: PendingStep[] = []
  #inFlight: Promise<StepReading[]> | null = null
  /** Training time since the last group was read; the watch runs while `#sinceMs` is set. */
  #elapsedMs = 0
  #sinceMs: number | null = null

  /** The last few groups: a device may finish one group's work within the time of another. */
  #groups: Group[] = []

  /** `every`: steps to a group. */
  constructor(readonly every: number) {}

  /** Takes over the step's scalars; returns the readings that are due, an earlier group's, or none. */
  async add(pending: PendingStep): Promise<StepReading[]> {
    this.#collected.push(pending)
    if (this.#collected.length < this.every) return []
    const earlier = this.#inFlight
    this.#inFlight = this.#read()
    return (await earlier) ?? []
  }

  /** Everything not yet returned. */
  async drain(): Promise<StepReading[]> {
    const earlier = (await this.#inFlight) ?? []
    this.#inFlight = null
    return [...earlier, ...(await this.#read())]
  }

  /** Training time begins. */
  startWatch(): void {
    this.#sinceMs ??= performance.now()
  }

  /** What follows is not training time: an evaluation, a checkpoint, a pause. */
  stopWatch(): void {
    if (this.#sinceMs !== null) this.#elapsedMs += performance.now() - this.#sinceMs
    this.#sinceMs = null
  }

  #takeElapsed(): number {
    const running = this.#sinceMs !== null
    this.stopWatch()
    const ms = this.#elapsedMs
    this.#elapsedMs = 0
    if (running) this.startWatch()
    return ms
  }

  /** Frees what was never read. */
  dispose(): void {
    for (const { loss, grad_norm } of this.#collected) tf.dispose([loss, grad_norm])
    this.#collected = []
    this.#inFlight?.catch(() => undefined)
  }

  async #read(): Promise<StepReading[]> {
    const steps = this.#collected
    this.#collected = []
    if (steps.length === 0) return []
    const packed = tf.tidy(() => tf.stack(steps.flatMap(({ loss, grad_norm }) => [loss, grad_norm])))
    for (const { loss, grad_norm } of steps) tf.dispose([loss, grad_norm])
    const values = await packed.data()
    packed.dispose()
    this.#groups.push({
      steps: steps.length,
      rows: total(steps.map(({ rows }) => rows)),
      tokens: total(steps.map(({ tokens }) => tokens)),
      ms: this.#takeElapsed(),
    })
    while (total(this.#groups.slice(1).map((group) => group.steps)) >= 3 * this.every) this.#groups.shift()
    const speed = speedOf(this.#groups)
    return steps.map(({ step, epoch, learning_rate, padding_efficiency }, i) => ({
      type: 'step',
      step,
      epoch,
      loss: values[2 * i]!,
      learning_rate,
      grad_norm: values[2 * i + 1]!,
      padding_efficiency,
      ...speed,
    }))
  }
}

/** What was read together, and the training time that passed until then. */
interface Group {
  steps: number
  rows: number
  tokens: number
  ms: number
}

/** Rates over all of `groups`. */
function speedOf(
  groups: Group[],
): Pick<StepReading, 'samples_per_second' | 'tokens_per_second' | 'seconds_per_step'> {
  const seconds = Math.max(total(groups.map(({ ms }) => ms)), 1) / 1000
  return {
    samples_per_second: total(groups.map(({ rows }) => rows)) / seconds,
    tokens_per_second: total(groups.map(({ tokens }) => tokens)) / seconds,
    seconds_per_step: seconds / total(groups.map(({ steps }) => steps)),
  }
}

function total(values: number[]): number {
  return values.reduce((a, b) => a + b, 0)
}
