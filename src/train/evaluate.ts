/** Evaluation without a second forward pass: one read of the logits per group of batches, everything else on the host. */
import * as tf from '@tensorflow/tfjs-core'
import { evalBatches, type Encoded } from '../data/batches.ts'
import { uploadBatch } from '../model/batch.ts'
import { predict, type Model } from '../model/model.ts'
import { metricsOf, type Metrics } from './metrics.ts'

/** Batches whose logits are read together: enough to keep the device busy, few enough to stay responsive. */
const batchesPerRead = 8

/** Logits of every row of `encoded` in evaluation mode, in the rows' own order: [rows][C]. */
export async function logitsOf(model: Model, encoded: Encoded, batchSize: number): Promise<Float32Array[]> {
  const { config } = model.roberta
  const batches = evalBatches(encoded, batchSize, config.pad_token_id)
  const rows = new Array<Float32Array>(encoded.input_ids.length)
  for (let start = 0; start < batches.length; start += batchesPerRead) {
    const group = batches.slice(start, start + batchesPerRead)
    const logits = tf.tidy(() =>
      tf.concat2d(
        group.map((host) => predict(model, uploadBatch(config, host)).logits),
        0,
      ),
    )
    const values = (await logits.data()) as Float32Array
    logits.dispose()
    const C = model.head.num_labels
    const indices = group.flatMap((batch) => [...batch.indices])
    indices.forEach((row, i) => (rows[row] = values.slice(i * C, (i + 1) * C)))
  }
  return rows
}

/** Metrics of a labelled split (its loss without label smoothing), and the class probabilities of its rows. */
export async function evaluate(
  model: Model,
  encoded: Encoded,
  batchSize: number,
): Promise<{ metrics: Metrics; rows: Float32Array[] }> {
  const logits = await logitsOf(model, encoded, batchSize)
  const losses = logits.map((row, i) => logSumExp(row) - row[encoded.labels[i]!]!)
  const loss = losses.reduce((a, b) => a + b, 0) / losses.length
  const metrics = metricsOf(encoded.labels, logits.map(argMax), model.head.num_labels, loss)
  return { metrics, rows: logits.map(softmax) }
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
