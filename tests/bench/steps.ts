/** One batch and the optimiser steps on it, for counting and for timing. */
import * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../../src/config.ts'
import { adamwState } from '../../src/kernels/adamw.ts'
import type { HostBatch } from '../../src/model/batch.ts'
import type { Model } from '../../src/model/model.ts'
import { optimiserStep } from '../../src/train/step.ts'
import { trainingDefaults, type TrainingArguments } from '../../src/trainingArguments.ts'

export const num_labels = 2

/** Full rows of ids that no other array of the batch resembles. */
export function hostBatch({ vocab_size, pad_token_id }: RobertaConfig, B: number, S: number): HostBatch {
  const words = vocab_size - pad_token_id - 1
  return {
    B,
    S,
    input_ids: Int32Array.from({ length: B * S }, (_, i) => pad_token_id + 1 + ((i * 7) % words)),
    attention_mask: new Int32Array(B * S).fill(1),
    labels: Int32Array.from({ length: B }, (_, i) => (i % 3 === 0 ? 0 : 1)),
  }
}

/**
 * Optimiser steps of a model from its values `start` (its own layout, zeros when left out). `step` returns the loss, the
 * caller's; `dropout`: with the base model's dropout.
 */
export class Stepper {
  #state
  #call = 0

  constructor(
    private readonly model: Model,
    private readonly host: HostBatch,
    start: Float32Array | null = null,
    private readonly args: TrainingArguments = trainingDefaults,
  ) {
    const { size } = model.layout
    this.#state = adamwState(start ? tf.tensor1d(start) : tf.zeros<tf.Rank.R1>([size]))
  }

  step(dropout: boolean, learning_rate = 1e-4): tf.Scalar {
    const call = dropout ? this.#call++ : null
    const next = optimiserStep(this.model, this.#state, [this.host], this.args, learning_rate, call)
    this.#state = next.state
    next.grad_norm.dispose()
    return next.loss
  }

  /** Frees the optimiser's state; the model keeps its values. */
  dispose(): void {
    tf.dispose([this.#state.p, this.#state.m, this.#state.v])
  }
}
