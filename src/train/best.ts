/**
 * The best weights so far, on the host, and how long ago they were found (transformers' `load_best_model_at_end` and
 * `EarlyStoppingCallback`).
 */
import * as tf from '@tensorflow/tfjs-core'
import type { TrainingArguments } from '../trainingArguments.ts'
import type { Metrics } from './metrics.ts'

export class Best {
  /** `value` is null before the first evaluation; `waited` counts evaluations without improvement. */
  constructor(
    readonly args: TrainingArguments,
    public flat: Float32Array,
    public step: number,
    public value: number | null,
    public waited: number,
  ) {}

  /** Takes the weights of `step` if `metrics` are better; tells whether they are. */
  async offer(metrics: Metrics, weights: tf.Tensor1D, step: number): Promise<boolean> {
    const chosen = metrics[this.args.metric_for_best_model]
    // Numbers and hidden words have no F1: their loss chooses, upside down.
    const value = Number.isNaN(chosen) && this.args.metric_for_best_model !== 'loss' ? -metrics.loss : chosen
    this.waited = this.#beats(value, this.args.early_stopping_threshold) ? 0 : this.waited + 1
    if (!this.#beats(value, 0)) return false
    Object.assign(this, { flat: await readVector(weights), step, value })
    return true
  }

  /** Whether early stopping has waited long enough. */
  get exhausted(): boolean {
    return this.args.early_stopping_patience > 0 && this.waited >= this.args.early_stopping_patience
  }

  /** Whether `value` is better by more than `margin`; a loss is better when it is lower. */
  #beats(value: number, margin: number): boolean {
    if (this.value === null) return true
    return (this.args.metric_for_best_model === 'loss' ? this.value - value : value - this.value) > margin
  }
}

/** A copy of a vector's values that nothing else writes to. */
export async function readVector(vector: tf.Tensor1D): Promise<Float32Array> {
  const copy = tf.tidy(() => tf.reshape(vector, [-1]))
  const values = Float32Array.from(await copy.data())
  copy.dispose()
  return values
}
