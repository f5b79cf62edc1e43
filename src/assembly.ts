/** Kept adapters and a run's own, put together as one `ModelSetup` with the tensors that are already known. */
import type { Base } from './base.ts'
import type {
  AdapterBundle,
  AdapterConfig,
  AdapterDrop,
  AdapterSetup,
  Assembly,
  HeadConfig,
  HostTensor,
  ModelSetup,
  SetupBundle,
  TensorMap,
} from './config.ts'
import type { RunRecord } from './io/db.ts'
import { setupBundle } from './io/setup.ts'
import { skippedLayers } from './methods/adapterDrop.ts'
import { lastOf, namesIn } from './methods/composition.ts'
import { parametersOf } from './methods/registry.ts'
import { headParameters } from './model/heads/head.ts'
import { singleSetup } from './model/model.ts'
import { isPassedBy } from './model/params.ts'

/** What a run makes: an adapter (or none of the library's, see `ComparisonConfig`) with a head of its name. */
export interface Own {
  name: string
  adapter: AdapterConfig
  head: HeadConfig
}

/** A setup, the tensors of what was loaded into it, and the labels of each head. */
export interface Assembled {
  setup: ModelSetup
  given: TensorMap
  id2label: Record<string, string[]>
}

/** Nobody but a run's own adapter. */
export const noMembers: Assembly = { members: [], active: null, skip_layers: [], fusions: {} }

/**
 * Puts kept adapters (by run) beside a run's own and sets what is active and what trains. Throws one sentence when two
 * would have one name or an active one is absent.
 */
export function assemble(
  own: Own | null,
  { members, active, skip_layers, fusions }: Assembly,
  kept: ReadonlyMap<string, AdapterBundle>,
): Assembled {
  const setup = own ? singleSetup(own.name, own.adapter, own.head) : emptySetup()
  const given: TensorMap = new Map()
  const id2label: Record<string, string[]> = {}
  for (const { name, runId, with_head, train, train_head } of members) {
    if (name in setup.adapters || name in setup.heads)
      throw new Error(`Two adapters are named “${name}”; give one of them another name.`)
    const bundle = kept.get(runId)!
    if (!isComparison(bundle.adapter)) setup.adapters[name] = bundle.adapter
    if (train) setup.train.adapters.push(name)
    const head = with_head ? bundle.head : null
    if (head) {
      setup.heads[name] = head
      id2label[name] = bundle.id2label
      if (train_head) setup.train.heads.push(name)
    }
    for (const [key, tensor] of bundle.tensors)
      if (head || !key.startsWith('heads.')) given.set(renamed(key, bundle.name, name), tensor)
  }
  setup.active = active ?? setup.active
  setup.skip_layers = skip_layers
  setup.fusions = fusions
  if (own) setup.train.fusions = Object.keys(fusions)
  const unknown = namesIn(setup.active).find((name) => !(name in setup.adapters))
  if (unknown !== undefined)
    throw new Error(`The adapter “${unknown}” is active, but it was never loaded; open it first.`)
  setup.active_heads = activeHeads(setup, own)
  return { setup, given, id2label }
}

/** The library's choice: the run's own head, else the heads named like the last adapter or like those in parallel. */
function activeHeads({ active, heads }: ModelSetup, own: Own | null): string[] {
  const parallel = active === null ? null : parallelOf(active)
  if (parallel) {
    const names = parallel.children.map(lastOf).map((name) => (name in heads ? name : null))
    if (names.every((name) => name !== null)) return names
  }
  if (own) return [own.name]
  const last = active === null ? undefined : lastOf(active)
  if (last !== undefined && last in heads) return [last]
  return Object.keys(heads).slice(0, 1)
}

function parallelOf(setup: AdapterSetup): { children: AdapterSetup[] } | null {
  if (typeof setup === 'string') return null
  return setup.type === 'Parallel'
    ? setup
    : (setup.children.map(parallelOf).find((one) => one !== null) ?? null)
}

/** The setup of a run with AdapterDrop: at a fixed depth the lowest layers go without adapters throughout. */
export function withDrop(setup: ModelSetup, drop: AdapterDrop | null): ModelSetup {
  if (drop?.mode !== 'fixed') return setup
  return { ...setup, skip_layers: [...new Set([...setup.skip_layers, ...skippedLayers(drop, 0, 0)])] }
}

/** Layers that a kept run passes by: those of its assembly, and AdapterDrop's at a fixed depth. */
export function passedBy({
  assembly,
  adapter_drop = null,
}: Pick<RunRecord, 'assembly' | 'adapter_drop'>): number[] {
  return withDrop({ ...emptySetup(), skip_layers: assembly?.skip_layers ?? [] }, adapter_drop).skip_layers
}

/**
 * A bundle whose configuration leaves `layers` out, without their tensors: what stands for `skip_layers` in a file,
 * which records none. Throws for prefixes, whose one pool holds all layers.
 */
