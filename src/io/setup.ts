/**
 * Adapter setups of the `adapters` library (`save_adapter_setup`): adapter_setup.json, and a folder for each adapter,
 * fusion and head. `load_adapter_setup(path, set_active=True)` takes what is written here.
 */
import { trainingDefaults } from '../trainingArguments.ts'
import type { AdapterSetup, ModelSetup, SetupBundle, TensorMap } from '../config.ts'
import { namesIn } from '../methods/composition.ts'
import { fusionKey, fusionProblems } from '../methods/fusion.ts'
import { nestingProblems } from '../methods/setupText.ts'
import { libraryVersion, valueJson } from './adapterConfig.ts'
import {
  checkLabels,
  checkName,
  checkSizes,
  compareShapes,
  expectedFusion,
  expectedShapes,
  shapesOf,
  sizesOf,
  type ModelSizes,
  type OpenBase,
} from './adapterKeys.ts'
import { adapterFiles, contentFiles, headFiles, type FileMap, type ModelFacts } from './adapterhub.ts'
import { isFields, shown, type Fields } from './fields.ts'
import { decoderKey, headShapes } from './headConfig.ts'
import { PyFloat, pythonJson, type PyJson } from './json.ts'

export const setupFile = 'adapter_setup.json'

type Block = Exclude<AdapterSetup, string>

/** Every folder of the setup, by path. Throws unless it is whole and one that the library takes. */
export function toAdapterSetup(bundle: SetupBundle): FileMap {
  checkSetup(bundle)
  const sizes = sizesOfSetup(bundle)
  const facts: ModelFacts = { hidden_size: sizes.hidden_size, model_name: bundle.base?.name ?? null }
  const setup = {
    adapter_setup: blockJson(stacked(bundle.active)),
    head_setup: headSetup(bundle),
    version: libraryVersion,
  }
  const files: FileMap = new Map([[setupFile, new TextEncoder().encode(pythonJson(setup, '', false))]])
  const add = (folder: string, content: FileMap) => {
    for (const [name, bytes] of content) files.set(`${folder}/${name}`, bytes)
  }
  for (const [name, { config, tensors }] of Object.entries(bundle.adapters))
    add(name, adapterFiles(name, config, tensors, facts, sizes.num_hidden_layers))
  for (const [name, { config, tensors }] of Object.entries(bundle.fusions)) {
    const json = Object.fromEntries(
      Object.entries(config).map(([key, value]) => [key, valueJson(key, value)]),
    )
    const fields = { ...facts, name, adapter_names: name.split(','), config: json }
    add(name, contentFiles('fusion', fields, tensors))
  }
  for (const [name, { config, id2label, tensors }] of Object.entries(bundle.heads))
    add(name, headFiles(name, config, id2label, tensors, facts))
  return files
}

/** A name alone is a Stack of one in the library's files. */
function stacked(setup: AdapterSetup): Block {
  return typeof setup === 'string' ? { type: 'Stack', children: [setup] } : setup
}

/** A setup as it comes back from the library's files: a Stack of one name is that name, equal weights are written out. */
export function plainSetup(setup: AdapterSetup): AdapterSetup {
  if (typeof setup === 'string' || setup.type !== 'Stack' || setup.children.length !== 1)
    return weighed(setup)
  return typeof setup.children[0] === 'string' ? setup.children[0] : weighed(setup)
}

function weighed(setup: AdapterSetup): AdapterSetup {
  if (typeof setup === 'string') return setup
  const children = setup.children.map(weighed)
  if (setup.type !== 'Average') return { ...setup, children }
  return { ...setup, children, weights: setup.weights ?? children.map(() => 1 / children.length) }
}

function blockJson(setup: AdapterSetup): { [key: string]: PyJson } {
  if (typeof setup === 'string') return { type: 'single', children: [setup] }
  const json = { type: setup.type, children: setup.children.map(blockJson) }
  if (setup.type === 'Split') return { ...json, kwargs: { splits: setup.splits } }
  if (setup.type === 'BatchSplit') return { ...json, kwargs: { batch_sizes: setup.batch_sizes } }
  if (setup.type !== 'Average') return json
  const equal = 1 / setup.children.length
  const weights = (setup.weights ?? setup.children.map(() => equal)).map((weight) => new PyFloat(weight))
  // The library itself leaves this out, and normalises when it reads; its constructor takes it.
  return { ...json, kwargs: { weights, ...(!setup.normalize_weights && { normalize_weights: false }) } }
}

/** One head by name, those of a BatchSplit as such a block, others as a list; null without one. */
function headSetup({ active, active_heads }: SetupBundle): PyJson {
  if (active_heads.length < 2) return active_heads[0] ?? null
  const block = typeof active === 'string' ? null : active
  const last = block?.type === 'Stack' ? block.children.at(-1)! : block
  return last && typeof last !== 'string' && last.type === 'BatchSplit'
    ? blockJson({ type: 'BatchSplit', children: active_heads, batch_sizes: last.batch_sizes })
    : active_heads
}

