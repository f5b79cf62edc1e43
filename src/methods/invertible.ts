/**
 * Invertible adapters (Pfeiffer et al. 2020, MAD-X; `NICECouplingBlock` of `adapters`): two halves of the embedded text
 * change each other by small networks F and G, so that a language-model head can undo it before its decoder.
 */
import type { BnConfig, RobertaConfig, TensorMap } from '../config.ts'
import type { Matrix, Vector } from '../model/ops.ts'
import { bornLinear, filled, normal } from './draws.ts'
import { floorDivide } from './floorDivide.ts'
import type { Parameter, Start, Walk } from './method.ts'
import { nonLinearity } from './nonLinearity.ts'

/** `init_bert_weights` draws with this deviation, whatever the model's own is. */
const std = 0.02

const pathOf = (name: string) => `roberta.invertible_adapters.${name}`

/** The linear layers of both networks, in the library's order: their path, inputs and outputs. */
function layers(
  { hidden_size: H }: RobertaConfig,
  { inv_adapter_reduction_factor }: BnConfig,
  name: string,
): [path: string, inputs: number, outputs: number][] {
  const first = Math.floor(H / 2)
  const second = H - first
  return [['F', second, first] as const, ['G', first, second] as const].flatMap(
    ([network, inputs, outputs]): [string, number, number][] => {
      const width = floorDivide(inputs, inv_adapter_reduction_factor ?? 1)
      const path = `${pathOf(name)}.${network}`
      return [
        [`${path}.0`, inputs, width],
        [`${path}.2`, width, outputs],
      ]
    },
  )
}

/** Key and shape of the tensors of both networks; none without `inv_adapter`. */
export function invertibleParameters(base: RobertaConfig, config: BnConfig, name: string): Parameter[] {
  if (config.inv_adapter === null) return []
  return layers(base, config, name).flatMap(([path, inputs, outputs]) => [
    { key: `${path}.weight`, shape: [outputs, inputs] },
    { key: `${path}.bias`, shape: [outputs] },
  ])
}

/** Fresh values: all four layers are born, then all weights drawn again from N(0, 0.02); biases are zero. */
export function initialiseInvertible({ generator, base }: Start, config: BnConfig, name: string): TensorMap {
  const tensors: TensorMap = new Map()
  if (config.inv_adapter === null) return tensors
  const all = layers(base, config, name)
  for (const [, inputs, outputs] of all) bornLinear(generator, inputs, outputs)
  for (const [path, inputs, outputs] of all) {
    tensors.set(`${path}.weight`, normal(generator, [outputs, inputs], std))
    tensors.set(`${path}.bias`, filled([outputs], 0))
  }
  return tensors
}

/** [x₁|x₂] -> [y₁|y₂] with y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁); x [N,H]. */
export function nice(walk: Walk, config: BnConfig, name: string, x: Matrix): Matrix {
  const { ops } = walk
  const [x1, x2] = halves(walk, x)
  const y1 = ops.add(x1, network(walk, config, name, 'F', x2))
  const y2 = ops.add(x2, network(walk, config, name, 'G', y1))
  return ops.concat([y1, y2], 1)
}

/** The inverse of `nice`: x₂ = y₂ - G(y₁), x₁ = y₁ - F(x₂); y [N,H]. */
export function niceInverse(walk: Walk, config: BnConfig, name: string, y: Matrix): Matrix {
  const { ops } = walk
  const [y1, y2] = halves(walk, y)
  const x2 = ops.add(y2, network(walk, config, name, 'G', y1), -1)
  const x1 = ops.add(y1, network(walk, config, name, 'F', x2), -1)
  return ops.concat([x1, x2], 1)
}

function halves({ ops }: Walk, x: Matrix): [Matrix, Matrix] {
  const first = Math.floor(x.shape[1] / 2)
  return [ops.slice(x, 1, 0, first), ops.slice(x, 1, first, x.shape[1] - first)]
}

function network(walk: Walk, { non_linearity }: BnConfig, name: string, which: 'F' | 'G', x: Matrix): Matrix {
  const { ops } = walk
  const path = `${pathOf(name)}.${which}`
  const linear = (at: string, input: Matrix) =>
    ops.linear(input, walk.parameter(`${at}.weight`), walk.parameter<Vector>(`${at}.bias`))
  return linear(`${path}.2`, ops.activation(nonLinearity(non_linearity), linear(`${path}.0`, x)))
}
