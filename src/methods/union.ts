/**
 * Several methods under one name (`ConfigUnion` of `adapters`: MAM, UniPELT and any other): which may stand together,
 * whose tensors they have, and in which order the library draws them.
 */
import type { AdapterConfig, BnConfig, ConfigUnion, LoRAConfig, RobertaConfig, TensorMap } from '../config.ts'
import { TorchGenerator } from '../random.ts'
import type { Method, Parameter, Start } from './method.ts'

/** The children of a union, or the configuration itself. */
export function childConfigs(config: AdapterConfig): AdapterConfig[] {
  return config.architecture === 'union' ? config.configs : [config]
}

/** The union as a method over those that may be its children. */
export function unionOf(methods: Method[]): Method<ConfigUnion> {
  const methodOf = ({ architecture }: AdapterConfig): Method => {
    const found = methods.find((method) => method.architecture === architecture)
    if (!found) throw new Error(`A union cannot hold “${architecture ?? 'bottleneck'}”.`)
    return found
  }
  return {
    architecture: 'union',
    defaults: { architecture: 'union', configs: [] },
    fields: [],
    problems: ({ configs }, base) => [
      ...unionProblems(configs, base),
      ...configs
        .filter(({ architecture }) => methods.some((method) => method.architecture === architecture))
        .flatMap((child) => methodOf(child).problems(child, base)),
    ],
    parameters: (base, { configs }, name) => {
      const parameters: Parameter[] = []
      for (const child of configs) parameters.push(...methodOf(child).parameters(base, child, name))
      return parameters
    },
    initialise: (start, config, name) => initialiseUnion(start, config, name, methodOf),
  }
}

/** Why these configurations cannot share one name, as the library checks it; empty when they can. */
function unionProblems(configs: AdapterConfig[], base: RobertaConfig | null): string[] {
  const problems: string[] = []
  if (configs.length === 0) problems.push('A union needs at least one configuration.')
  for (const { architecture } of configs)
    if (
      architecture === 'union' ||
      architecture === 'head' ||
      architecture === 'bitfit' ||
      architecture === 'full'
    )
      problems.push(`A union cannot hold “${architecture}”.`)
  configs.forEach((a, i) => {
    for (const b of configs.slice(i + 1)) if (conflict(a, b, base)) problems.push(conflictSentence(a))
  })
  return problems
}

function conflictSentence({ architecture }: AdapterConfig): string {
  const what = architecture ?? 'bottleneck'
  return `Two ${what} configurations of the union stand at the same place; each place takes one under a name.`
}

/** Whether two children of one method meet; only bottlenecks can keep apart, by sub-layer or by layer. */
function conflict(a: AdapterConfig, b: AdapterConfig, base: RobertaConfig | null): boolean {
  if (a.architecture !== b.architecture || a.architecture === 'union') return false
  if (a.architecture !== null || b.architecture !== null) return true
  if ((a.phm_layer && b.phm_layer) || (a.inv_adapter && b.inv_adapter)) return true
  const apartBySite = a.mh_adapter !== b.mh_adapter && a.output_adapter !== b.output_adapter
  if (apartBySite) return false
  if (a.leave_out.length === 0 && b.leave_out.length === 0) return true
  if (base === null) return false
  const meet = (a.mh_adapter && b.mh_adapter) || (a.output_adapter && b.output_adapter)
  const layers = Array.from({ length: base.num_hidden_layers }, (_, l) => l)
  return meet && layers.some((l) => !a.leave_out.includes(l) && !b.leave_out.includes(l))
}

/** One child cut down to what the library makes at one moment, and the part of it that only comes later. */
interface Step {
  config: AdapterConfig
  later?: AdapterConfig
}

/**
 * The library makes an adapter layer by layer, and in a layer place by place: projections, gates of prefixes, attention
 * output, FFN, interventions; then prompts, shared Compacter rules, prefixes and invertible blocks. Each child draws
 * at its moments from the one generator.
 */
async function initialiseUnion(
  start: Start,
  { configs }: ConfigUnion,
  name: string,
  methodOf: (config: AdapterConfig) => Method,
): Promise<TensorMap> {
  const drawn: TensorMap = new Map()
  for (const { config, later } of steps(configs, start.base.num_hidden_layers)) {
    const method = methodOf(config)
    const not = new Set(later ? method.parameters(start.base, later, name).map(({ key }) => key) : [])
    const from = later ? await before(start, { config, later }, name, method) : start
    for (const [key, tensor] of await method.initialise(from, config, name))
      if (!not.has(key)) drawn.set(key, tensor)
  }
  const order = configs.flatMap((child) => methodOf(child).parameters(start.base, child, name))
  return new Map(
    order.map(({ key }) => {
      const tensor = drawn.get(key)
      if (!tensor) throw new Error(`The union’s tensor ${key} was not drawn.`)
      return [key, tensor]
    }),
  )
}

