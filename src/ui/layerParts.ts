/**
 * The parts of one RoBERTa layer from the bottom up, with their parameter counts, and where each method attaches to
 * them. Counts are those of the registry's own list of tensors; only the places are said here.
 */
import type { AdapterConfig, BnConfig } from '../config.ts'
import type { Parameter } from '../methods/method.ts'
import { childConfigs, parametersOf } from '../methods/registry.ts'
import type { RobertaConfig } from '../protocol.ts'
import { count } from './format.ts'
import { isComparison } from './plan.svelte.ts'

export interface Part {
  name: string
  params: number
  trained: boolean
  /** Trained parameters on or beside this frozen part, and what they are: LoRA's two thin matrices. */
  beside: number
  what: string
}

/** Parts at one height; those of one row work side by side on the same input. */
export interface Row {
  parts: Part[]
  /** Row whose input is added to this row's result: 0 is the lowest, null for none. */
  adds: number | null
}

/** Something trained that runs beside rows `from` to `to`, or feeds row `from` from the side. */
export interface Lane {
  name: string
  /** What stands in its box, under “adapter” or “prefix”. */
  size: string
  params: number
  from: number
  to: number
}

export interface LayerParts {
  rows: Row[]
  lanes: Lane[]
  /** What stands before the first layer: a prompt in front of the text, an invertible block. */
  below: Part[]
  frozen: number
  trained: number
  /** Trained parameters that belong to no single layer. */
  shared: number
  /** Layers of the model that get no adapter. */
  without: number
}

const layerKey = /^roberta\.encoder\.layer\.(\d+)\.(.+)$/

function sum(parameters: Parameter[], at: RegExp): number {
  return parameters
    .filter(({ key }) => at.test(key))
    .reduce((total, { shape }) => total + shape.reduce((a, b) => a * b, 1), 0)
}

/** Parts of the lowest layer that carries the adapter. */
export function partsOf(base: RobertaConfig, adapter: AdapterConfig): LayerParts {
  const parameters = isComparison(adapter)
    ? []
    : parametersOf(base, adapter, 'x').filter(({ role }) => role !== 'buffer')
  const layers = new Set(parameters.flatMap(({ key }) => layerKey.exec(key)?.[1] ?? []).map(Number))
  const layer = Math.min(...layers, base.num_hidden_layers)
  const own = parameters.flatMap(({ key, shape }) => {
    const match = layerKey.exec(key)
    return match?.[2] && Number(match[1]) === layer ? [{ key: match[2], shape }] : []
  })
  const outside = parameters.filter(({ key }) => !layerKey.test(key))
  const children = childConfigs(adapter)
  const rows = frozenRows(base, own, children)
  const lanes = attach(rows, base, own, children, layer)
  const parts = rows.flatMap((row) => row.parts)
  for (const one of parts) one.trained ||= adapter.architecture === 'full'
  const total = (values: number[]): number => values.reduce((a, b) => a + b, 0)
  const within = ({ what, beside }: Part): number => (what === 'biases' ? beside : 0)
  return {
    rows,
    lanes,
    below: belowOf(outside, children),
    frozen: total(parts.map((one) => (one.trained ? 0 : one.params - within(one)))),
    trained: total([
      ...parts.map((one) => one.beside + (one.trained ? one.params : 0)),
      ...lanes.map((lane) => lane.params),
    ]),
    shared: sum(outside, /./),
    without: isComparison(adapter) || layers.size === 0 ? 0 : base.num_hidden_layers - layers.size,
  }
}

function part(name: string, params: number, beside = 0, what = ''): Part {
  return { name, params, trained: false, beside, what }
}

