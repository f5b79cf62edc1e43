/** How far up a text's hidden states are the same in every pass of a run, so that one pass through there is enough. */
import type { AdapterConfig, AdapterSetup, ModelSetup } from '../config.ts'
import { namesIn } from './composition.ts'
import { heedsPadding } from './padding.ts'
import { childConfigs } from './registry.ts'

/**
 * Of `num_hidden_layers` layers the number at the bottom whose outputs depend on the text alone when the base's own
 * dropout is off: nothing in them trains, drops by chance or tells a batch's rows apart. 0: not even the lowest, which
 * is also said where the embeddings or all rows together change. `random`: AdapterDrop draws the layers that go without
 * adapters, so that even a frozen adapter is not always there.
 */
export function settledLayers(setup: ModelSetup, num_hidden_layers: number, random: boolean): number {
  const { active, adapters, fusions, train, skip_layers } = setup
  if (train.base !== 'none' || heedsPadding(setup) || tellsRowsApart(active)) return 0
  const layers = Array.from({ length: num_hidden_layers }, (_, l) => l)
  const lowest = (name: string) => {
    const own = childConfigs(adapters[name]!).map((config) => {
      if (changesEmbeddings(config)) return 0
      return layers.find((l) => standsIn(config, l) && !skip_layers.includes(l)) ?? num_hidden_layers
    })
    return Math.min(...own)
  }
  const unsettled = namesIn(active).filter(
    (name) => random || train.adapters.includes(name) || childConfigs(adapters[name]!).some(drops),
  )
  const members = Object.entries(fusions)
    .filter(([key, { dropout_prob }]) => train.fusions.includes(key) || dropout_prob)
    .flatMap(([key]) => key.split(','))
  return Math.min(num_hidden_layers, ...[...unsettled, ...members].map(lowest))
}

function tellsRowsApart(setup: AdapterSetup | null): boolean {
  if (setup === null || typeof setup === 'string') return false
  return setup.type === 'Parallel' || setup.type === 'BatchSplit' || setup.children.some(tellsRowsApart)
}

/** Whether an adapter's own training noise changes what comes out of it. */
function drops(config: AdapterConfig): boolean {
  return (
    ('dropout' in config && config.dropout > 0) ||
    (config.architecture === null && config.stochastic_depth > 0)
  )
}

function changesEmbeddings(config: AdapterConfig): boolean {
  return (
    config.architecture === 'prompt_tuning' || (config.architecture === null && config.inv_adapter !== null)
  )
}

/** Whether a configuration does anything in layer `l` or right behind it. */
function standsIn(config: AdapterConfig, l: number): boolean {
  if (config.architecture === 'reft') return config.layers === 'all' || config.layers.includes(l)
  return !('leave_out' in config && config.leave_out.includes(l))
}