/** The moments of all children in the library's order. */
function steps(configs: AdapterConfig[], layers: number): Step[] {
  const order = Array.from({ length: layers }, (_, l) => l)
  const but = (l: number | null) => order.filter((other) => other !== l)
  const each = (cut: (child: AdapterConfig, l: number) => Step[]) => (l: number) =>
    configs.flatMap((child) => (leftOut(child, l) ? [] : cut(child, l)))
  const places = [
    each((child, l) =>
      child.architecture === 'lora' && child.selfattn_lora
        ? [{ config: { ...child, leave_out: but(l), intermediate_lora: false, output_lora: false } }]
        : [],
    ),
    each((child, l) => {
      if (child.architecture !== 'prefix_tuning' || !child.use_gating) return []
      const config = { ...child, leave_out: but(l) }
      return [{ config, later: { ...config, use_gating: false } }]
    }),
    each((child, l) => bottleneckAt(child, but(l), order, 'mh_adapter')),
    each((child, l) => loraAt(child, but(l), 'intermediate_lora')),
    each((child, l) => bottleneckAt(child, but(l), order, 'output_adapter')),
    each((child, l) => loraAt(child, but(l), 'output_lora')),
    each((child, l) => (child.architecture === 'reft' ? [{ config: { ...child, layers: [l] } }] : [])),
  ]
  return [
    ...order.flatMap((l) => places.flatMap((place) => place(l))),
    ...configs.filter(({ architecture }) => architecture === 'prompt_tuning').map((config) => ({ config })),
    ...configs.flatMap((child) =>
      sharesPhm(child) ? [{ config: { ...child, leave_out: order, inv_adapter: null } }] : [],
    ),
    ...configs.flatMap((child) =>
      child.architecture === 'prefix_tuning' ? [{ config: { ...child, use_gating: false } }] : [],
    ),
    ...configs.flatMap((child) =>
      child.architecture === null && child.inv_adapter
        ? [{ config: { ...child, leave_out: order, phm_layer: false } }]
        : [],
    ),
  ]
}

function leftOut(config: AdapterConfig, l: number): boolean {
  if (config.architecture === 'reft') return config.layers !== 'all' && !config.layers.includes(l)
  return 'leave_out' in config && config.leave_out.includes(l)
}

function bottleneckAt(
  child: AdapterConfig,
  leave_out: number[],
  all: number[],
  site: 'mh_adapter' | 'output_adapter',
): Step[] {
  if (child.architecture !== null || !child[site]) return []
  const config: BnConfig = {
    ...child,
    leave_out,
    mh_adapter: false,
    output_adapter: false,
    inv_adapter: null,
  }
  config[site] = true
  return [sharesPhm(child) ? { config, later: { ...config, leave_out: all } } : { config }]
}

function loraAt(
  child: AdapterConfig,
  leave_out: number[],
  site: 'intermediate_lora' | 'output_lora',
): Step[] {
  if (child.architecture !== 'lora' || !child[site]) return []
  const config: LoRAConfig = {
    ...child,
    leave_out,
    selfattn_lora: false,
    intermediate_lora: false,
    output_lora: false,
  }
  config[site] = true
  return [{ config }]
}

function sharesPhm(child: AdapterConfig): child is BnConfig {
  return child.architecture === null && child.phm_layer && (child.shared_phm_rule || child.shared_W_phm)
}

/** `start` as it is for a step whose `later` part, drawn last, must not move the generator. */
async function before(start: Start, step: Required<Step>, name: string, method: Method): Promise<Start> {
  const count = async (config: AdapterConfig) => {
    const generator = new Counting(0)
    await method.initialise({ ...start, generator }, config, name)
    return generator.drawn
  }
  const words = (await count(step.config)) - (await count(step.later))
  return { ...start, generator: new Limited(start.generator, words) }
}

/** Counts the words that are drawn. */
class Counting extends TorchGenerator {
  drawn = 0

  override next32(): number {
    this.drawn++
    return super.next32()
  }
}

/** Passes on so many words of another generator, then zeros. */
class Limited extends TorchGenerator {
  readonly #of: TorchGenerator
  #left: number

  constructor(of: TorchGenerator, left: number) {
    super(0)
    this.#of = of
    this.#left = left
  }

  override next32(): number {
    return this.#left-- > 0 ? this.#of.next32() : 0
  }

  override manual_seed(seed: number): void {
    if (#of in this && this.#left > 0) this.#of.manual_seed(seed)
  }
}
