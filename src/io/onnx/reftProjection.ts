/** The projection of a ReFT unit, which is the same for every text and worked out before the ONNX graph is written. */
import type { AdapterBundle, ReftConfig } from '../../config.ts'
import { tensor, type Values } from './layers.ts'

/**
 * R [r,H] of a ReFT unit: as it is stored, or, for LoReFT, from torch's orthogonal parametrisation, in which it is a
 * product of Householder reflections applied to a fixed base.
 */
export function projectionOf(
  bundle: AdapterBundle,
  { orthogonality }: ReftConfig,
  path: string,
): { rows: number; columns: number; data: Values } {
  if (!orthogonality) {
    const { shape, data } = tensor(bundle, `${path}.projection.weight`)
    return { rows: shape[0]!, columns: shape[1]!, data }
  }
  const original = tensor(bundle, `${path}.projection.parametrizations.weight.original`)
  const base = tensor(bundle, `${path}.projection.parametrizations.weight.0.base`)
  const [r, H] = original.shape as [number, number]
  const data = new Float32Array(r * H)
  for (let i = 0; i < r; i++) {
    const column = reflectedColumn(original.data, r, H, i)
    for (let h = 0; h < H; h++) {
      let sum = 0
      for (let k = 0; k < H; k++) sum += base.data[h * H + k]! * column[k]!
      data[i * H + h] = sum
    }
  }
  return { rows: r, columns: H, data }
}

/**
 * Column i of Q = (I - τ₁v₁v₁ᵀ)…(I - τ_r v_r v_rᵀ), times the whole part of the diagonal entry, where v_j is row j of
 * `original` [r,H] behind its diagonal, with 1 on it.
 */
function reflectedColumn(original: Values, r: number, H: number, i: number): Float64Array {
  const column = new Float64Array(H)
  column[i] = 1
  for (let j = r - 1; j >= 0; j--) {
    const v = (h: number) => (h < j ? 0 : h === j ? 1 : original[j * H + h]!)
    let squares = 0
    let product = 0
    for (let h = j; h < H; h++) {
      squares += v(h) ** 2
      product += v(h) * column[h]!
    }
    for (let h = j; h < H; h++) column[h]! -= (2 / squares) * product * v(h)
  }
  const sign = Math.trunc(original[i * H + i]!)
  return column.map((value) => value * sign)
}
