/**
 * Low-rank updates of linear layers (Hu et al. 2021), with (IA)³ (Liu et al. 2022) and DoRA (Liu et al. 2024), as
 * `methods/lora.py` of `adapters` computes them. Its ways where they are unlike the papers': a gate takes the place of
 * alpha/r; in DoRA the bias is scaled too, the norm is of W + B·A without alpha/r, and a gradient goes through it; of
 * several adapters on one layer the last says how their result and the layer's own come together.
 */
import type { HostTensor, LoRAConfig, LoRAMatrix, RobertaConfig, TensorMap } from '../config.ts'
import type { Matrix, Vector } from '../model/ops.ts'
import type { TorchGenerator } from '../random.ts'
import { compose, namesIn, type Place } from './composition.ts'
import { bornLinear, filled, kaimingUniform, normal } from './draws.ts'
import { meanGate, type Gate } from './gate.ts'
import * as delta from './loraDelta.ts'
import { loraFields, loraProblems } from './loraFields.ts'
import type { FrozenLinear, LinearSite, LowRank, Method, Parameter, Start, Walk } from './method.ts'

/** Every field as `LoRAConfig()` has it. */
export const loraConfig: LoRAConfig = {
  architecture: 'lora',
  selfattn_lora: true,
  intermediate_lora: false,
  output_lora: false,
  leave_out: [],
  r: 8,
  alpha: 8,
  dropout: 0,
  attn_matrices: ['q', 'v'],
  composition_mode: 'add',
  init_weights: 'lora',
  init_weights_seed: null,
  use_gating: false,
  use_dora: false,
  vera_d: null,
  vera_b: null,
  dtype: null,
}

/** `IA3Config()`. */
export const ia3: LoRAConfig = {
  ...loraConfig,
  intermediate_lora: true,
  r: 1,
  alpha: 1,
  attn_matrices: ['k', 'v'],
  composition_mode: 'scale',
  init_weights: 'ia3',
}

/** `DoRAConfig()`. */
export const dora: LoRAConfig = { ...loraConfig, use_dora: true }

/** A linear layer of the base that an adapter changes. */
interface LoRAPlace {
  layer: number
  /** Its key in checkpoints, without `.weight`. */
  base: string
  /** Key of the adapter's own tensors, without `.lora_A`. */
  path: string
  inputs: number
  outputs: number
}

const sites: Record<LinearSite, { key: string; matrix?: LoRAMatrix }> = {
  query: { key: 'attention.self.query', matrix: 'q' },
  key: { key: 'attention.self.key', matrix: 'k' },
  value: { key: 'attention.self.value', matrix: 'v' },
  intermediate: { key: 'intermediate.dense' },
  output: { key: 'output.dense' },
}

/** In the order in which a layer's modules are made. */
const siteNames: LinearSite[] = ['query', 'key', 'value', 'intermediate', 'output']

const baseKey = (layer: number, site: LinearSite) => `roberta.encoder.layer.${layer}.${sites[site].key}`

/** Key of adapter `name` at a linear layer, without `.lora_A`. */
export function loraPath(layer: number, site: LinearSite, name: string): string {
  return `${baseKey(layer, site)}.loras.${name}`
}

/** Whether a configuration changes this linear layer of layer `layer`. */
export function changes(config: LoRAConfig, site: LinearSite, layer: number): boolean {
  if (config.leave_out.includes(layer)) return false
  const { matrix } = sites[site]
  if (matrix) return config.selfattn_lora && config.attn_matrices.includes(matrix)
  return site === 'intermediate' ? config.intermediate_lora : config.output_lora
}

/** Every linear layer that a configuration changes, lowest layer first. */
export function loraPlaces(base: RobertaConfig, config: LoRAConfig, name: string): LoRAPlace[] {
  const { hidden_size: H, intermediate_size: I, num_hidden_layers: L } = base
  return Array.from({ length: L }, (_, layer) => layer).flatMap((layer) =>
    siteNames
      .filter((site) => changes(config, site, layer))
      .map((site) => ({
        layer,
        base: baseKey(layer, site),
        path: loraPath(layer, site, name),
        inputs: site === 'output' ? I : H,
        outputs: site === 'intermediate' ? I : H,
      })),
  )
}