/** A block of adapter_setup.json; `name` translates names. Throws one sentence for what is no block. */
export function readBlock(value: unknown, name: (own: string) => string): AdapterSetup {
  if (!isFields(value) || !Array.isArray(value.children))
    throw new Error(`adapter_setup.json has ${shown(value)} where a composition block must stand.`)
  if (value.type === 'single') {
    const [own] = value.children
    if (typeof own !== 'string')
      throw new Error(`adapter_setup.json has ${shown(own)} where a name must stand.`)
    return name(own)
  }
  const children = value.children.map((child) => readBlock(child, name))
  const kwargs = isFields(value.kwargs) ? value.kwargs : {}
  switch (value.type) {
    case 'Stack':
    case 'Parallel':
    case 'Fuse':
      return { type: value.type, children }
    case 'Split':
      return { type: 'Split', children, splits: sizes(kwargs, 'splits', children.length)! }
    case 'BatchSplit':
      return { type: 'BatchSplit', children, batch_sizes: sizes(kwargs, 'batch_sizes', children.length)! }
    case 'Average': {
      const weights = sizes(kwargs, 'weights', children.length)
      return { type: 'Average', children, weights, normalize_weights: kwargs.normalize_weights !== false }
    }
    default:
      throw new Error(`The composition block ${shown(value.type)} in adapter_setup.json is not supported.`)
  }
}

/** Numbers for the children of a block; one number stands for all. Only weights may be absent. */
function sizes(kwargs: Fields, key: string, count: number): number[] | null {
  const value = kwargs[key] ?? null
  if (value === null && key === 'weights') return null
  const list = typeof value === 'number' ? Array.from({ length: count }, () => value) : value
  if (Array.isArray(list) && list.every((one) => typeof one === 'number')) return list
  throw new Error(
    `The ${key} in adapter_setup.json are ${shown(value)}; they must be numbers, one for each part.`,
  )
}

/** Names of the fusions that a setup needs. */
export function fusionsIn(setup: AdapterSetup): string[] {
  if (typeof setup === 'string') return []
  return [...(setup.type === 'Fuse' ? [fusionKey(setup)] : []), ...setup.children.flatMap(fusionsIn)]
}

/** Sizes of the base as the whole setup shows them. */
export function sizesOfSetup({ adapters, fusions, heads, base, hidden_size }: SetupBundle): ModelSizes {
  const parts = [...Object.values(adapters), ...Object.values(fusions), ...Object.values(heads)]
  const tensors: TensorMap = new Map(parts.flatMap((part) => [...part.tensors]))
  const configs = Object.values(adapters).map(({ config }) => config)
  const masked = Object.values(heads).find(({ config }) => config.head_type === 'masked_lm')?.config ?? null
  const known = hidden_size === undefined ? {} : { hidden_size }
  const all = configs.map((adapter) => sizesOf({ adapter, head: masked, tensors, base, ...known }))
  const most = all.reduce((a, b) => (b.num_hidden_layers > a.num_hidden_layers ? b : a), all[0]!)
  return most
}

/** Throws one sentence unless everything that the setup names is there and is exactly what it must be. */
export function checkSetup(bundle: SetupBundle): void {
  const { active, adapters, fusions, heads } = bundle
  const [problem] = nestingProblems(active)
  if (problem !== undefined) throw new Error(problem)
  for (const name of [...Object.keys(adapters), ...Object.keys(heads)]) checkName(name)
  for (const name of namesIn(active))
    if (!adapters[name])
      throw new Error(`The setup names the adapter “${name}”, which is not among its adapters.`)
  for (const name of fusionsIn(active))
    if (!fusions[name])
      throw new Error(`The setup fuses ${name}, but the fusion layers of ${name} are absent.`)
  for (const name of bundle.active_heads)
    if (!heads[name]) throw new Error(`The setup names the head “${name}”, which is not among its heads.`)
  checkTensors(bundle, sizesOfSetup(bundle))
}

