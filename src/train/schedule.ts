/** How many steps a run takes and the learning rate of each (transformers `Trainer`, `get_linear_schedule_with_warmup`). */
import type { TrainingArguments } from '../trainingArguments.ts'

export interface Plan {
  /** Optimiser steps to one epoch. */
  stepsPerEpoch: number
  total: number
  warmup: number
}

/** The plan for `rows` training rows. */
export function plan(args: TrainingArguments, rows: number): Plan {
  const batches = Math.ceil(rows / args.per_device_train_batch_size)
  const stepsPerEpoch = Math.max(1, Math.ceil(batches / args.gradient_accumulation_steps))
  const total = args.max_steps > 0 ? args.max_steps : Math.ceil(args.num_train_epochs * stepsPerEpoch)
  const warmup = args.warmup_steps > 0 ? args.warmup_steps : Math.ceil(total * args.warmup_ratio)
  return { stepsPerEpoch, total, warmup }
}

/**
 * The rate of the next step when `done` steps are complete. `linear`: up from zero over the warm-up, then down to zero;
 * `constant`: the same throughout, without warm-up, as transformers has it.
 */
export function learningRate(args: TrainingArguments, { total, warmup }: Plan, done: number): number {
  if (args.lr_scheduler_type === 'constant') return args.learning_rate
  if (done < warmup) return (args.learning_rate * done) / warmup
  return args.learning_rate * Math.max(0, (total - done) / Math.max(1, total - warmup))
}
