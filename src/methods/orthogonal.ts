/**
 * Orthogonal matrices as `torch.nn.utils.parametrizations.orthogonal` holds them: its Householder map, written in
 * operations of the walk, and the square matrix that it completes a fresh weight to.
 */
import type { Matrix } from '../model/ops.ts'
import type { TorchGenerator } from '../random.ts'
import type { Walk } from './method.ts'

/**
 * The weight R [r,H] with orthonormal rows that `original` [r,H] and `base` [H,H] stand for, r < H: with
 * v_i = e_i + original[i, i+1…] and H_i = I - 2·v_i·v_iᵀ/‖v_i‖², Rᵀ is base times the first r columns of H_0·…·H_{r-1},
 * column i of them times the whole part of original[i,i]. No gradient goes to that diagonal.
 */
export function orthogonalRows(walk: Walk, original: Matrix, base: Matrix): Matrix {
  const { ops } = walk
  const [r, H] = original.shape
  const pattern = (what: string, at: (row: number, column: number) => boolean): Matrix =>
    walk.once(`orthogonal ${what} ${r} ${H}`, () =>
      walk.constant(
        Float32Array.from({ length: r * H }, (_, i) => Number(at(Math.floor(i / H), i % H))),
        [r, H],
      ),
    )
  const diagonal = pattern('diagonal', (row, column) => column === row)
  const above = pattern('above', (row, column) => column > row)

  const v = ops.add(ops.mul(original, above), diagonal) // [r,H]
  const taus = ops.scale(ops.pow(ops.sum(ops.mul(v, v), 1), -1), 2) // [r,1]
  const scaled = ops.mul(v, taus)
  let rows = diagonal // the columns, lying
  for (let i = r - 1; i >= 0; i--) {
    const onto = ops.linear(rows, ops.slice(v, 0, i, 1), null) // [r,1]
    rows = ops.add(rows, ops.matmul(onto, ops.slice(scaled, 0, i, 1)), -1)
  }
  const signs = ops.whole(ops.sum(ops.mul(ops.detach(original), diagonal), 1)) // [r,1]
  return ops.linear(ops.mul(rows, signs), base, null)
}

/**
 * `original` and `base` of a fresh weight [r,H], r < H: the columns of weightᵀ and of H-r drawn ones, made orthonormal
 * one after another. In double precision, so it differs from torch's by the rounding of its float32 QR.
 */
export function freshOrthogonal(
  generator: TorchGenerator,
  weight: Float32Array,
  r: number,
): { original: Float32Array; base: Float32Array } {
  const H = weight.length / r
  const more = generator.normal(H * (H - r))
  const columns = Array.from({ length: H }, (_, c) =>
    c < r
      ? Float64Array.from(weight.subarray(c * H, (c + 1) * H))
      : Float64Array.from({ length: H }, (_, i) => more[i * (H - r) + c - r]!),
  )
  orthonormalise(columns)
  const base = new Float32Array(H * H)
  columns.forEach((column, c) => column.forEach((value, i) => (base[i * H + c] = value)))
  const original = new Float32Array(r * H)
  for (let i = 0; i < r; i++) original[i * H + i] = -1
  return { original, base }
}

/** Gram-Schmidt in place, four vectors at a time: Q of the QR decomposition whose R has a positive diagonal. */
function orthonormalise(vectors: Float64Array[]): void {
  const zero = new Float64Array(vectors[0]!.length)
  for (let from = 0; from < vectors.length; from += 4) {
    const panel = vectors.slice(from, from + 4)
    panel.forEach((vector, k) => {
      for (const other of panel.slice(0, k)) takeOff(vector, other, zero, zero, zero)
      const norm = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0))
      vector.forEach((value, i) => (vector[i] = value / norm))
    })
    const [a, b = zero, c = zero, d = zero] = panel
    for (let rest = from + 4; rest < vectors.length; rest++) takeOff(vectors[rest]!, a!, b, c, d)
  }
}

/** Takes off x what lies along each of four orthonormal vectors. */
function takeOff(x: Float64Array, a: Float64Array, b: Float64Array, c: Float64Array, d: Float64Array): void {
  let [alongA, alongB, alongC, alongD] = [0, 0, 0, 0]
  for (let i = 0; i < x.length; i++) {
    const value = x[i]!
    alongA += value * a[i]!
    alongB += value * b[i]!
    alongC += value * c[i]!
    alongD += value * d[i]!
  }
  for (let i = 0; i < x.length; i++)
    x[i]! -= alongA * a[i]! + alongB * b[i]! + alongC * c[i]! + alongD * d[i]!
}
