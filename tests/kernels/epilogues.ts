/** Everything that a matrix product can do besides multiplying: epilogues, blocks side by side, half precision, views. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import type { Activation } from '../../src/kernels/activations.ts'
import { emptyTensor, uploadTensor } from '../../src/kernels/backend.ts'
import { dropoutMask } from '../../src/kernels/dropout.ts'
import { fromHalf, toHalf } from '../../src/kernels/half.ts'
import { matmul, projections, projectionsBackwardInput, type Epilogue } from '../../src/kernels/matmul.ts'
import {
  linear,
  linearActivated,
  linearBackwardBias,
  linearBackwardInput,
  linearBackwardWeight,
} from '../../src/kernels/linear.ts'
import { onGpu } from '../../src/kernels/program.ts'
import { viewOf } from '../../src/kernels/views.ts'
import { agree, matrix, random, values, vector } from './harness.ts'
import { activationTruth, matmulTruth, worstError, type Numbers } from './truth.ts'

export const transposes = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const

/** One product and all operands that its epilogue may have. */
interface Case {
  M: number
  N: number
  K: number
  a: Float32Array
  b: Float32Array
  bias: Float32Array
  pre: Float32Array
  residual: Float32Array
  product: Float64Array
}

function makeCase(M: number, N: number, K: number): Case {
  const [a, b] = [random(M * K), random(K * N)]
  const product = matmulTruth(a, b, { batch: 1, M, N, K }, false, false)
  return { M, N, K, a, b, bias: random(N), pre: random(M * N), residual: random(M * N), product }
}

const drop = { rate: 0.3, seed: 42, offset: 7 }
const parts = ['bias', 'factor', 'dropout', 'through', 'residual'] as const
type Parts = Partial<Record<(typeof parts)[number] | 'activated', boolean>>

/** All subsets of the parts. */
const subsets = Array.from({ length: 2 ** parts.length }, (_, bits): Parts =>
  Object.fromEntries(parts.filter((_, i) => bits & (1 << i)).map((part) => [part, true])),
)

