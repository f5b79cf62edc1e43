/**
 * Which families of kernels are wrong on the device that is open, and the first way below that is right: a small case of
 * each family by one way after another, while every other family takes its reference, against the family's own
 * reference. Asked only when the self-test has failed, so that a sound device spends nothing on it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { valuesOf } from './deviceChecks.ts'
import { familyCases, familyWants } from './familyCases.ts'
import {
  kernelFamilies,
  onGpu,
  takenWays,
  takeWays,
  wayOf,
  ways,
  type KernelFamily,
  type TakenWays,
  type Way,
} from './program.ts'
import { refusalsThrown } from './refusals.ts'
import { compileTogether } from './warmUp.ts'

/** A family that must not run on this device as it would elsewhere. */
export interface FamilyFailure {
  family: KernelFamily
  /** Its numbers are wrong, or the device would not run it. */
  problem: 'wrong' | 'refused'
  /** What was found, as a part of a sentence. */
  detail: string
  /** The first way below whose numbers are right. */
  instead: Way
}

/** Largest difference from the reference that rounding explains, relative to the largest value of a tensor. */
const limit = 1e-4

/**
 * The families that disagree with their reference, give what is no number, or do not run; those that take their reference
 * already are left out. The ways taken are afterwards as they were. On wasm and cpu none fails.
 */
export async function failingFamilies(): Promise<FamilyFailure[]> {
  if (!onGpu()) return []
  const before = takenWays()
  const from = kernelFamilies.map((family): [KernelFamily, Way] => [family, wayOf(family)])
  const found: FamilyFailure[] = []
  try {
    await compileCases(from)
    // Half precision first: where it is wrong nothing is packed, so that others need not read it.
    const ordered = from.toSorted(([a], [b]) => Number(b === 'half') - Number(a === 'half'))
    for (const [family, way] of ordered) {
      const packed = !found.some((other) => other.family === 'half')
      const failure = await failureOf(family, way, packed)
      if (failure) found.push(failure)
    }
  } finally {
    takeWays(before)
  }
  return found.toSorted((a, b) => kernelFamilies.indexOf(a.family) - kernelFamilies.indexOf(b.family))
}

/** Every family takes its reference but one, which goes its way. */
function alone(family: KernelFamily, way: Way): TakenWays {
  const others = kernelFamilies.map((other): [KernelFamily, Way] => [other, 'reference'])
  return { ...Object.fromEntries(others), [family]: way }
}

/** Beside each other: the references, and each family's programs by its way. What a device refuses is found later. */
async function compileCases(from: [KernelFamily, Way][]): Promise<void> {
  const compile = () =>
    compileTogether(() => {
      for (const [family, way] of from) {
        for (const taken of family in familyWants ? [way] : (['reference', way] as const)) {
          takeWays(alone(family, taken))
          familyCases[family](taken !== 'reference')
        }
      }
    })
  await refusalsThrown(compile).catch(() => {})
}

/** null as well where the reference does not work here: there is nothing to tell right numbers by. */
async function failureOf(family: KernelFamily, from: Way, packed: boolean): Promise<FamilyFailure | null> {
  if (from === 'reference') return null
  const wanted = await wantedOf(family).catch(() => [])
  if (wanted.length === 0 || !wanted.every((data) => data.every(Number.isFinite))) return null
  let first: Pick<FamilyFailure, 'problem' | 'detail'> | null = null
  for (const way of ways.slice(ways.indexOf(from), ways.indexOf('reference'))) {
    takeWays(alone(family, way))
    const problem = await problemOf(family, wanted, packed)
    if (!problem) return first && { family, ...first, instead: way }
    first ??= problem
  }
  return first && { family, ...first, instead: 'reference' }
}

async function wantedOf(family: KernelFamily): Promise<Float32Array[]> {
  const want = familyWants[family]
  if (want) return want().map((values) => Float32Array.from(values))
  takeWays(alone(family, 'reference'))
  return refusalsThrown(() => read(() => familyCases[family](false)))
}

async function problemOf(
  family: KernelFamily,
  wanted: Float32Array[],
  packed: boolean,
): Promise<Pick<FamilyFailure, 'problem' | 'detail'> | null> {
  try {
    const worst = largestDifference(
      await refusalsThrown(() => read(() => familyCases[family](packed))),
      wanted,
    )
    if (worst <= limit) return null
    const off = Number.isNaN(worst) ? 'what is no number' : `off by ${worst.toExponential(1)} of the largest`
    return { problem: 'wrong', detail: off }
  } catch (error) {
    return { problem: 'refused', detail: error instanceof Error ? error.message : String(error) }
  }
}

async function read(make: () => tf.Tensor[]): Promise<Float32Array[]> {
  const tensors = tf.tidy(make)
  try {
    return await valuesOf(tensors)
  } finally {
    tf.dispose(tensors)
  }
}

/** Over all tensors, relative to the largest value of each; NaN where anything is not a number. */
function largestDifference(got: Float32Array[], wanted: Float32Array[]): number {
  const each = wanted.map((want, i) => {
    const own = got[i] ?? new Float32Array()
    let [worst, largest] = [0, 1e-6]
    for (let at = 0; at < want.length; at++) {
      const difference = Math.abs((own[at] ?? NaN) - (want[at] ?? NaN))
      if (!Number.isFinite(difference)) return NaN
      worst = Math.max(worst, difference)
      largest = Math.max(largest, Math.abs(want[at] ?? NaN))
    }
    return worst / largest
  })
  return Math.max(...each)
}
