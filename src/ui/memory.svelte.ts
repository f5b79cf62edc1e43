/** What the next run will take of the GPU's memory, how much there is as far as the user says, and what would fit. */
import type { TrainingArguments } from '../protocol.ts'
import type { EventOf } from './currentRun.ts'

const kept = 'gpu_gigabytes'

export class Memory {
  /** null: not measured, because something is missing or nothing is measured on this device. */
  fit = $state.raw<EventOf<'memory'>['fit']>(null)
  #gigabytes = $state(read())

  /** Memory of the GPU, which no browser tells; null: nobody has said. Remembered in this browser. */
  get gigabytes(): number | null {
    return this.#gigabytes
  }

  set gigabytes(value: number | null) {
    this.#gigabytes = value !== null && value > 0 ? value : null
    if (this.#gigabytes === null) globalThis.localStorage?.removeItem(kept)
    else globalThis.localStorage?.setItem(kept, String(this.#gigabytes))
  }

  /** Bytes that a run may take; null: nobody has said. */
  get available(): number | null {
    return this.#gigabytes === null ? null : this.#gigabytes * 1e9
  }
}

function read(): number | null {
  const value = Number(globalThis.localStorage?.getItem(kept) ?? NaN)
  return value > 0 ? value : null
}

/** A change of the arguments in words: “compute 512 tokens at once”. */
export function changeInWords(change: Partial<TrainingArguments>): string {
  const {
    max_tokens_per_batch: tokens,
    per_device_train_batch_size: rows,
    gradient_accumulation_steps: batches,
    per_device_eval_batch_size: evaluated,
  } = change
  const parts = [
    tokens === undefined ? null : `compute ${tokens.toLocaleString('en-US')} tokens at once, the same steps`,
    rows === undefined ? null : `take ${rows} ${rows === 1 ? 'row' : 'rows'} to a batch`,
    batches === undefined ? null : `${batches} batches to a step`,
    change.gradient_checkpointing ? 'compute each layer twice, a third more time' : null,
    change.half_precision_activations ? 'keep activations in half precision' : null,
    evaluated === undefined ? null : `evaluate ${evaluated} ${evaluated === 1 ? 'row' : 'rows'} at a time`,
  ]
  const text = parts.filter((part) => part !== null).join('; ')
  return text.charAt(0).toUpperCase() + text.slice(1)
}