function parameters(base: RobertaConfig, config: LoRAConfig, name: string): Parameter[] {
  return loraPlaces(base, config, name).flatMap(({ path, inputs, outputs }) => {
    const own: Parameter[] = []
    if (config.composition_mode === 'add') own.push({ key: `${path}.lora_A`, shape: [config.r, inputs] })
    own.push({ key: `${path}.lora_B`, shape: [outputs, config.r] })
    if (config.use_dora) own.push({ key: `${path}.m.weight`, shape: [outputs, 1] })
    if (config.use_gating)
      own.push({ key: `${path}.gate.weight`, shape: [1, inputs] }, { key: `${path}.gate.bias`, shape: [1] })
    return own
  })
}

/** The deviation of `init_weights: 'bert'` and of gates. */
const normalStd = 0.02

async function initialise(start: Start, config: LoRAConfig, name: string): Promise<TensorMap> {
  const { generator } = start
  const { r, init_weights, init_weights_seed, composition_mode, use_dora, use_gating } = config
  const tensors: TensorMap = new Map()
  for (const { base, path, inputs, outputs } of loraPlaces(start.base, config, name)) {
    if (init_weights_seed) generator.manual_seed(init_weights_seed)
    if (composition_mode === 'add')
      tensors.set(
        `${path}.lora_A`,
        init_weights === 'lora'
          ? kaimingUniform(generator, [r, inputs], inputs)
          : drawn(generator, init_weights, [r, inputs]),
      )
    tensors.set(`${path}.lora_B`, drawn(generator, init_weights, [outputs, r]))
    if (use_dora) {
      generator.uniform(outputs) // the Linear that holds m is born with values of its own
      const weight = await start.weight(`${base}.weight`)
      tensors.set(`${path}.m.weight`, { shape: [outputs, 1], data: rowNorms(weight, outputs) })
    }
    if (use_gating) {
      const { bias } = bornLinear(generator, inputs, 1) // only the bias stays
      tensors.set(`${path}.gate.weight`, normal(generator, [1, inputs], normalStd))
      tensors.set(`${path}.gate.bias`, bias!)
    }
  }
  return tensors
}

/** Values by `init_weights`; under `lora` this is the matrix that starts from nothing. */
function drawn(generator: TorchGenerator, init: LoRAConfig['init_weights'], shape: number[]): HostTensor {
  return init === 'bert' ? normal(generator, shape, normalStd) : filled(shape, init === 'ia3' ? 1 : 0)
}

/** ‖row‖₂ of a matrix with so many rows. */
function rowNorms(weight: Float32Array, rows: number): Float32Array {
  const width = weight.length / rows
  return Float32Array.from({ length: rows }, (_, i) => {
    const row = weight.subarray(i * width, (i + 1) * width)
    return Math.sqrt(row.reduce((sum, value) => sum + value * value, 0))
  })
}

function changesAt(walk: Walk, site: LinearSite): boolean {
  const stands = (name: string) =>
    walk.config(lora, name, (config) => changes(config, site, walk.layer)) !== null
  return walk.setup !== null && namesIn(walk.setup).some(stands)
}

/** x [B·S,in] -> the frozen layer's output [B·S,out] with what the active adapters make of it. */
function linear(walk: Walk, site: LinearSite, x: Matrix, frozen: FrozenLinear): Matrix {
  const { ops, setup, layer, S } = walk
  const configOf = (name: string) => walk.config(lora, name, (config) => changes(config, site, layer))
  const y = ops.linear(x, frozen.weight, frozen.bias)
  if (setup === null) return y
  const only = lowRank(walk, site)
  if (only) {
    const low = ops.linear(x, only.A, null, { factor: only.factor }) // [N,r]
    return ops.linear(only.gate ? ops.timesGate(low, only.gate(x)) : low, only.B, null, { residual: y })
  }

  const place: Place<delta.State> = {
    what: 'LoRA',
    has: (name) => configOf(name) !== null,
    single: (name, state) => {
      const config = configOf(name)!
      const path = loraPath(layer, site, name)
      const part = config.composition_mode === 'scale' ? scaling : update
      return { ...state, part: part(walk, config, path, state), last: name }
    },
    rows: (state, start, count) => delta.rowsOf(ops, state, start, count, S),
    join: (states) => delta.joinRows(ops, states, S),
    average: (states, weights) => delta.average(ops, states, weights, S),
  }
  delta.requireEveryPart(setup, place.has, `layer ${layer}, ${sites[site].key}`)
  const { part, last } = compose<delta.State>(setup, { x, part: null, last: null }, walk.B, place)
  if (part === null || last === null) return y
  const config = configOf(last)!
  if (config.composition_mode === 'scale') return delta.multiply(ops, y, part, S)
  const sum = delta.addTo(ops, y, part, S)
  return config.use_dora
    ? ops.mul(sum, doraScale(walk, loraPath(layer, site, last), ops.inFull(frozen.weight)))
    : sum
}

