/** The counts that are kept in baseline.json and compared by tests/bench.test.ts: this engine at a small size. */
import { measureEngine, type Cost, type Measured, type Size } from './measure.ts'
import { configOf, measured } from './methods.ts'
import { need, type Need } from './need.ts'
import { robertaBase, twoLayers } from './sizes.ts'
import { num_labels } from './steps.ts'

/** Counts, and the operations dispatched over need and floor; see need.ts. */
export type Kept = Omit<Cost, 'flops'> & { ofNeed: number; ofFloor: number }

/** By work, as the bench's table names it. */
export type Baseline = Record<string, Kept>

export const smallSize: Size = { config: twoLayers, B: 4, S: 32 }
export const fullSize: Size = { config: robertaBase, B: 32, S: 128 }

/** Measures everything that the baseline holds: all methods at the small size, and seq_bn's step at RoBERTa-base's. */
export async function measureBaseline(): Promise<Record<string, Measured & Kept>> {
  const baseline: Record<string, Measured & Kept> = {}
  const add = async (size: Size, name: (typeof measured)[number], prefix: string) => {
    const adapter = configOf(name)
    const { forward, step, dropoutStep } = await measureEngine(size, adapter)
    const needed = need(size, adapter, num_labels)
    const floor = need(size, adapter, num_labels, true)
    const whole = (one: Need) => one.forward + one.backward
    baseline[`${prefix}${name} forward`] = withRatios(forward, needed.forward, floor.forward)
    baseline[`${prefix}${name} step`] = withRatios(step, whole(needed), whole(floor))
    baseline[`${prefix}${name} step, dropout`] = withRatios(dropoutStep, whole(needed), whole(floor))
  }
  for (const name of measured) await add(smallSize, name, '')
  await add(fullSize, 'seq_bn', 'roberta-base ')
  return baseline
}

function withRatios(measured: Measured, needed: number, floor: number): Measured & Kept {
  const ratio = (flops: number) => Number((measured.flops / flops).toFixed(4))
  return { ...measured, ofNeed: ratio(needed), ofFloor: ratio(floor) }
}

/** What of a measurement is kept: counts, no names. */
export function kept({ uploaded, unknownKernels, flops, ...counts }: Measured & Kept): Kept {
  return counts
}