function epilogueTruth(
  { N, product, bias, pre, residual }: Case,
  use: Parts,
  activation: Activation = 'gelu',
): Float64Array {
  const mask = dropoutMask(product.length, drop.rate, drop.seed, drop.offset)
  const f = activationTruth[activation]!
  const slope = (x: number) => (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
  return product.map((value, i) => {
    let y = value + (use.bias ? bias[i % N]! : 0)
    y *= use.factor ? -1.75 : 1
    y = use.activated ? f(y) : y
    y *= use.dropout ? mask[i]! : 1
    y *= use.through ? slope(pre[i]!) : 1
    return y + (use.residual ? residual[i]! : 0)
  })
}

function epilogueOf({ N, bias, pre, residual }: Case, use: Parts, activation: Activation = 'gelu'): Epilogue {
  return {
    bias: use.bias ? vector(bias) : null,
    factor: use.factor ? -1.75 : 1,
    activation: use.activated ? { name: activation, pre: null } : null,
    dropout: use.dropout ? drop : null,
    through: use.through ? { activation, pre: matrix(pre, N) } : null,
    residual: use.residual ? matrix(residual, N) : null,
  }
}

/** The product of a case with this epilogue. */
function multiply({ a, b, K, N }: Case, epilogue: Epilogue): tf.Tensor2D {
  return matmul(matrix(a, K), matrix(b, N), false, false, epilogue)
}

export function declareEpilogues(): void {
  // All of them where one program serves, the one that adds up partial results; else those that share least.
  const few = [subsets[0b00101]!, subsets[0b11010]!, subsets[0b11111]!]
  test.each([
    ['some combinations of epilogues, vec4s', 24, 20, 12, few],
    ['some combinations of epilogues, odd sizes', 13, 7, 9, few],
    ['every combination of epilogues, a split inner dimension', 6, 8, 1040, subsets],
    ['every combination of epilogues, a split inner dimension of odd sizes', 5, 7, 1031, subsets],
  ])('%s', async (_, M, N, K, uses) => {
    const given = makeCase(M, N, K)
    for (const use of uses) {
      const got = await values(() => multiply(given, epilogueOf(given, use)))
      expect(worstError(got, epilogueTruth(given, use)), Object.keys(use).join()).toBeLessThan(1e-5)
    }
  })

  test.each(['gelu_new', 'relu', 'silu', 'linear', 'mish'] as const)(
    'the way back through %s',
    async (activation) => {
      // Its inner dimension is split, so that little has to be compiled.
      const given = makeCase(9, 8, 1040)
      const want = epilogueTruth(given, { through: true, residual: true }, activation)
      await agree(
        () => multiply(given, epilogueOf(given, { through: true, residual: true }, activation)),
        want,
      )
    },
  )

  declareActivated()

  test('an output is written in place, over `pre`, over the residual or elsewhere', async () => {
    if (!onGpu()) return
    for (const given of [makeCase(12, 16, 20), makeCase(5, 7, 9), makeCase(8, 12, 1200)]) {
      const use = { bias: true, dropout: true, through: true, residual: true }
      const want = epilogueTruth(given, use)
      for (const place of ['pre', 'residual', 'new'] as const) {
        const made = tf.tidy(() => {
          const epilogue = epilogueOf(given, use)
          const output = {
            pre: epilogue.through!.pre,
            residual: epilogue.residual!,
            new: tf.zeros([given.M, given.N]),
          }[place]
          const result = multiply(given, { ...epilogue, output })
          expect(result).toBe(output)
          return result
        })
        expect(worstError(await made.data(), want), place).toBeLessThan(1e-5)
        made.dispose()
      }
    }
  })

  test('a gradient goes into its part of a flat tensor and touches nothing beside it', async () => {
    if (!onGpu()) return
    for (const [M, N, K] of [
      [8, 16, 2000],
      [3, 7, 33],
    ] as const) {
      const [dy, x] = [random(K * M), random(K * N)]
      const whole = tf.tidy(() => {
        const flat = tf.fill([512], 5)
        const [weight, bias] = [viewOf<tf.Tensor2D>(flat, 128, [M, N]), viewOf<tf.Tensor1D>(flat, 384, [M])]
        linearBackwardWeight(matrix(dy, M), matrix(x, N), weight)
        linearBackwardBias(matrix(dy, M), bias)
        return flat
      })
      const got = await whole.data()
      whole.dispose()
      const want = new Float64Array(512).fill(5)
      want.set(matmulTruth(dy, x, { batch: 1, M, N, K }, true, false), 128)
      want.set(matmulTruth(new Float32Array(K).fill(1), dy, { batch: 1, M: 1, N: M, K }, false, false), 384)
      expect(worstError(got, want)).toBeLessThan(1e-5)
    }
  })

  test('operands of an epilogue that do not fit are refused', () => {
    const given = makeCase(3, 4, 5)
    const refused = (epilogue: () => Epilogue) =>
      tf.tidy(() => {
        expect(() => multiply(given, epilogue())).toThrow('of a matrix product has')
      })
    refused(() => ({ bias: tf.zeros([3]) }))
    refused(() => ({ residual: tf.zeros([3, 3]) }))
    refused(() => ({ output: tf.zeros([4]) }))
    refused(() => ({ activation: { name: 'gelu', pre: tf.zeros([5]) } }))
    refused(() => ({ through: { activation: 'gelu', pre: tf.zeros([5]) } }))
  })

  declareBlocks()
  declareHalf()
}

/** What is stored is act of the value, and the value itself goes into a second tensor where one is given. */
function declareActivated(): void {
  const one: Parts = { activated: true, bias: true }
  const all: Parts = { ...one, factor: true, dropout: true, through: true, residual: true }
  const shapes = [
    ['vec4s', 24, 20, 12, [one]],
    ['odd sizes', 13, 7, 9, [all]],
    ['many tiles', 700, 760, 8, [one]],
    ['a split inner dimension', 6, 8, 1040, [one, all]],
    ['a split inner dimension of odd sizes', 5, 7, 1031, [one, all]],
  ] as const
  test.each(shapes)('an activation after the product, %s', async (_, M, N, K, uses) => {
    const given = makeCase(M, N, K)
    for (const use of uses) {
      const want = epilogueTruth(given, use)
      await agree(() => multiply(given, epilogueOf(given, use)), want)
      if (!onGpu()) continue
      const { pre, y } = tf.tidy(() => {
        const pre = emptyTensor<tf.Rank.R2>([M, N])
        return { pre, y: multiply(given, { ...epilogueOf(given, use), activation: { name: 'gelu', pre } }) }
      })
      expect(worstError(await y.data(), want)).toBeLessThan(1e-5)
      const before = epilogueTruth(given, { bias: use.bias, factor: use.factor })
      expect(worstError(await pre.data(), before)).toBeLessThan(1e-5)
      tf.dispose([pre, y])
    }
  })

  test('a linear layer and its activation, with what was activated or without', async () => {
    for (const name of ['gelu', 'relu', 'linear'] as const) {
      const [N, M, K] = [9, 8, 12]
      const [x, weight, bias] = [random(N * K), random(M * K), random(M)]
      const product = matmulTruth(x, weight, { batch: 1, M: N, N: M, K }, false, true)
      const u = product.map((value, i) => value + bias[i % M]!)
      for (const kept of [true, false]) {
        const [got, before] = tf.tidy(() => {
          const made = linearActivated(name, matrix(x, K), matrix(weight, K), vector(bias), kept)
          return [made.h, ...(made.u ? [made.u] : [])]
        })
        expect(worstError(await got!.data(), u.map(activationTruth[name]!))).toBeLessThan(1e-5)
        expect(before !== undefined).toBe(kept)
        if (before) expect(worstError(await before.data(), u)).toBeLessThan(1e-5)
        tf.dispose([got!, before ?? []])
      }
    }
  })
}

/** C linear layers by their definition. */
function projectionsTruth(
  x: Numbers,
  weight: Numbers,
  bias: Numbers | null,
  [C, N, M, K]: number[],
): Float64Array {
  const product = matmulTruth(x, weight, { batch: 1, M: N!, N: C! * M!, K: K! }, false, true)
  return Float64Array.from({ length: C! * N! * M! }, (_, at) => {
    const [c, n, m] = [Math.floor(at / (N! * M!)), Math.floor(at / M!) % N!, at % M!]
    return product[(n * C! + c) * M! + m]! + (bias ? bias[c * M! + m]! : 0)
  })
}

function declareBlocks(): void {
  const sizes = [
    [3, 20, 24, 16],
    [3, 7, 5, 9],
    [2, 70, 36, 20],
    [3, 5, 8, 1040],
    [3, 6, 400, 8],
    [2, 3, 601, 7],
  ]
  test.each(sizes)('%i linear layers on one input [%i,…] of %i outputs, %i inputs', async (C, N, M, K) => {
    const [x, weight, bias] = [random(N * K), random(C * M * K), random(C * M)]
    const [dy, residual] = [random(C * N * M), random(N * K)]
    for (const b of [bias, null]) {
      await agree(
        () => projections(matrix(x, K), matrix(weight, K), b && vector(b), C),
        projectionsTruth(x, weight, b, [C, N, M, K]),
      )
    }
    const one = N * M
    const dx = Float64Array.from(residual)
    for (let c = 0; c < C; c++) {
      const part = matmulTruth(
        dy.subarray(c * one, c * one + one),
        weight.subarray(c * M * K, (c + 1) * M * K),
        { batch: 1, M: N, N: K, K: M },
        false,
        false,
      )
      part.forEach((value, i) => (dx[i]! += value))
    }
    const back = (r: Float32Array | null) =>
      projectionsBackwardInput(uploadTensor<tf.Rank.R3>(dy, [C, N, M]), matrix(weight, K), r && matrix(r, K))
    await agree(() => back(residual), dx)
    await agree(
      () => back(null),
      dx.map((value, i) => value - residual[i]!),
    )
  })

  test('projections refuses a weight that C does not divide', () => {
    tf.tidy(() => {
      expect(() => projections(tf.zeros([2, 4]), tf.zeros([5, 4]), null, 3)).toThrow('cannot part 5 columns')
    })
  })
}

function declareHalf(): void {
  test.each([
    [33, 20, 24],
    [7, 5, 6],
    [4, 8, 2048],
  ])('a half-precision weight, %i rows, %i outputs, %i inputs', async (N, M, K) => {
    const [x, weight, bias, dy] = [random(N * K), random(M * K), random(M), random(N * M)]
    const words = toHalf(weight)
    const rounded = fromHalf(words)
    const half = () => matrix(words, K / 2)
    const want = matmulTruth(x, rounded, { batch: 1, M: N, N: M, K }, false, true)
    await agree(
      () => linear(matrix(x, K), half(), vector(bias)),
      want.map((value, i) => value + bias[i % M]!),
    )
    const exact = matmulTruth(x, weight, { batch: 1, M: N, N: M, K }, false, true)
    const bound = matmulTruth(x.map(Math.abs), weight.map(Math.abs), { batch: 1, M: N, N: M, K }, false, true)
    const got = await values(() => linear(matrix(x, K), half(), null))
    got.forEach((value, i) =>
      expect(Math.abs(value - exact[i]!)).toBeLessThan(2 ** -11 * 1.01 * bound[i]! + 1e-5),
    )
    await agree(
      () => linearBackwardInput(matrix(dy, M), half()),
      matmulTruth(dy, rounded, { batch: 1, M: N, N: K, K: M }, false, false),
    )
    await agree(
      () => projections(matrix(x, K), half(), vector(bias), M % 2 === 0 ? 2 : 1),
      projectionsTruth(x, rounded, bias, M % 2 === 0 ? [2, N, M / 2, K] : [1, N, M, K]),
    )
  })
}
