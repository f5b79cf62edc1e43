/** Matrix products on the backend that is asked for: ../matmul.test.ts runs this on cpu and wasm, ../gpu on WebGPU. */
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  openBackend,
  uploadTensor,
  type BackendKind,
  type BackendOptions,
} from '../../src/kernels/backend.ts'
import { matmul } from '../../src/kernels/matmul.ts'
import { replaceByReference } from '../../src/kernels/program.ts'
import { TorchGenerator } from '../../src/random.ts'
import { declareEpilogues, transposes } from './epilogues.ts'
import { declareFedForward } from './fedForward.ts'
import { matrix, random, values } from './harness.ts'
import { matmulTruth, worstError } from './truth.ts'

interface Options extends BackendOptions {
  /** The reference stands in for the kernels. */
  replaced?: boolean
}

/** Declares all tests of matrix products; each must leave as many tensors as it found. */
export function declareMatmulTests(kind: BackendKind, { replaced = false, ...options }: Options = {}): void {
  const how = [
    options.variants && `variants for ${options.variants}`,
    replaced && 'replaced by the reference',
  ]
  describe(['products on', kind, ...how.filter(Boolean)].join(' '), () => {
    const errors: string[] = []
    beforeAll(async () => {
      await openBackend(kind, { ...options, onError: (message) => void errors.push(message) })
      replaceByReference(replaced ? ['matmul'] : [])
    })
    afterAll(() => replaceByReference([]))
    let before = 0
    beforeEach(() => void (before = tf.memory().numTensors))
    afterEach(() => {
      expect(errors.splice(0)).toEqual([])
      expect(tf.memory().numTensors, 'tensors left over').toBe(before)
    })
    declareEpilogues()
    declareFedForward()
    if (replaced) return
    declareShapes()
    if (kind === 'webgpu') declareThresholds()
  })
}

/** a [M,K], b [K,N] and their product in double precision, fast enough for long inner dimensions. */
function longProduct(M: number, N: number, K: number) {
  const [a, b] = [random(M * K), random(K * N)]
  const columns = transposed(b, N)
  const want = Float64Array.from({ length: M * N }, (_, at) => {
    const [from, to] = [Math.floor(at / N) * K, (at % N) * K]
    let sum = 0
    for (let k = 0; k < K; k++) sum += a[from + k]! * columns[to + k]!
    return sum
  })
  const make = (tA: boolean, tB: boolean) =>
    matmul(tA ? matrix(transposed(a, K), M) : matrix(a, K), tB ? matrix(columns, K) : matrix(b, N), tA, tB)
  return { want, make }
}

/** x with rows of `width` -> its transpose. */
function transposed(x: Float32Array, width: number): Float32Array {
  const rows = x.length / width
  return x.map((_, at) => x[(at % rows) * width + Math.floor(at / rows)]!)
}

function declareShapes(): void {
  test('products of random shapes, in every order of memory', async () => {
    const rng = new TorchGenerator(11)
    const upTo = (n: number, step = 1) => step * (1 + Math.floor(rng.uniform(1, 0, n / step)[0]!))
    for (let trial = 0; trial < 40; trial++) {
      const step = trial % 2 ? 4 : 1
      const [tA, tB] = transposes[trial % 4]!
      const [M, N, K, batch] = [upTo(90, step), upTo(90, step), upTo(90, step), upTo(3)]
      const [a, b] = [random(batch * M * K), random(batch * K * N)]
      const want = matmulTruth(a, b, { batch, M, N, K }, tA, tB)
      const got = await values(() =>
        matmul(
          uploadTensor<tf.Rank.R3>(a, tA ? [batch, K, M] : [batch, M, K]),
          uploadTensor<tf.Rank.R3>(b, tB ? [batch, N, K] : [batch, K, N]),
          tA,
          tB,
        ),
      )
      expect(worstError(got, want), `${batch}x[${M},${K}]·[${K},${N}] ${tA} ${tB}`).toBeLessThan(1e-5)
    }
  })

  // More than 128 tiles of 64, the last of them cut off, and a last band of fewer than 8 rows.
  test.each([
    [700, 800, 20, transposes],
    [703, 801, 19, transposes.slice(0, 1)],
  ])('many tiles, [%i,%i] over %i', async (M, N, K, orders) => {
    const { want, make } = longProduct(M, N, K)
    for (const [tA, tB] of orders) {
      expect(worstError(await values(() => make(tA, tB)), want), `${tA} ${tB}`).toBeLessThan(1e-5)
    }
  })
}

function declareThresholds(): void {
  // Where tfjs changes its program and is wrong: few tokens, long inner dimensions, small ranks.
  test.each([8, 65, 128, 320])('%i tokens by long inner dimensions and small ranks', async (tokens) => {
    for (const [K, rank] of [
      [768, 4],
      [2048, 64],
      [3072, 8],
      [4096, 48],
    ] as const) {
      const { want, make } = longProduct(tokens, rank, K)
      for (const [tA, tB] of transposes.slice(0, 3)) {
        const got = await values(() => make(tA, tB))
        expect(worstError(got, want), `${K} ${rank} ${tA} ${tB}`).toBeLessThan(1e-5)
        expect(await values(() => make(tA, tB)), 'the same bits again').toEqual(got)
      }
    }
  })
}
