/** Checks of what a device computes: all are compiled beside each other, then run, then judged on the host. */
import * as tf from '@tensorflow/tfjs-core'
import { compileTogether } from './warmUp.ts'

/** What a check found, as the page shows it. */
export interface Verdict {
  name: string
  ok: boolean
  /** What was found, as a sentence or a part of one. */
  detail: string
}

export interface DeviceCheck {
  /** What the device computes; called within a tidy, more than once. */
  make(): tf.Tensor[]
  /** What to say of the values of these tensors. */
  judge(found: Float32Array[]): Verdict[]
}

/** Runs every check; a wrong number makes a verdict's `ok` false, it does not throw. */
export async function runChecks(checks: DeviceCheck[]): Promise<Verdict[]> {
  await compileTogether(() => checks.forEach(({ make }) => void make()))
  const made = checks.map(({ make }) => tf.tidy(make))
  try {
    const found = await Promise.all(made.map(valuesOf))
    return checks.flatMap(({ judge }, i) => judge(found[i]!))
  } finally {
    tf.dispose(made)
  }
}

/** The values of tensors, read at once. */
export async function valuesOf(tensors: tf.Tensor[]): Promise<Float32Array[]> {
  return Promise.all(tensors.map(async (x) => Float32Array.from(await x.data())))
}

/** A check of tensors against values worked out on the host, none of which may be off by more than `limit`. */
export function compared(
  name: string,
  limit: number,
  make: () => tf.Tensor[],
  want: () => ArrayLike<number>[],
): DeviceCheck {
  const judge = (found: Float32Array[]) => {
    const worst = Math.max(...want().map((one, i) => largestError(found[i] ?? [], one)))
    const ok = worst <= limit
    return [
      { name, ok, detail: `Largest error ${worst.toExponential(1)}, ${ok ? 'within' : 'beyond'} ${limit}.` },
    ]
  }
  return { make, judge }
}

/** NaN where anything is not a number. */
function largestError(found: ArrayLike<number>, want: ArrayLike<number>): number {
  let worst = 0
  for (let i = 0; i < want.length; i++) {
    const difference = Math.abs((found[i] ?? NaN) - (want[i] ?? NaN))
    if (!(difference <= worst)) worst = difference
  }
  return worst
}

/** n scattered numbers in [-1, 1), the same for the same `seed`. */
export function values(n: number, seed: number): Float32Array {
  return Float32Array.from({ length: n }, (_, i) => {
    const word = Math.imul((i + 1) ^ Math.imul(seed + 1, 0x85ebca6b), 0x9e3779b1)
    return Math.imul(word ^ (word >>> 15), 0x735a2d97) / 2 ** 31
  })
}

/** n scattered eighths in [-1, 1]: sums of a few of them, and of their products, are halves as they stand. */
export function eighths(n: number, seed: number): Float32Array {
  return values(n, seed).map((x) => Math.round(x * 8) / 8)
}