export function leftOut(bundle: AdapterBundle, layers: number[], num_hidden_layers: number): AdapterBundle {
  if (layers.length === 0) return bundle
  const rest = Array.from({ length: num_hidden_layers }, (_, l) => l).filter((l) => !layers.includes(l))
  const without = (config: AdapterConfig): AdapterConfig => {
    switch (config.architecture) {
      case null:
      case 'lora':
        return { ...config, leave_out: [...new Set([...config.leave_out, ...layers])].sort((a, b) => a - b) }
      case 'reft':
        return { ...config, layers: rest.filter((l) => config.layers === 'all' || config.layers.includes(l)) }
      case 'union':
        return { ...config, configs: config.configs.map(without) }
      case 'prefix_tuning':
        throw new Error(
          `“${bundle.name}” passes layers ${layers.join(', ')} by, which the file of a prefix cannot say; train it with leave_out instead of AdapterDrop to export it.`,
        )
      default:
        return config
    }
  }
  const tensors = new Map([...bundle.tensors].filter(([key]) => !isPassedBy(key, layers)))
  return { ...bundle, adapter: without(bundle.adapter), tensors }
}

/** One adapter with its head, as it was kept. */
export function assembledOf({ name, adapter, head, tensors, id2label }: AdapterBundle): Assembled {
  const setup = head
    ? singleSetup(name, adapter, head)
    : { ...emptySetup(), adapters: { [name]: adapter }, active: name }
  return { setup, given: tensors, id2label: head ? { [name]: id2label } : {} }
}

/** A composition as it was kept; nothing of it trains. */
export function assembledOfSetup({ active, active_heads, adapters, fusions, heads }: SetupBundle): Assembled {
  const parts = [adapters, fusions, heads].flatMap((one) => Object.values(one))
  const setup: ModelSetup = {
    ...emptySetup(),
    adapters: mapped(adapters, ({ config }) => config),
    fusions: mapped(fusions, ({ config }) => config),
    heads: mapped(heads, ({ config }) => config),
    active,
    active_heads,
  }
  return {
    setup,
    given: new Map(parts.flatMap(({ tensors }) => [...tensors])),
    id2label: mapped(heads, ({ id2label }) => id2label),
  }
}

/**
 * What a run leaves: its own adapter and head, or the whole setup where other adapters stand beside it. `done` holds
 * the tensors that now stand on the base.
 */
export function keptOf(
  own: Own,
  done: Assembled,
  id2label: string[],
  base: Base,
  max_length: number,
): AdapterBundle | SetupBundle {
  const { setup, given } = done
  const alone = Object.keys(setup.adapters).length <= 1 && Object.keys(setup.heads).length === 1
  if (alone) return bundleOf(own, given, id2label, base, max_length)
  const labels = { ...done.id2label, [own.name]: id2label }
  return setupBundle(own.name, setup, given, labels, base.identity, max_length)
}

/** The tensors of a run's own adapter and head, with all that makes them usable again. */
function bundleOf(
  { name, adapter, head }: Own,
  tensors: TensorMap,
  id2label: string[],
  { config, identity }: Base,
  max_length: number,
): AdapterBundle {
  const keys = [...parametersOf(config, adapter, name), ...headParameters(config, head, name)]
  const own = keys.map(({ key }): [string, HostTensor] => {
    const tensor = tensors.get(key)
    if (!tensor) throw new Error(`The adapter tensor ${key} is not in the model.`)
    return [key, tensor]
  })
  return { name, adapter, head, id2label, tensors: new Map(own), base: identity, max_length }
}

function isComparison({ architecture }: AdapterConfig): boolean {
  return architecture === 'head' || architecture === 'bitfit' || architecture === 'full'
}

/** Containers of the library whose children bear adapter names; a layer or a part may bear the same one. */
const modules =
  '(?:invertible_)?adapters|prefix_tunings|prefix_gates|loras|refts|prompt_tunings|shared_parameters'

/** A tensor's key when its adapter is loaded under another name (`load_as`). */
export function renamed(key: string, from: string, to: string): string {
  if (key.startsWith(`heads.${from}.`)) return `heads.${to}.${key.slice(`heads.${from}.`.length)}`
  return key.replace(new RegExp(`\\.(${modules})\\.${from}(?=\\.)`), `.$1.${to}`)
}

/** A record with each value changed. */
export function mapped<A, B>(
  record: Record<string, A>,
  map: (value: A, name: string) => B,
): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, map(value, name)]))
}

function emptySetup(): ModelSetup {
  return {
    adapters: {},
    fusions: {},
    heads: {},
    active: null,
    active_heads: [],
    train: { adapters: [], fusions: [], heads: [], base: 'none' },
    skip_layers: [],
  }
}
