/** Evaluation without a second forward pass: one read of the logits per group of batches, everything else on the host. */
import * as tf from '@tensorflow/tfjs-core'
import { evalBatches, type Encoded } from '../data/batches.ts'
import { judgedBatches } from '../data/masking.ts'
import { uploadBatch, type HostBatch } from '../model/batch.ts'
import { maskedScores, predict, type Model } from '../model/model.ts'
import { withFeatures, type FeatureCache } from './featureCache.ts'
import { metricsOf, type Metrics } from './metrics.ts'
import { metricsOfHiddenWords, metricsOfLabels, metricsOfNumbers } from './metricsOfTargets.ts'

/** Batches whose logits are read together: enough to keep the device busy, few enough to stay responsive. */
const batchesPerRead = 8

/** The first active head's logits of every row of `encoded` in evaluation mode, in the rows' own order: [rows][C]. */
export async function logitsOf(
  model: Model,
  encoded: Encoded,
  batchSize: number,
  features: FeatureCache | null = null,
): Promise<Float32Array[]> {
  return (await logitsOfHeads(model, encoded, batchSize, features))[0] ?? []
}

/** The same for every active head: [heads][rows][C]. `features`: what the run has kept of the rows, and keeps. */
export async function logitsOfHeads(
  model: Model,
  encoded: Encoded,
  batchSize: number,
  features: FeatureCache | null = null,
): Promise<Float32Array[][]> {
  const { config } = model.roberta
  const batches = evalBatches(encoded, batchSize, config.pad_token_id)
  const heads = model.setup.active_heads.map(() => new Array<Float32Array>(encoded.input_ids.length))
  for (let start = 0; start < batches.length; start += batchesPerRead) {
    const group = batches.slice(start, start + batchesPerRead)
    const indices = group.flatMap((batch) => [...batch.indices])
    const all = await logitsOfGroup(model, group, features)
    for (const [h, logits] of all.entries()) {
      const values = (await logits.data()) as Float32Array
      const C = logits.shape[1]
      logits.dispose()
      indices.forEach((row, i) => (heads[h]![row] = values.slice(i * C, (i + 1) * C)))
    }
  }
  return heads
}

/** Logits of every active head for the rows of some batches, one under another: [rows,C] each, the caller's. */
async function logitsOfGroup(
  model: Model,
  group: HostBatch[],
  features: FeatureCache | null,
): Promise<tf.Tensor2D[]> {
  const { config } = model.roberta
  const outputs: tf.Tensor2D[][] = []
  try {
    for (const host of group)
      outputs.push(
        await withFeatures(features, [host], ([begun]) =>
          tf.tidy(() => {
            const { logits, others } = predict(model, uploadBatch(config, begun!))
            return [logits, ...others]
          }),
        ),
      )
    return model.setup.active_heads.map((_, h) => tf.concat2d(outputs.map((output) => output[h]!), 0)) // prettier-ignore
  } finally {
    tf.dispose(outputs)
  }
}

/** Metrics of a split (its loss without label smoothing), and what its rows were answered: shares, or numbers. */
export async function evaluate(
  model: Model,
  encoded: Encoded,
  batchSize: number,
  features: FeatureCache | null = null,
): Promise<{ metrics: Metrics; rows: Float32Array[] }> {
  if (encoded.masking) return { metrics: await evaluateHiddenWords(model, encoded, batchSize), rows: [] }
  const logits = await logitsOf(model, encoded, batchSize, features)
  const { targets, labels } = encoded
  const flat = () => Float32Array.from(logits.flatMap((row) => [...row]))
  if (targets?.kind === 'regression')
    return { metrics: { ...nothing, ...numbers(targets.labels, flat()) }, rows: logits }
  if (targets?.kind === 'multilabel') {
    const { per_label, ...all } = metricsOfLabels(targets.labels, flat(), targets.num_labels)
    return {
      metrics: { ...nothing, ...all, per_class: per_label },
      rows: logits.map((row) => row.map(sigmoid)),
    }
  }
  const losses = logits.map((row, i) => logSumExp(row) - row[labels[i]!]!)
  const loss = losses.reduce((a, b) => a + b, 0) / losses.length
  return {
    metrics: metricsOf(labels, logits.map(argMax), logits[0]?.length ?? 0, loss),
    rows: logits.map(softmax),
  }
}

/** What a task has no such metric for is not a number. */
const nothing: Metrics = {
  rows: 0,
  loss: NaN,
  accuracy: NaN,
  f1_macro: NaN,
  f1_micro: NaN,
  per_class: [],
  confusion: [],
}

function numbers(labels: Float32Array, predicted: Float32Array): Partial<Metrics> {
  const { rows, mse, mae, pearson, spearman } = metricsOfNumbers(labels, predicted)
  return { rows, loss: mse, mae, pearson, spearman }
}

/** Masked-LM: the same words are hidden every time. */
async function evaluateHiddenWords(model: Model, encoded: Encoded, batchSize: number): Promise<Metrics> {
  const { config } = model.roberta
  const losses: number[] = []
  const hits: number[] = []
  for (const host of judgedBatches(encoded, batchSize, config.pad_token_id)) {
    const scores = tf.tidy(() => maskedScores(model, uploadBatch(config, host)))
    losses.push(...(await scores.losses.data()))
    hits.push(...(await scores.hits.data()))
    tf.dispose([scores.losses, scores.hits])
  }
  const { words, loss, perplexity, accuracy } = metricsOfHiddenWords(losses, hits)
  return { ...nothing, rows: words, loss, perplexity, accuracy }
}

/** 1 / (1 + e^-x) */
export function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x))
}

/** The index of the largest value; the first of equals. */
export function argMax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}

/** Logits [C] -> probabilities [C]. */
export function softmax(logits: Float32Array): Float32Array {
  const total = logSumExp(logits)
  return logits.map((logit) => Math.exp(logit - total))
}

/** ln Σ exp, in double precision, without overflow. */
function logSumExp(logits: Float32Array): number {
  const top = Math.max(...logits)
  return top + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0))
}
