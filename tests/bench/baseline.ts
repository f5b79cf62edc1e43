/** The counts that are kept in baseline.json and compared by tests/bench.test.ts: this engine at a small size. */
import { presets } from '../../src/methods/registry.ts'
import { measureEngine, type Cost, type Size } from './measure.ts'
import { twoLayers } from './sizes.ts'

/** By work, as the bench's table names it. */
export type Baseline = Record<string, Cost>

export const smallSize: Size = { config: twoLayers, B: 4, S: 32 }

/** Measures everything that the baseline holds. */
export async function measureBaseline(): Promise<Baseline> {
  const baseline: Baseline = {}
  for (const name of ['seq_bn', 'lora']) {
    const adapter = presets.find((preset) => preset.name === name)!.config
    const { forward, step, dropoutStep } = await measureEngine(smallSize, adapter)
    baseline[`${name} forward`] = forward
    baseline[`${name} step`] = step
    baseline[`${name} step, dropout`] = dropoutStep
  }
  return baseline
}
