/**
 * The ways in which tfjs is known to give wrong numbers without an error, asked of the ops that we use instead, on the
 * backend that is open: part of the self-test before a first run on a device. Each check compares with sums made here
 * in double precision, or with what must happen.
 */
import type * as tf from '@tensorflow/tfjs-core'
import { attention } from './attention.ts'
import { uploadTensor } from './backend.ts'
import { compared, runChecks, values, type DeviceCheck, type Verdict } from './deviceChecks.ts'
import { assertIds } from './embedding.ts'
import { matmul } from './matmul.ts'
import { addTensors } from './sum.ts'

/** Every check, on its own; a wrong number makes `ok` false, it does not throw. */
export async function checkTraps(): Promise<Verdict[]> {
  return runChecks(trapChecks())
}

/** They take well under a second on a GPU. */
export function trapChecks(): DeviceCheck[] {
  return [longMatmul(), manyAdds(), manyRows(), maskedRows(), foreignIds()]
}

/** tfjs's split-K program ignores transposeB for inner dimensions of 2000 and more and few output tiles. */
function longMatmul(): DeviceCheck {
  const [M, N, K] = [40, 8, 2048]
  const [a, b] = [values(M * K, 1), values(N * K, 2)]
  const make = () => [
    matmul(uploadTensor<tf.Rank.R2>(a, [M, K]), uploadTensor<tf.Rank.R2>(b, [N, K]), false, true),
  ]
  const want = () => [
    Float64Array.from({ length: M * N }, (_, at) => {
      const [i, j] = [Math.floor(at / N), at % N]
      let total = 0
      for (let k = 0; k < K; k++) total += (a[i * K + k] ?? 0) * (b[j * K + k] ?? 0)
      return total
    }),
  ]
  return compared('matmul by a transposed matrix, inner dimension 2048', 1e-3, make, want)
}

/** tf.addN of more tensors than a shader may bind is dropped, with everything queued beside it. */
function manyAdds(): DeviceCheck {
  const parts = Array.from({ length: 24 }, (_, i) => values(16, i))
  return compared(
    `sum of ${parts.length} tensors`,
    1e-5,
    () => [addTensors(parts.map((part) => uploadTensor(part, [16])))],
    () => [Float64Array.from({ length: 16 }, (_, at) => parts.reduce((sum, part) => sum + part[at]!, 0))],
  )
}

/** tf.softmax overwrites its last output beyond 65,535 rows on devices that clamp writes. */
function manyRows(): DeviceCheck {
  const rows = 65_540
  const q = values(rows * 4, 3)
  const units = Float32Array.of(1, 0, 0, 0, 0, 1, 0, 0)
  return compared(
    `softmax of ${rows} rows`,
    1e-5,
    () => [attended(q, units, units, [0, 0])],
    () => [
      Float64Array.from(q, (_, at) => (at % 4 < 2 ? 1 / (1 + Math.exp((q[at ^ 1] ?? 0) - (q[at] ?? 0))) : 0)),
    ],
  )
}

/** A softmax row of -Infinity only is NaN; torch's finite mask makes it uniform. */
function maskedRows(): DeviceCheck {
  const v = values(16, 5)
  return compared(
    'softmax with every key masked',
    1e-6,
    () => [attended(values(8, 4), values(16, 6), v, [0, 4])],
    () => [
      Float64Array.from({ length: 8 }, (_, at) => {
        const column = v.filter((_, i) => i % 4 === at % 4)
        return column.reduce((sum, value) => sum + value, 0) / 4
      }),
    ],
  )
}

/** Attention of one head with 4 features: q [S*4], k and v [T*4], and how many keys are hidden at both ends -> [S,4] */
function attended(q: Float32Array, k: Float32Array, v: Float32Array, hidden: number[]): tf.Tensor2D {
  const rows = (x: Float32Array) => uploadTensor<tf.Rank.R2>(x, [x.length / 4, 4])
  const padding = uploadTensor<tf.Rank.R2>(Int32Array.from(hidden), [1, 2])
  return attention(rows(q), rows(k), rows(v), padding, { B: 1, N: 1, scale: 1 }, null).o
}

/** A GPU answers an id beyond the table with zeros. */
function foreignIds(): DeviceCheck {
  const name = 'ids outside the table'
  const judge = (): Verdict[] => {
    try {
      assertIds(Int32Array.of(0, 4), 4)
    } catch {
      return [{ name, ok: true, detail: 'They are refused.' }]
    }
    return [{ name, ok: false, detail: 'An id outside the table was accepted.' }]
  }
  return { make: () => [], judge }
}
