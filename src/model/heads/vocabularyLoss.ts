/**
 * Cross-entropy through a decoder over a whole vocabulary, in pieces: some rows times one block of words at a time. The
 * way down computes the logits again, so that what is kept is one number for each row.
 */
import * as tf from '@tensorflow/tfjs-core'
import { addScaled } from '../../kernels/addScaled.ts'
import {
  linear,
  linearBackwardBias,
  linearBackwardInput,
  linearBackwardWeight,
} from '../../kernels/linear.ts'
import { sum } from '../../kernels/sum.ts'
import {
  mergeSums,
  rowHits,
  rowLosses,
  rowSums,
  vocabularyGradient,
  type RowSums,
} from '../../kernels/vocabulary.ts'
import type { Matrix, Ops, Vector } from '../ops.ts'
import { Var } from '../tape.ts'

/** Logits that exist at a time, in elements: 32 MiB. */
const logitsAtOnce = 8 << 20

/** A decoder [V,H] in blocks of consecutive words, and its bias [V]. */
export interface Decoder {
  blocks: Matrix[]
  bias: Vector
}

/**
 * Mean cross-entropy of h [M,H] against words `ids` int32 [M], with Hugging Face's label smoothing. `atOnce`: how many
 * logits may exist at a time.
 */
export function vocabularyLoss(
  { tape }: Ops,
  h: Matrix,
  decoder: Decoder,
  ids: tf.Tensor1D,
  label_smoothing: number,
  atOnce = logitsAtOnce,
): Var<tf.Scalar> {
  const { blocks, bias } = decoder
  const [M, size] = [h.shape[0], bias.shape[0]]
  const { loss, logTotal } = tf.tidy(() => {
    const { losses, logTotal } = rowLosses(sumsOf(h.tensor, decoder, ids, atOnce), size, label_smoothing)
    return { loss: tf.div<tf.Scalar>(sum(losses), M), logTotal }
  })
  const inputs = [h, bias, ...blocks]
  return tape.record(loss, inputs, [...inputs, new Var(logTotal, false, false)], (dy) => {
    const { dH, dBias, dBlocks } = gradients(h, decoder, { ids, logTotal, label_smoothing, atOnce })
    const scaled = (gradient: tf.Tensor | undefined) => (gradient ? tf.mul(gradient, dy) : null)
    return [
      scaled(tf.concat2d(dH, 0)),
      scaled(dBias.length > 0 ? tf.concat1d(dBias) : undefined),
      ...blocks.map((_, b) => scaled(dBlocks[b])),
    ]
  })
}

/** The loss of each row and whether its word is the likeliest of all (0 or 1), [M] each; nothing goes on the tape. */
export function vocabularyScores(
  h: tf.Tensor2D,
  decoder: Decoder,
  ids: tf.Tensor1D,
): { losses: tf.Tensor1D; hits: tf.Tensor1D } {
  return tf.tidy(() => {
    const sums = sumsOf(h, decoder, ids, logitsAtOnce)
    return { losses: rowLosses(sums, decoder.bias.shape[0], 0).losses, hits: rowHits(sums) }
  })
}

/** Some rows, from `start`. */
interface Rows {
  start: number
  count: number
}

function partsOf(M: number, { blocks }: Decoder, atOnce: number): Rows[] {
  const widest = Math.max(...blocks.map(({ shape }) => shape[0]))
  const most = Math.max(1, Math.floor(atOnce / widest))
  return Array.from({ length: Math.ceil(M / most) }, (_, i) => ({
    start: i * most,
    count: Math.min(most, M - i * most),
  }))
}

/** The first word of each block. */
function starts({ blocks }: Decoder): number[] {
  let first = 0
  return blocks.map(({ shape }) => (first += shape[0]) - shape[0])
}

function logitsOf(h: tf.Tensor2D, { blocks, bias }: Decoder, b: number, first: number): tf.Tensor2D {
  const { tensor } = blocks[b]!
  return linear(h, tensor, tf.slice(bias.tensor, [first], [tensor.shape[0]]))
}

function sumsOf(h: tf.Tensor2D, decoder: Decoder, ids: tf.Tensor1D, atOnce: number): RowSums {
  const parts = partsOf(h.shape[0], decoder, atOnce).map(({ start, count }) =>
    tf.tidy(() => {
      const rows = tf.slice(h, [start, 0], [count, h.shape[1]])
      const labels = tf.slice(ids, [start], [count])
      return starts(decoder)
        .map((first, b) => tf.tidy(() => rowSums(logitsOf(rows, decoder, b, first), labels, first)))
        .reduce(mergeSums)
    }),
  )
  return tf.concat2d(parts, 0)
}

/** Gradients of the mean loss: of h by parts of its rows, of the bias and the words by block; empty where none is due. */
function gradients(
  h: Matrix,
  decoder: Decoder,
  { ids, logTotal, label_smoothing, atOnce }: LossArguments,
): { dH: tf.Tensor2D[]; dBias: tf.Tensor1D[]; dBlocks: tf.Tensor2D[] } {
  const { blocks, bias } = decoder
  const [M, H] = h.shape
  const [dH, dBias, dBlocks]: [tf.Tensor2D[], tf.Tensor1D[], tf.Tensor2D[]] = [[], [], []]
  partsOf(M, decoder, atOnce).forEach(({ start, count }, part) => {
    const rows = tf.slice(h.tensor, [start, 0], [count, H])
    const [labels, totals] = [tf.slice(ids, [start], [count]), tf.slice(logTotal, [start], [count])]
    const common = { logTotal: totals, labels, size: bias.shape[0], label_smoothing, weight: 1 / M }
    starts(decoder).forEach((first, b) => {
      const block = blocks[b]!
      const made = tf.tidy(() => {
        const d = vocabularyGradient(logitsOf(rows, decoder, b, first), { ...common, first })
        return {
          h: linearBackwardInput(d, block.tensor),
          bias: bias.trained ? linearBackwardBias(d) : undefined,
          block: block.trained ? linearBackwardWeight(d, rows) : undefined,
        }
      })
      accumulate(dH, part, made.h)
      accumulate(dBias, b, made.bias)
      accumulate(dBlocks, b, made.block)
    })
    tf.dispose([rows, labels, totals])
  })
  return { dH, dBias, dBlocks }
}

interface LossArguments {
  ids: tf.Tensor1D
  logTotal: tf.Tensor1D
  label_smoothing: number
  atOnce: number
}

/** Adds x to what has come to `sums[i]` so far, and frees both. */
function accumulate<T extends tf.Tensor>(sums: T[], i: number, x: T | undefined): void {
  if (!x) return
  const old = sums[i]
  sums[i] = old ? addScaled(old, x, 1) : x
  if (old) tf.dispose([old, x])
}
