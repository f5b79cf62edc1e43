/**
 * The ways in which tfjs is known to give wrong numbers without an error, asked of the ops that we use instead, on the
 * backend that is open: part of the self-test before a first run on a device. Each check compares with sums made here
 * in double precision, or with what must happen.
 */
import * as tf from '@tensorflow/tfjs-core'
import { attention } from './attention.ts'
import { uploadTensor } from './backend.ts'
import { assertIds } from './embedding.ts'
import { matmul } from './matmul.ts'
import { addTensors } from './sum.ts'

export interface TrapCheck {
  name: string
  ok: boolean
  /** What was found, as a sentence. */
  detail: string
}

/** Runs every check; a wrong number makes `ok` false, it does not throw. Takes well under a second on a GPU. */
export async function checkTraps(): Promise<TrapCheck[]> {
  return [
    await checkLongMatmul(),
    await checkManyAdds(),
    await checkManyRows(),
    await checkMaskedRows(),
    checkIds(),
  ]
}

/** tfjs's split-K program ignores transposeB for inner dimensions of 2000 and more and few output tiles. */
async function checkLongMatmul(): Promise<TrapCheck> {
  const [M, N, K] = [40, 8, 2048]
  const [a, b] = [values(M * K, 1), values(N * K, 2)]
  const got = await read(() =>
    matmul(uploadTensor<tf.Rank.R2>(a, [M, K]), uploadTensor<tf.Rank.R2>(b, [N, K]), false, true),
  )
  const want = Float64Array.from(got, (_, at) => {
    const [i, j] = [Math.floor(at / N), at % N]
    let total = 0
    for (let k = 0; k < K; k++) total += (a[i * K + k] ?? 0) * (b[j * K + k] ?? 0)
    return total
  })
  return verdict('matmul by a transposed matrix, inner dimension 2048', got, want, 1e-3)
}

/** tf.addN of more tensors than a shader may bind is dropped, with everything queued beside it. */
async function checkManyAdds(): Promise<TrapCheck> {
  const count = 24
  const got = await read(() =>
    addTensors(Array.from({ length: count }, (_, i) => uploadTensor(values(16, i), [16]))),
  )
  const want = got.map((_, at) =>
    Array.from({ length: count }, (_, i) => values(16, i)[at] ?? 0).reduce((x, y) => x + y),
  )
  return verdict(`sum of ${count} tensors`, got, want, 1e-5)
}

/** tf.softmax overwrites its last output beyond 65,535 rows on devices that clamp writes. */
async function checkManyRows(): Promise<TrapCheck> {
  const rows = 65_540
  const q = values(rows * 4, 3)
  const units = Float32Array.of(1, 0, 0, 0, 0, 1, 0, 0)
  const got = await read(() => attended(q, units, units, [0, 0]))
  const want = Float64Array.from(got, (_, at) =>
    at % 4 < 2 ? 1 / (1 + Math.exp((q[at ^ 1] ?? 0) - (q[at] ?? 0))) : 0,
  )
  return verdict(`softmax of ${rows} rows`, got, want, 1e-5)
}

/** A softmax row of -Infinity only is NaN; torch's finite mask makes it uniform. */
async function checkMaskedRows(): Promise<TrapCheck> {
  const v = values(16, 5)
  const got = await read(() => attended(values(8, 4), values(16, 6), v, [0, 4]))
  const want = Float64Array.from(got, (_, at) => {
    const column = v.filter((_, i) => i % 4 === at % 4)
    return column.reduce((sum, value) => sum + value, 0) / 4
  })
  return verdict('softmax with every key masked', got, want, 1e-6)
}

/** Attention of one head with 4 features: q [S*4], k and v [T*4], and how many keys are hidden at both ends -> [S,4] */
function attended(q: Float32Array, k: Float32Array, v: Float32Array, hidden: number[]): tf.Tensor2D {
  const rows = (x: Float32Array) => uploadTensor<tf.Rank.R2>(x, [x.length / 4, 4])
  const padding = uploadTensor<tf.Rank.R2>(Int32Array.from(hidden), [1, 2])
  return attention(rows(q), rows(k), rows(v), padding, { B: 1, N: 1, scale: 1 }, null).o
}

/** A GPU answers an id beyond the table with zeros. */
function checkIds(): TrapCheck {
  const name = 'ids outside the table'
  try {
    assertIds(Int32Array.of(0, 4), 4)
  } catch {
    return { name, ok: true, detail: 'They are refused.' }
  }
  return { name, ok: false, detail: 'An id outside the table was accepted.' }
}

function verdict(name: string, got: ArrayLike<number>, want: ArrayLike<number>, limit: number): TrapCheck {
  let worst = 0
  for (let i = 0; i < want.length; i++) {
    const difference = Math.abs((got[i] ?? NaN) - (want[i] ?? NaN))
    if (!(difference <= worst)) worst = difference
  }
  const ok = worst <= limit
  return {
    name,
    ok,
    detail: `Largest error ${worst.toExponential(1)}, ${ok ? 'within' : 'beyond'} ${limit}.`,
  }
}

async function read(make: () => tf.Tensor): Promise<Float32Array> {
  const tensor = tf.tidy(make)
  const data = (await tensor.data()) as Float32Array
  tensor.dispose()
  return data
}

/** n scattered numbers in [-1, 1), the same for the same `seed`. */
export function values(n: number, seed: number): Float32Array {
  return Float32Array.from({ length: n }, (_, i) => {
    const word = Math.imul((i + 1) ^ Math.imul(seed + 1, 0x85ebca6b), 0x9e3779b1)
    return Math.imul(word ^ (word >>> 15), 0x735a2d97) / 2 ** 31
  })
}
