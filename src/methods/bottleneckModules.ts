/**
 * The modules of a bottleneck adapter (`Adapter` and `ParallelAdapter` of `adapters`): where they stand, which tensors
 * they have, and what a fresh one is drawn from.
 */
import type { BnConfig, HostTensor, RobertaConfig, TensorMap } from '../config.ts'
import type { TorchGenerator } from '../random.ts'
import { bornLinear, filled, kaimingUniform, normal, truncatedNormal } from './draws.ts'
import { floorDivide } from './floorDivide.ts'
import { initialiseInvertible, invertibleParameters } from './invertible.ts'
import type { Parameter, Start, SublayerSite } from './method.ts'
import { initialisePhm, initialiseShared, phmParameters, sharedParameters } from './phm.ts'

/** One adapter module: where it stands and how wide its bottleneck is. */
interface Module {
  path: string
  H: number
  width: number
}

/** The place of an adapter's module in one layer, as the keys of its tensors begin. */
export function modulePath(layer: number, site: SublayerSite, name: string): string {
  return `roberta.encoder.layer.${layer}.${site}.adapters.${name}`
}

/** Whether a configuration puts a module at this place. */
export function standsAt(config: BnConfig, layer: number, site: SublayerSite): boolean {
  const here = site === 'output' ? config.output_adapter : config.mh_adapter
  return here && !config.leave_out.includes(layer)
}

/** The index of the projection in `adapter_down`, after a LayerNorm where there is one. */
export function downIndex({ ln_before }: BnConfig): 0 | 1 {
  return ln_before ? 1 : 0
}

/** The factor of a layer: its own, or else the default; undefined when an object has neither. */
export function factorAt({ reduction_factor }: BnConfig, layer: number): number | undefined {
  if (typeof reduction_factor === 'number') return reduction_factor
  return reduction_factor[String(layer)] ?? reduction_factor.default
}

/** `max(int(hidden_size // reduction_factor), 1)`. Throws when the layer has no factor. */
export function widthAt({ hidden_size }: RobertaConfig, config: BnConfig, layer: number): number {
  const factor = factorAt(config, layer)
  if (factor === undefined)
    throw new Error(`reduction_factor says nothing about layer ${layer}, and has no default.`)
  return Math.max(floorDivide(hidden_size, factor), 1)
}

/** All modules, layer by layer, the attention's before the feed-forward part's. */
function modulesOf(base: RobertaConfig, config: BnConfig, name: string): Module[] {
  const modules: Module[] = []
  for (let l = 0; l < base.num_hidden_layers; l++)
    for (const site of ['attention.output', 'output'] as const)
      if (standsAt(config, l, site))
        modules.push({
          path: modulePath(l, site, name),
          H: base.hidden_size,
          width: widthAt(base, config, l),
        })
  return modules
}

/** Key and shape of every tensor, in the order of creation: modules, what they share, the invertible block. */
export function bottleneckParameters(base: RobertaConfig, config: BnConfig, name: string): Parameter[] {
  const modules = modulesOf(base, config, name)
  const shared = sharedParameters(base, config, name, sharedWidth(base, config))
  return [
    ...modules.flatMap((module) => moduleParameters(config, module)),
    ...(modules.length > 0 ? shared : shared.map((one) => ({ ...one, role: 'idle' as const }))),
    ...invertibleParameters(base, config, name),
  ]
}

/** Values of a fresh adapter, draw for draw what `add_adapter` has in the library. */
export function initialiseBottleneck(start: Start, config: BnConfig, name: string): TensorMap {
  const { base, generator } = start
  const tensors: TensorMap = new Map()
  for (const module of modulesOf(base, config, name)) drawModule(generator, config, module, tensors)
  initialiseShared(generator, base, config, name, sharedWidth(base, config)).forEach((tensor, key) =>
    tensors.set(key, tensor),
  )
  initialiseInvertible(start, config, name).forEach((tensor, key) => tensors.set(key, tensor))
  return tensors
}

