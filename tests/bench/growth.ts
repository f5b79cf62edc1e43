/** How the buffer pool grows over a run through the real loop whose batches change length. */
import * as tf from '@tensorflow/tfjs'
import type { AdapterConfig } from '../../src/config.ts'
import { trainBatches } from '../../src/data/batches.ts'
import { train } from '../../src/train/train.ts'
import { trainingDefaults } from '../../src/trainingArguments.ts'
import { openEngine, type Size } from './measure.ts'
import { num_labels } from './steps.ts'

/** What is alive at one moment of a run, and the most bytes that were allocated in the half before it. */
export interface Held {
  bytes: number
  peakBytes: number
  tensors: number
  pipelines: number
}

/** A run whose batches change length from step to step: what is alive half-way, once warm, and at the end. */
export interface Growth {
  steps: number
  num_hidden_layers: number
  /** Padded lengths that occurred, and how often. */
  lengths: Record<number, number>
  half: Held
  end: Held
  /** Bytes by which the second half's peak is over the first's. */
  grown: number
}

/** No tensor and no pipeline more, and no more memory in the second half than in the first. */
export function isFlat({ half, end, grown }: Growth): boolean {
  return end.tensors === half.tensors && grown <= 0.001 * half.peakBytes && end.pipelines === half.pipelines
}

/**
 * Trains `steps` steps (a multiple of 20) through the real loop, evaluating four times, on rows of the given lengths.
 * Both looks are taken at the same phase of logging and evaluation; the run goes on a little after the second.
 */
export async function measureGrowth(
  { config, B }: Size,
  adapter: AdapterConfig,
  steps: number,
  lengths: number[],
): Promise<Growth> {
  const { gpu, model } = await openEngine(config, adapter)
  const rows = (count: number) => ({
    input_ids: Array.from({ length: count }, (_, i) => new Int32Array(lengths[i % lengths.length]!).fill(5)),
    labels: Int32Array.from({ length: count }, (_, i) => i % num_labels),
  })
  const args = {
    ...trainingDefaults,
    max_steps: steps + trainingDefaults.logging_steps,
    per_device_train_batch_size: B,
    eval_strategy: 'steps' as const,
    eval_steps: steps / 4,
    max_length: Math.max(...lengths),
  }
  const held = (): Held => ({
    bytes: gpu.bytes,
    peakBytes: gpu.peakBytes,
    tensors: tf.memory().numTensors,
    pipelines: gpu.counts.pipelines,
  })
  const data = {
    train: rows((steps + trainingDefaults.logging_steps) * B),
    validation: rows(2 * lengths.length),
  }
  const seen: Record<number, number> = {}
  const cut = { ...args, batch_size: B, epoch: 0, pad_token_id: config.pad_token_id }
  for (const { S } of trainBatches(data.train, cut)) seen[S] = (seen[S] ?? 0) + 1
  let half = held()
  let end = half
  for await (const event of train(model, data, args)) {
    if (event.type !== 'tick') continue
    if (event.step === steps / 2) {
      half = held()
      gpu.resetPeak()
    }
    if (event.step === steps) end = held()
  }
  const grown = Math.max(0, end.peakBytes - half.peakBytes)
  return { steps, num_hidden_layers: config.num_hidden_layers, lengths: seen, half, end, grown }
}
