/**
 * Parametrised hypercomplex multiplication (Mahabadi et al. 2021, Compacter; `PHMLayer` of `adapters`): the matrix of a
 * linear layer is Σᵢ kron(rule[i], W[i]) over p = phm_dim small factors, some of them shared by all layers.
 */
import type { Tensor3D } from '@tensorflow/tfjs-core'
import type { BnConfig, RobertaConfig, TensorMap } from '../config.ts'
import type { Matrix, Vector } from '../model/ops.ts'
import type { Var } from '../model/tape.ts'
import type { TorchGenerator } from '../random.ts'
import { filled, normal, sizeOf, xavierNormalSlices } from './draws.ts'
import type { Parameter, Walk } from './method.ts'

/** Which projection of a bottleneck a layer is. */
export type Position = 'down' | 'up'

type Cube = Var<Tensor3D>

/** The factors of one layer, or of all layers where they are shared: what their keys begin with, and how. */
interface Factors {
  /** Without `_left` and `_right`. */
  key: string
  factorized: boolean
  shape: [p: number, rows: number, columns: number]
  rank: number
}

const sharedPath = (name: string) => `roberta.shared_parameters.${name}`

/** Standard deviation and bound of a rule that is not shared, whatever phm_init_range says. */
const ownRuleRange = 0.01

/** Tensors of one layer `inputs` -> `outputs` under `path`, without the shared ones. */
export function phmParameters(
  config: BnConfig,
  path: string,
  position: Position,
  inputs: number,
  outputs: number,
): Parameter[] {
  const parameters: Parameter[] = []
  if (!config.shared_phm_rule) parameters.push(...parametersOf(ruleFactors(config, path)))
  if (!config.shared_W_phm)
    parameters.push(...parametersOf(weightFactors(config, path, position, inputs, outputs)))
  if (config.phm_bias) parameters.push({ key: `${path}.b`, shape: [outputs] })
  return parameters
}

/** Values of one fresh layer, drawn as `reset_parameters` does: its matrices, then its own rule; b is zero. */
export function initialisePhm(
  generator: TorchGenerator,
  config: BnConfig,
  path: string,
  position: Position,
  inputs: number,
  outputs: number,
): TensorMap {
  if (config.init_weights_seed) generator.manual_seed(config.init_weights_seed)
  const tensors: TensorMap = new Map()
  if (!config.shared_W_phm)
    drawWeights(generator, weightFactors(config, path, position, inputs, outputs), tensors)
  if (config.phm_bias) tensors.set(`${path}.b`, filled([outputs], 0))
  if (!config.shared_phm_rule)
    drawRule(generator, config, ruleFactors(config, path), ownRuleRange, ownRuleRange, tensors)
  return tensors
}

/** Tensors that every layer of the adapter shares; `width` is the bottleneck's. */
export function sharedParameters(
  base: RobertaConfig,
  config: BnConfig,
  name: string,
  width: number,
): Parameter[] {
  if (!config.phm_layer) return []
  return sharedFactors(base, config, name, width).flatMap(parametersOf)
}

/** Values of the shared tensors: those for down, for up, then the rule N(0, phm_init_range) or U(±1). */
export function initialiseShared(
  generator: TorchGenerator,
  base: RobertaConfig,
  config: BnConfig,
  name: string,
  width: number,
): TensorMap {
  const tensors: TensorMap = new Map()
  if (!config.phm_layer) return tensors
  for (const factors of sharedFactors(base, config, name, width))
    if (factors.key.endsWith('phm_rule'))
      drawRule(generator, config, factors, config.phm_init_range, 1, tensors)
    else drawWeights(generator, factors, tensors)
  return tensors
}

/** x [N,inputs] -> x·Σᵢ kron(rule[i], W[i]) + b [N,outputs], for the layer at `path`. */
export function phm(
  walk: Walk,
  config: BnConfig,
  name: string,
  path: string,
  position: Position,
  x: Matrix,
): Matrix {
  const { ops } = walk
  const at = config.shared_W_phm ? sharedPath(name) : path
  const weightKey = config.shared_W_phm ? `${at}.W_${position}` : `${at}.W`
  const W = product(walk, weightKey, config.factorized_phm_W) // [p,inputs/p,outputs/p]
  const ruleKey = `${config.shared_phm_rule ? sharedPath(name) : path}.phm_rule`
  const rule = product(walk, ruleKey, config.factorized_phm_rule) // [p,p,p]
  const [p, rows, columns] = W.shape
  const flat = ops.matmul(
    ops.reshape<Matrix['tensor']>(rule, [p, p * p]),
    ops.reshape<Matrix['tensor']>(W, [p, rows * columns]),
    true,
  ) // [a·c, r·s], by element rule[i,a,c]·W[i,r,s] summed over i
  const turned = ops.transpose(ops.reshape(flat, [p, p, rows, columns]), [1, 3, 0, 2]) // [c,s,a,r]
  const weight = ops.reshape<Matrix['tensor']>(turned, [p * columns, p * rows])
  return ops.linear(x, weight, config.phm_bias ? walk.parameter<Vector>(`${path}.b`) : null)
}

function product(walk: Walk, key: string, factorized: boolean): Cube {
  if (!factorized) return walk.parameter<Cube>(key)
  return walk.ops.matmul(walk.parameter<Cube>(`${key}_left`), walk.parameter<Cube>(`${key}_right`))
}

function ruleFactors({ phm_dim: p, factorized_phm_rule }: BnConfig, path: string): Factors {
  return { key: `${path}.phm_rule`, factorized: factorized_phm_rule, shape: [p, p, p], rank: 1 }
}

function weightFactors(
  { phm_dim: p, phm_rank, factorized_phm_W, shared_W_phm }: BnConfig,
  path: string,
  position: Position,
  inputs: number,
  outputs: number,
): Factors {
  return {
    key: shared_W_phm ? `${path}.W_${position}` : `${path}.W`,
    factorized: factorized_phm_W,
    shape: [p, Math.floor(inputs / p), Math.floor(outputs / p)],
    rank: phm_rank,
  }
}

function sharedFactors(
  { hidden_size: H }: RobertaConfig,
  config: BnConfig,
  name: string,
  width: number,
): Factors[] {
  const path = sharedPath(name)
  const all: Factors[] = []
  if (config.shared_W_phm)
    all.push(weightFactors(config, path, 'down', H, width), weightFactors(config, path, 'up', width, H))
  if (config.shared_phm_rule) all.push(ruleFactors(config, path))
  return all
}

function parametersOf({ key, factorized, shape, rank }: Factors): Parameter[] {
  if (!factorized) return [{ key, shape }]
  const [p, rows, columns] = shape
  return [
    { key: `${key}_left`, shape: [p, rows, rank] },
    { key: `${key}_right`, shape: [p, rank, columns] },
  ]
}

/** Xavier normal by slices, left and right in turn; hypercomplex_nonlinearity changes nothing in the library. */
function drawWeights(generator: TorchGenerator, factors: Factors, into: TensorMap): void {
  const parameters = parametersOf(factors)
  const shapes = parameters.map(({ shape }) => shape)
  xavierNormalSlices(generator, shapes).forEach((tensor, i) => into.set(parameters[i]!.key, tensor))
}

function drawRule(
  generator: TorchGenerator,
  { phm_c_init }: BnConfig,
  factors: Factors,
  std: number,
  bound: number,
  into: TensorMap,
): void {
  for (const { key, shape } of parametersOf(factors))
    into.set(
      key,
      phm_c_init === 'normal'
        ? normal(generator, shape, std)
        : { shape, data: generator.uniform(sizeOf(shape), -bound, bound) },
    )
}