/** The common case: one adapter without DoRA or dropout adds s·B·A·x. */
function lowRank(walk: Walk, site: LinearSite): LowRank | undefined {
  const { setup, layer } = walk
  if (typeof setup !== 'string') return undefined
  const config = walk.config(lora, setup, (config) => changes(config, site, layer))
  if (config?.composition_mode !== 'add' || config.use_dora || config.dropout > 0) return undefined
  const path = loraPath(layer, site, setup)
  const own = { A: walk.parameter(`${path}.lora_A`), B: walk.parameter(`${path}.lora_B`) }
  return config.use_gating
    ? { ...own, factor: 1, gate: (x) => gateOf(walk, path, x) }
    : { ...own, factor: config.alpha / config.r, gate: null }
}

/** Of LoRA: s·B·A·dropout(input), where the input is the layer's or what the adapter before left; a gate replaces s. */
function update(walk: Walk, config: LoRAConfig, path: string, { x, part }: delta.State): delta.Part {
  const { ops, S } = walk
  const [A, B] = [walk.parameter(`${path}.lora_A`), walk.parameter(`${path}.lora_B`)]
  const input = part === null ? { per: 'token' as const, value: x } : delta.byRow(ops, part, x.shape[0] / S)
  if (input.value.shape[1] !== A.shape[1])
    throw new Error(
      `${path} takes ${A.shape[1]} values, but the adapter stacked below gives ${input.value.shape[1]}; stack LoRA on square matrices only.`,
    )
  const down = ops.linear(ops.dropout(input.value, config.dropout), A, null) // [N,r]
  const scaled = config.use_gating ? down : ops.scale(down, config.alpha / config.r)
  const value = ops.linear(scaled, B, null) // [N,out]
  return gated(walk, config, path, x, { per: input.per, value })
}

/** Of (IA)³: alpha·l for every output; a gate replaces alpha. */
function scaling(walk: Walk, config: LoRAConfig, path: string, { x, part }: delta.State): delta.Part {
  const { ops } = walk
  const own = walk.parameter(`${path}.lora_B`) // [out,1]
  const factors = ops.reshape<Vector['tensor']>(own, [own.shape[0]])
  const l = config.use_gating ? factors : ops.scale(factors, config.alpha)
  return gated(walk, config, path, x, delta.times(ops, part, l))
}

function gated(walk: Walk, config: LoRAConfig, path: string, x: Matrix, part: delta.Part): delta.Part {
  return config.use_gating ? delta.open(walk.ops, part, gateOf(walk, path, x)) : part
}

/** The gate of an adapter from its layer's input x [B·S,in]: [B,1,1]. */
function gateOf(walk: Walk, path: string, x: Matrix): Gate {
  const weight = walk.parameter(`${path}.gate.weight`) // [1,in]
  return meanGate(walk.ops, x, weight, walk.parameter<Vector>(`${path}.gate.bias`), x.shape[0] / walk.S)
}

/** m / ‖W + B·A‖ by row: [out]. W + B·A is not made: ‖w + ba‖² = ‖w‖² + 2·w·ba + ‖ba‖². */
function doraScale(walk: Walk, path: string, weight: Matrix): Vector {
  const { ops } = walk
  const [A, B] = [walk.parameter(`${path}.lora_A`), walk.parameter(`${path}.lora_B`)]
  const dot = (a: Matrix, b: Matrix): Matrix => ops.sum(ops.mul(a, b), 1) // [out,1]
  const both = dot(B, ops.linear(weight, A, null))
  const added = dot(B, ops.linear(B, ops.linear(A, A, null), null))
  const squared = ops.add(ops.add(dot(weight, weight), added), both, 2)
  const scale = ops.mul(walk.parameter(`${path}.m.weight`), ops.pow(squared, -0.5))
  return ops.reshape<Vector['tensor']>(scale, [weight.shape[0]])
}

export const lora: Method<LoRAConfig> = {
  architecture: 'lora',
  defaults: loraConfig,
  fields: loraFields,
  problems: loraProblems,
  parameters,
  initialise,
  changes: changesAt,
  linear,
  lowRank,
}
