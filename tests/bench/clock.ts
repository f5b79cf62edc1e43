/** Times on a device that runs ahead of JavaScript, and what can be said of them. */
import * as tf from '@tensorflow/tfjs-core'

/** Milliseconds of one piece of work: the median of the rounds, with the fastest and the slowest. */
export interface Timing {
  ms: number
  low: number
  high: number
  rounds: number
}

/** A median with the interval that holds the true one with 95 %. */
export interface Ratio {
  median: number
  low: number
  high: number
  pairs: number
}

/** Work whose result, the caller's, depends on everything that is to be timed. */
export type Work = () => tf.Tensor

/** A round should last so long that starting and waiting do not show. */
const roundMs = 200

/** Times `work`: three runs to warm up, then rounds of as many runs as fill a fifth of a second. */
export async function time(work: Work, rounds = 7, mostRepeats = 200): Promise<Timing> {
  for (let i = 0; i < 3; i++) await lasts(work, 1)
  const once = await lasts(work, 1)
  const repeats = Math.max(1, Math.min(mostRepeats, Math.round(roundMs / once)))
  const found: number[] = []
  for (let i = 0; i < rounds; i++) found.push((await lasts(work, repeats)) / repeats)
  found.sort((a, b) => a - b)
  return { ms: medianOf(found), low: found[0]!, high: found.at(-1)!, rounds }
}

/** Something that is over when its promise is. */
export type Run = () => Promise<unknown>

/**
 * How many times as long `a` takes as `b`, from interleaved pairs, so that a machine that grows slower or faster does not
 * favour one; which comes first alternates.
 */
export async function compare(a: Run, b: Run, pairs = 11): Promise<Ratio> {
  for (const one of [a, b]) await one()
  const ratios: number[] = []
  for (let i = 0; i < pairs; i++) {
    const ms = new Map<Run, number>()
    for (const one of i % 2 === 0 ? [a, b] : [b, a]) {
      const started = performance.now()
      await one()
      ms.set(one, performance.now() - started)
    }
    ratios.push(ms.get(a)! / ms.get(b)!)
  }
  return ratioOf(ratios)
}

/** `repeats` runs of `work` one after another, until the last result can be read. */
export function runs(work: Work, repeats = 1): Run {
  return async () => {
    for (let i = 1; i < repeats; i++) work().dispose()
    await readOne(work())
  }
}

/** Milliseconds of `repeats` runs. */
async function lasts(work: Work, repeats: number): Promise<number> {
  const started = performance.now()
  await runs(work, repeats)()
  return performance.now() - started
}

/** Waits for a tensor by reading one element of it, and frees it. */
async function readOne(tensor: tf.Tensor): Promise<void> {
  const one = tf.tidy(() => tf.slice(tf.reshape(tensor, [-1]), 0, 1))
  tensor.dispose()
  await one.data()
  one.dispose()
}

/**
 * The median of ratios and its 95 % interval from order statistics: the narrowest symmetric pair of ranks that misses the
 * median with at most 5 % (a binomial of fair coins).
 */
export function ratioOf(ratios: number[]): Ratio {
  const sorted = [...ratios].sort((a, b) => a - b)
  const n = sorted.length
  if (n < 6) throw new Error(`An interval of 95 % needs 6 pairs or more, not ${n}.`)
  let rank = 0
  let outside = 2 * 0.5 ** n
  let chance = 0.5 ** n
  for (let k = 1; k < n / 2; k++) {
    chance *= (n - k + 1) / k
    if (outside + 2 * chance > 0.05) break
    outside += 2 * chance
    rank = k
  }
  return { median: medianOf(sorted), low: sorted[rank]!, high: sorted[n - 1 - rank]!, pairs: n }
}

function medianOf(sorted: number[]): number {
  const n = sorted.length
  return (sorted[(n - 1) >> 1]! + sorted[n >> 1]!) / 2
}