/** Width of the matrices that all layers share; only a plain number can be shared. */
function sharedWidth({ hidden_size }: RobertaConfig, { reduction_factor }: BnConfig): number {
  return typeof reduction_factor === 'number' ? floorDivide(hidden_size, reduction_factor) : 1
}

function moduleParameters(config: BnConfig, { path, H, width }: Module): Parameter[] {
  const vector = (key: string, size: number): Parameter => ({ key: `${path}.${key}`, shape: [size] })
  const projection = (key: string, position: 'down' | 'up', inputs: number, outputs: number): Parameter[] =>
    config.phm_layer
      ? phmParameters(config, `${path}.${key}`, position, inputs, outputs)
      : [{ key: `${path}.${key}.weight`, shape: [outputs, inputs] }, vector(`${key}.bias`, outputs)]
  const parameters: Parameter[] = []
  if (config.ln_before)
    for (const part of ['weight', 'bias'])
      parameters.push({
        ...vector(`adapter_norm_before.${part}`, H),
        alias: `${path}.adapter_down.0.${part}`,
      })
  parameters.push(...projection(`adapter_down.${downIndex(config)}`, 'down', H, width))
  parameters.push(...projection('adapter_up', 'up', width, H))
  if (typeof config.scaling !== 'number')
    parameters.push(vector('scaling', config.scaling === 'learned' ? 1 : H))
  if (config.ln_after)
    parameters.push(vector('adapter_norm_after.weight', H), vector('adapter_norm_after.bias', H))
  if (config.use_gating)
    parameters.push({ key: `${path}.gate.weight`, shape: [1, H] }, vector('gate.bias', 1))
  return parameters
}

/** Draws one module: its layers are born, the seed of the configuration is set, then `init_weights` draws again. */
function drawModule(generator: TorchGenerator, config: BnConfig, module: Module, into: TensorMap): void {
  const { path, H, width } = module
  const down = `${path}.adapter_down.${downIndex(config)}`
  const up = `${path}.adapter_up`
  const drawn: TensorMap = new Map()
  const keep = (tensors: TensorMap) => tensors.forEach((tensor, key) => drawn.set(key, tensor))
  if (config.phm_layer) {
    keep(initialisePhm(generator, config, down, 'down', H, width))
    keep(initialisePhm(generator, config, up, 'up', width, H))
  } else {
    bornLinear(generator, H, width)
    bornLinear(generator, width, H)
  }
  const gate = config.use_gating ? bornLinear(generator, H, 1) : null
  if (config.init_weights_seed) generator.manual_seed(config.init_weights_seed)
  if (!config.phm_layer) {
    drawn.set(`${down}.weight`, projectionWeight(generator, config, [width, H], 'down'))
    drawn.set(`${down}.bias`, filled([width], 0))
    drawn.set(`${up}.weight`, projectionWeight(generator, config, [H, width], 'up'))
    drawn.set(`${up}.bias`, filled([H], 0))
  }
  if (gate) {
    const born = config.init_weights === 'houlsby'
    drawn.set(`${path}.gate.weight`, born ? gate.weight : normal(generator, [1, H], bertStd))
    drawn.set(`${path}.gate.bias`, born && gate.bias ? gate.bias : filled([1], 0))
  }
  for (const { key, shape } of moduleParameters(config, module))
    into.set(key, drawn.get(key) ?? filled(shape, key.endsWith('bias') ? 0 : 1)) // norms and scaling
}

/** `init_bert_weights` of the library draws with this deviation, whatever the model's own is. */
const bertStd = 0.02

function projectionWeight(
  generator: TorchGenerator,
  { init_weights }: BnConfig,
  shape: [outputs: number, inputs: number],
  position: 'down' | 'up',
): HostTensor {
  if (init_weights === 'bert') return normal(generator, shape, bertStd)
  if (init_weights === 'houlsby') return truncatedNormal(generator, shape, 0.01, 0.02)
  return position === 'down' ? kaimingUniform(generator, shape, shape[1]) : filled(shape, 0)
}
