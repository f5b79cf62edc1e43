/**
 * How much of what an epoch computes is text: the batches that training cuts, on the lengths of short and of long
 * reviews.
 */
import { trainBatches } from '../../src/data/batches.ts'
import { seqBn } from '../../src/methods/bottleneck.ts'
import { TorchGenerator } from '../../src/random.ts'
import { need } from './need.ts'
import { robertaBase } from './sizes.ts'

/**
 * Sentences of Rotten Tomatoes (Pang and Lee 2005, all 10,662) by their number of RoBERTa tokens, `<s>` and `</s>`
 * included: so many have 0, 1, 2, … tokens.
 */
const rottenTomatoes = [
  0, 0, 0, 0, 5, 7, 56, 86, 117, 127, 171, 200, 204, 228, 257, 255, 288, 298, 292, 330, 344, 347, 349, 367,
  353, 359, 365, 375, 324, 343, 342, 332, 292, 293, 260, 258, 252, 221, 239, 210, 170, 171, 156, 134, 103, 95,
  106, 82, 63, 58, 54, 56, 37, 39, 30, 33, 21, 16, 21, 14, 9, 14, 5, 4, 3, 5, 4, 3, 1, 2, 3, 1, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 1, 0, 0, 0, 1, 1,
]

export interface Padding {
  rows: number
  /** Mean number of tokens after cutting at `max_length`. */
  mean: number
  max_length: number
  /** Tokens over positions computed, in one epoch. */
  efficiency: number
  /** The same when every row is padded to `max_length`. */
  unbucketed: number
  /** The same with random batches padded to their longest row. */
  ungrouped: number
  /** Operations of an epoch of seq_bn steps, padded to `max_length`, over those with the batches as they are. */
  saved: number
}

/** Both data sets at batch 32; the long reviews are log-normal with mean 292 and deviation 215 tokens (an assumption). */
export function measurePadding(): Record<'rotten_tomatoes' | 'long_reviews', Padding> {
  const short = rottenTomatoes.flatMap((count, length) => new Array<number>(count).fill(length))
  return { rotten_tomatoes: padding(short, 128), long_reviews: padding(logNormal(5000, 292, 215), 512) }
}

function padding(all: number[], max_length: number): Padding {
  const lengths = all.map((length) => Math.min(length, max_length))
  const tokens = lengths.reduce((a, b) => a + b, 0)
  const encoded = {
    input_ids: lengths.map((length) => new Int32Array(length).fill(5)),
    labels: new Int32Array(lengths.length),
  }
  const batches = (group_by_length: boolean) =>
    trainBatches(encoded, { batch_size: 32, seed: 42, epoch: 0, group_by_length, pad_token_id: 1 })
  const computed = (cut: { B: number; S: number }[]) => cut.reduce((sum, { B, S }) => sum + B * S, 0)
  const flops = (cut: { B: number; S: number }[]) =>
    cut.reduce((sum, { B, S }) => {
      const { forward, backward } = need({ config: robertaBase, B, S }, seqBn, 2)
      return sum + forward + backward
    }, 0)
  const grouped = batches(true)
  return {
    rows: lengths.length,
    mean: tokens / lengths.length,
    max_length,
    efficiency: tokens / computed(grouped),
    unbucketed: tokens / (lengths.length * max_length),
    ungrouped: tokens / computed(batches(false)),
    saved: flops(grouped.map(({ B }) => ({ B, S: max_length }))) / flops(grouped),
  }
}

/** `count` lengths at evenly spaced quantiles, in an order that a seed decides. */
function logNormal(count: number, mean: number, deviation: number): number[] {
  const variance = Math.log(1 + (deviation / mean) ** 2)
  const centre = Math.log(mean) - variance / 2
  const order = new TorchGenerator(1).randperm(count)
  return Array.from(order, (i) =>
    Math.max(3, Math.round(Math.exp(centre + Math.sqrt(variance) * quantile((i + 0.5) / count)))),
  )
}

/** The standard normal quantile, by bisection of its distribution (Abramowitz and Stegun 7.1.26 for erf). */
function quantile(p: number): number {
  let [low, high] = [-8, 8]
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2
    if (0.5 * (1 + erf(middle / Math.SQRT2)) < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}

function erf(x: number): number {
  const t = 1 / (1 + 0.3275911 * Math.abs(x))
  const series =
    ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
  return Math.sign(x) * (1 - series * Math.exp(-x * x))
}