function checkTensors({ adapters, fusions, heads }: SetupBundle, sizes: ModelSizes): void {
  for (const [name, { config, tensors }] of Object.entries(adapters))
    compareShapes(expectedShapes(config, null, name, sizes), shapesOf(tensors), `The adapter “${name}”`)
  for (const [name, { config, tensors }] of Object.entries(fusions)) {
    const members = name.split(',').map((member) => ({ name: member, config: adapters[member]?.config }))
    const [problem] = fusionProblems(config, members)
    if (problem !== undefined) throw new Error(problem)
    const configs = members.flatMap((member) => member.config ?? [])
    compareShapes(expectedFusion(config, configs, name, sizes), shapesOf(tensors), `The fusion “${name}”`)
  }
  for (const [name, { config, id2label, tensors }] of Object.entries(heads)) {
    checkLabels(config, id2label)
    const shapes = headShapes(config, name, sizes.hidden_size)
    if (config.head_type === 'masked_lm' && tensors.has(decoderKey(name)))
      shapes.set(decoderKey(name), [config.vocab_size, sizes.hidden_size])
    compareShapes(shapes, shapesOf(tensors), `The head “${name}”`)
  }
}

/** Throws when the setup was made for another model than the one that is open. */
export function checkSetupBase(bundle: SetupBundle, open: OpenBase): void {
  const sizes = sizesOfSetup(bundle)
  checkSizes(`The setup “${bundle.name}”`, bundle.base, sizes, open)
  checkTensors(bundle, { ...sizes, num_hidden_layers: open.num_hidden_layers })
}

/** Everything that stands in a model as a setup: `tensors` holds all of it by the library's keys. */
export function setupBundle(
  name: string,
  { adapters, fusions, heads, active, active_heads }: ModelSetup,
  tensors: TensorMap,
  id2label: Record<string, string[]>,
  base: SetupBundle['base'],
  max_length: number,
): SetupBundle {
  if (active === null)
    throw new Error('No adapter is active, so there is no setup; set_active_adapters comes first.')
  const bundle: SetupBundle = { ...emptySetup(name, active), active_heads, base, max_length }
  const own = (belongs: (key: string) => boolean): TensorMap =>
    new Map([...tensors].filter(([key]) => belongs(key)))
  const modules = 'adapters|prefix_tunings|prefix_gates|loras|refts|prompt_tunings|shared_parameters'
  for (const [adapter, config] of Object.entries(adapters)) {
    const module = new RegExp(`\\.(?:invertible_)?(?:${modules})\\.${adapter}\\.`)
    bundle.adapters[adapter] = { config, tensors: own((key) => module.test(key)) }
  }
  for (const [fusion, config] of Object.entries(fusions))
    bundle.fusions[fusion] = {
      config,
      tensors: own((key) => key.includes(`.adapter_fusion_layer.${fusion}.`)),
    }
  for (const [head, config] of Object.entries(heads))
    bundle.heads[head] = { config, id2label: id2label[head] ?? [], tensors: own((key) => key.startsWith(`heads.${head}.`)) } // prettier-ignore
  checkSetup(bundle)
  return bundle
}

/** A setup of nothing, to be filled. */
export function emptySetup(name: string, active: AdapterSetup): SetupBundle {
  return {
    name,
    active,
    active_heads: [],
    adapters: {},
    fusions: {},
    heads: {},
    base: null,
    max_length: trainingDefaults.max_length,
  }
}

type Part<T> = Omit<T, 'tensors'> & { keys: string[] }

/** A setup without tensors: each part names its own. */
export type PackedSetup = Omit<SetupBundle, 'adapters' | 'fusions' | 'heads'> & {
  [kind in 'adapters' | 'fusions' | 'heads']: Record<string, Part<SetupBundle[kind][string]>>
}

/** Takes the tensors out of a setup, for keeping and comparing. */
export function packSetup(bundle: SetupBundle): { packed: PackedSetup; tensors: TensorMap } {
  const tensors: TensorMap = new Map()
  const pack = <T extends { tensors: TensorMap }>(parts: Record<string, T>) =>
    Object.fromEntries(
      Object.entries(parts).map(([name, { tensors: own, ...rest }]) => {
        for (const [key, tensor] of own) tensors.set(key, tensor)
        return [name, { ...rest, keys: [...own.keys()] }]
      }),
    )
  const { adapters, fusions, heads, ...rest } = bundle
  return {
    packed: { ...rest, adapters: pack(adapters), fusions: pack(fusions), heads: pack(heads) },
    tensors,
  }
}

/** The inverse. Throws when a tensor is absent. */
export function unpackSetup(
  { adapters, fusions, heads, ...rest }: PackedSetup,
  tensors: TensorMap,
): SetupBundle {
  const find = (key: string) => {
    const tensor = tensors.get(key)
    if (!tensor) throw new Error(`The kept setup lacks the tensor ${key}; train or import it again.`)
    return tensor
  }
  const unpack = <T extends { keys: string[] }>(parts: Record<string, T>) =>
    Object.fromEntries(
      Object.entries(parts).map(([name, { keys, ...part }]) => [
        name,
        { ...part, tensors: new Map(keys.map((key) => [key, find(key)])) },
      ]),
    )
  return { ...rest, adapters: unpack(adapters), fusions: unpack(fusions), heads: unpack(heads) }
}
