/** Our matrix product and tfjs's on the shapes of RoBERTa-base, or on smaller ones of the same proportions. */
import * as tf from '@tensorflow/tfjs-core'
import { uploadTensor } from '../../src/kernels/backend.ts'
import { matmul } from '../../src/kernels/matmul.ts'
import { uniform } from '../madeUp.ts'
import type { Work } from './clock.ts'
import { plainly } from './tape.ts'

export interface Product {
  M: number
  N: number
  K: number
  /** As BLAS names them: the second operand transposed is NT, the first one TN. */
  form: 'NN' | 'NT' | 'TN'
}

/** The large linear layers, the adapters' thin ones and their weight gradients; `scale` divides every size. */
export function products(scale = 1): Product[] {
  const sizes: [number, number, number][] = [
    [4096, 768, 768],
    [4096, 3072, 768],
    [4096, 768, 3072],
  ]
  const forms = ['NN', 'NT', 'TN'] as const
  const large = sizes.flatMap(([M, N, K]) => forms.map((form): Product => ({ M, N, K, form })))
  const thin: Product[] = [
    { M: 4096, N: 48, K: 768, form: 'NT' },
    { M: 48, N: 768, K: 4096, form: 'TN' },
  ]
  return [...large, ...thin].map(({ M, N, K, form }) => ({ M: M / scale, N: N / scale, K: K / scale, form }))
}

export const nameOf = ({ M, N, K, form }: Product) => `${M}×${N}×${K} ${form}`
export const flopsOf = ({ M, N, K }: Product) => 2 * M * N * K

/** Both ways of one product, on operands that `dispose` frees. */
export interface Ways {
  ours: Work
  theirs: Work
  /** The largest difference of our product from double precision at some of its elements, over their largest. */
  error(): Promise<number>
  dispose(): void
}

export function ways({ M, N, K, form }: Product): Ways {
  const [transposeA, transposeB] = [form === 'TN', form === 'NT']
  const [left, right] = [uniform(`a ${M} ${N} ${K}`, M * K), uniform(`b ${M} ${N} ${K}`, K * N)].map(
    (values) => Float32Array.from(values),
  ) as [Float32Array, Float32Array]
  const a = uploadTensor<tf.Rank.R2>(left, transposeA ? [K, M] : [M, K])
  const b = uploadTensor<tf.Rank.R2>(right, transposeB ? [N, K] : [K, N])
  const element = (i: number, j: number) => {
    let sum = 0
    for (let k = 0; k < K; k++)
      sum += left[transposeA ? k * M + i : i * K + k]! * right[transposeB ? j * K + k : k * N + j]!
    return sum
  }
  return {
    ours: () => matmul(a, b, transposeA, transposeB),
    theirs: () => plainly(() => tf.matMul(a, b, transposeA, transposeB)),
    error: async () => {
      const result = matmul(a, b, transposeA, transposeB)
      const found = await result.data()
      result.dispose()
      let [worst, largest] = [0, 0]
      for (let s = 0; s < samples; s++) {
        const [i, j] = [(s * 7919) % M, (s * 104729) % N]
        const want = element(i, j)
        worst = Math.max(worst, Math.abs(found[i * N + j]! - want))
        largest = Math.max(largest, Math.abs(want))
      }
      return worst / largest
    },
    dispose: () => tf.dispose([a, b]),
  }
}

/** Elements that `error` looks at. */
const samples = 200