/** The layer as it is without an adapter, with what its linear layers carry; for BitFit, its biases. */
function frozenRows(base: RobertaConfig, own: Parameter[], children: AdapterConfig[]): Row[] {
  const { hidden_size: H, intermediate_size: I } = base
  const biases = children.some(({ architecture }) => architecture === 'bitfit')
  const lora = children.find((child) => child.architecture === 'lora')
  const what = !lora ? '' : lora.composition_mode === 'scale' ? '(IA)³' : lora.use_dora ? 'DoRA' : 'LoRA'
  const linear = (name: string, inputs: number, outputs: number, path: string): Part => {
    const params = inputs * outputs + outputs
    return biases
      ? part(name, params, outputs, 'biases')
      : part(name, params, sum(own, new RegExp(path)), what)
  }
  const norm = biases ? part('add, LayerNorm', 2 * H, H, 'biases') : part('add, LayerNorm', 2 * H)
  const single = (only: Part, adds: number | null = null): Row => ({ parts: [only], adds })
  return [
    {
      parts: ['query', 'key', 'value'].map((name) =>
        linear(name, H, H, `^attention\\.self\\.${name}\\.loras`),
      ),
      adds: null,
    },
    single(linear('attention output', H, H, '^$')),
    single({ ...norm }, 0),
    single(linear('feed-forward, up', H, I, '^intermediate\\.dense\\.loras')),
    single(linear('feed-forward, down', I, H, '^output\\.dense\\.loras')),
    single({ ...norm }, 3),
  ]
}

/** Puts bottlenecks and interventions into the rows, and returns what runs beside them. */
function attach(
  rows: Row[],
  { hidden_size: H }: RobertaConfig,
  own: Parameter[],
  children: AdapterConfig[],
  layer: number,
): Lane[] {
  const lanes: Lane[] = []
  const bottleneck = (site: 'mh_adapter' | 'output_adapter'): BnConfig | undefined =>
    children.find(
      (child) => child.architecture === null && child[site] && !child.leave_out.includes(layer),
    ) as BnConfig | undefined
  const insert = (at: number, trained: Part): void => {
    rows.splice(at, 0, { parts: [trained], adds: at })
    for (const row of rows.slice(at + 1)) if (row.adds !== null && row.adds >= at) row.adds++
    for (const lane of lanes)
      if (lane.from >= at) {
        lane.from++
        lane.to++
      }
  }
  const sites = [
    { config: bottleneck('output_adapter'), at: /^output\.adapters\./, from: 3, end: 5 },
    { config: bottleneck('mh_adapter'), at: /^attention\.output\.adapters\./, from: 0, end: 2 },
  ]
  for (const { config, at, from, end } of sites) {
    const params = sum(own, at)
    if (!config || params === 0) continue
    const name = `${H} → ${widthOf(config, layer, H)} → ${H}`
    if (config.is_parallel) lanes.push({ name, size: count(params), params, from, to: end - 1 })
    else insert(end, { ...part(`adapter ${name}`, params), trained: true })
  }
  const prefix = children.find((child) => child.architecture === 'prefix_tuning')
  const gates = sum(own, /prefix_gates/)
  if (prefix) {
    const { prefix_length } = prefix
    lanes.push({
      name: `prefix of ${prefix_length}`,
      size: `of ${prefix_length}`,
      params: gates,
      from: 0,
      to: 0,
    })
  }
  const reft = sum(own, /^reft_layer\./)
  if (reft > 0) insert(rows.length, { ...part('change to a few tokens', reft), trained: true })
  return lanes
}

function widthOf({ reduction_factor }: BnConfig, layer: number, H: number): number {
  const factor =
    typeof reduction_factor === 'number'
      ? reduction_factor
      : (reduction_factor[layer] ?? reduction_factor.default ?? 1)
  return Math.max(Math.floor(H / factor), 1)
}

/** What is put in before the first layer. */
function belowOf(outside: Parameter[], children: AdapterConfig[]): Part[] {
  const below: Part[] = []
  const prompt = children.find((child) => child.architecture === 'prompt_tuning')
  const invertible = sum(outside, /invertible_adapters/)
  if (prompt) {
    const params = sum(outside, /prompt_tuning/)
    below.push({ ...part(`prompt of ${prompt.prompt_length}`, params), trained: true }, part('the text', 0))
  }
  if (invertible > 0) below.push({ ...part('invertible block', invertible), trained: true })
  return below
}
