/** What a setup needs of the batch's shape: whether padding changes its answers, and whether a batch can be cut. */
import type { AdapterConfig, AdapterSetup, ModelSetup } from '../config.ts'
import { childConfigs } from './registry.ts'

/** Whether padding changes an answer, as it does in the library: gates average over it and prompts attend to it. */
export function heedsPadding({ adapters }: Pick<ModelSetup, 'adapters'>): boolean {
  const heeds = (config: AdapterConfig) =>
    config.architecture === 'prompt_tuning' || ('use_gating' in config && config.use_gating)
  return Object.values(adapters).flatMap(childConfigs).some(heeds)
}

/**
 * How the rows of a batch may be computed in parts without a change of the result: each part padded to its own longest
 * row (`freely`), every part padded as the whole (`same_length`), or not at all, where a block tells the rows apart by
 * their place (`never`).
 */
export function cuttable(setup: Pick<ModelSetup, 'adapters' | 'active'>): 'freely' | 'same_length' | 'never' {
  if (holds(setup.active, 'BatchSplit')) return 'never'
  return heedsPadding(setup) || holds(setup.active, 'Split') ? 'same_length' : 'freely'
}

function holds(setup: AdapterSetup | null, type: 'Split' | 'BatchSplit'): boolean {
  if (setup === null || typeof setup === 'string') return false
  return setup.type === type || setup.children.some((child) => holds(child, type))
}
