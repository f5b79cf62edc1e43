/** The singular values of a matrix that is given as a product of two thin ones, in double precision. */

/** Row-major numbers. */
export interface Dense {
  rows: number
  columns: number
  data: Float64Array
}

/** U [m,k], S [k] falling, Vt [k,n] with U·diag(S)·Vt the matrix; columns of U and rows of Vt are orthonormal. */
export interface Decomposition {
  U: Dense
  S: Float64Array
  Vt: Dense
}

export function dense(rows: number, columns: number): Dense {
  return { rows, columns, data: new Float64Array(rows * columns) }
}

/** The `rank` largest singular triplets of P·Q, P [m,k] and Q [k,n]. Directions of singular value 0 are any orthonormal ones. */
export function svdOfProduct(P: Dense, Q: Dense, rank: number): Decomposition {
  const left = orthonormalise(P)
  const right = orthonormalise(transpose(Q))
  const { U, S, V } = jacobi(multiply(left.R, transpose(right.R)))
  const order = [...S.keys()].sort((a, b) => S[b]! - S[a]!).slice(0, rank)
  const values = Float64Array.from({ length: rank }, (_, i) => (i < order.length ? S[order[i]!]! : 0))
  const columns = (Qf: Dense, core: Dense) => complete(multiply(Qf, select(core, order)), rank)
  return { U: columns(left.Q, U), S: values, Vt: transpose(columns(right.Q, V)) }
}

/** M = Q·R by Gram-Schmidt, twice for accuracy; a column that depends on earlier ones becomes zero in Q. */
function orthonormalise(M: Dense): { Q: Dense; R: Dense } {
  const { rows, columns } = M
  const Q = dense(rows, columns)
  Q.data.set(M.data)
  const R = dense(columns, columns)
  for (let j = 0; j < columns; j++) {
    const before = norm(Q, j)
    for (let pass = 0; pass < 2; pass++)
      for (let i = 0; i < j; i++) R.data[i * columns + j]! += removeDirection(Q, i, j)
    const length = norm(Q, j)
    const depends = length <= before * 1e-12
    R.data[j * columns + j] = depends ? 0 : length
    for (let r = 0; r < rows; r++) Q.data[r * columns + j]! *= depends ? 0 : 1 / length
  }
  return { Q, R }
}

/** Takes column i's direction out of column j and returns how much of it there was. */
function removeDirection({ rows, columns, data }: Dense, i: number, j: number): number {
  let dot = 0
  for (let r = 0; r < rows; r++) dot += data[r * columns + i]! * data[r * columns + j]!
  for (let r = 0; r < rows; r++) data[r * columns + j]! -= dot * data[r * columns + i]!
  return dot
}

function norm({ rows, columns, data }: Dense, j: number): number {
  let sum = 0
  for (let r = 0; r < rows; r++) sum += data[r * columns + j]! ** 2
  return Math.sqrt(sum)
}

/** One-sided Jacobi of a small square matrix: M = U·diag(S)·Vᵀ, unsorted. */
function jacobi(M: Dense): { U: Dense; S: Float64Array; V: Dense } {
  const n = M.columns
  const A = { ...M, data: M.data.slice() }
  const V = dense(n, n)
  for (let i = 0; i < n; i++) V.data[i * n + i] = 1
  for (let sweep = 0, turned = true; turned && sweep < 60; sweep++) {
    turned = false
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) if (rotate(A, V, p, q)) turned = true
  }
  const S = Float64Array.from({ length: n }, (_, j) => norm(A, j))
  const largest = Math.max(...S, 0)
  for (let j = 0; j < n; j++) {
    if (S[j]! <= largest * 1e-14) S[j] = 0
    for (let r = 0; r < A.rows; r++) A.data[r * n + j]! *= S[j] === 0 ? 0 : 1 / S[j]!
  }
  return { U: A, S, V }
}

/** Turns columns p and q of A, and of V alike, until they are orthogonal; false when they were. */
function rotate(A: Dense, V: Dense, p: number, q: number): boolean {
  const n = A.columns
  let [alpha, beta, gamma] = [0, 0, 0]
  for (let r = 0; r < A.rows; r++) {
    const [x, y] = [A.data[r * n + p]!, A.data[r * n + q]!]
    alpha += x * x
    beta += y * y
    gamma += x * y
  }
  if (gamma === 0 || Math.abs(gamma) <= 1e-15 * Math.sqrt(alpha * beta)) return false
  const zeta = (beta - alpha) / (2 * gamma)
  const t = (zeta >= 0 ? 1 : -1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta))
  const c = 1 / Math.sqrt(1 + t * t)
  for (const { rows, columns, data } of [A, V])
    for (let r = 0; r < rows; r++) {
      const [x, y] = [data[r * columns + p]!, data[r * columns + q]!]
      data[r * columns + p] = c * x - c * t * y
      data[r * columns + q] = c * t * x + c * y
    }
  return true
}

/** `count` orthonormal columns: those of M that are not zero, and unit vectors made orthogonal to them for the rest. */
function complete(M: Dense, count: number): Dense {
  const { rows } = M
  const out = dense(rows, count)
  for (let j = 0, unit = 0; j < count; j++) {
    for (let r = 0; r < rows && j < M.columns; r++) out.data[r * count + j] = M.data[r * M.columns + j]!
    while (norm(out, j) < 0.5 && unit < rows) {
      for (let r = 0; r < rows; r++) out.data[r * count + j] = r === unit ? 1 : 0
      unit++
      for (let pass = 0; pass < 2; pass++) for (let i = 0; i < j; i++) removeDirection(out, i, j)
      const length = norm(out, j)
      for (let r = 0; r < rows; r++) out.data[r * count + j]! *= length > 1e-3 ? 1 / length : 0
    }
  }
  return out
}

function select({ rows, columns, data }: Dense, order: number[]): Dense {
  const out = dense(rows, order.length)
  for (let r = 0; r < rows; r++)
    order.forEach((from, j) => (out.data[r * order.length + j] = data[r * columns + from]!))
  return out
}

export function multiply(A: Dense, B: Dense): Dense {
  const out = dense(A.rows, B.columns)
  for (let i = 0; i < A.rows; i++)
    for (let k = 0; k < A.columns; k++) {
      const a = A.data[i * A.columns + k]!
      for (let j = 0; j < B.columns; j++) out.data[i * B.columns + j]! += a * B.data[k * B.columns + j]!
    }
  return out
}

function transpose({ rows, columns, data }: Dense): Dense {
  const out = dense(columns, rows)
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) out.data[c * rows + r] = data[r * columns + c]!
  return out
}
