/**
 * A small case of each family of kernels, of odd shapes: what every program of it computes, and where the family has no
 * reference that could say so, what must come out.
 */
import * as tf from '@tensorflow/tfjs-core'
import { activation, activationBackward, activations } from './activations.ts'
import { adamw, adamwState, type AdamWArguments } from './adamw.ts'
import { addScaled, scale } from './addScaled.ts'
import { attention, attentionBackward, mergeHeads, splitHeads } from './attention.ts'
import { deviceHas, emptyTensor, uploadTensor } from './backend.ts'
import {
  bottleneckDown,
  bottleneckDownBackward,
  bottleneckUp,
  bottleneckUpBackward,
  bottleneckWeightBackward,
} from './bottleneck.ts'
import { crossEntropy } from './crossEntropy.ts'
import { dropout, type Drop } from './dropout.ts'
import { embedding, embeddingNorm } from './embedding.ts'
import { firstToken, firstTokenBackward } from './firstToken.ts'
import { copyInto } from './copy.ts'
import { meanSigmoid, meanSigmoidBackward, timesGate, timesGateBackward } from './gate.ts'
import { eighths, values } from './deviceChecks.ts'
import { floatToHalf, fromHalf, halfToFloat, toHalf } from './half.ts'
import { placesOf } from './places.ts'
import { layerNorm, layerNormBackward, layerNormBackwardWeight } from './layerNorm.ts'
import { matmul, projections, projectionsBackwardInput } from './matmul.ts'
import { gateGradient, poolGradient, withoutPrefix, withPrefix } from './prefix.ts'
import { onGpu, type KernelFamily } from './program.ts'
import { segmentSum } from './segmentSum.ts'
import { columnSum, l2Norm, sum, sumOfSquares } from './sum.ts'
import { rowSums, vocabularyGradient } from './vocabulary.ts'

/** Scattered numbers in [-1, 1) times `factor`, other ones for another seed. */
const vector = (size: number, seed: number, factor = 1) =>
  uploadTensor<tf.Rank.R1>(
    values(size, seed).map((x) => x * factor),
    [size],
  )

const matrix = (rows: number, columns: number, seed: number) =>
  uploadTensor<tf.Rank.R2>(values(rows * columns, seed), [rows, columns])

const halves = (rows: number, columns: number, seed: number, packed: boolean, of = values) => {
  const words = toHalf(of(rows * columns, seed))
  return packed
    ? uploadTensor<tf.Rank.R2>(words, [rows, columns / 2])
    : uploadTensor<tf.Rank.R2>(fromHalf(words), [rows, columns])
}

/** n whole numbers below `end`, in no order. */
const indices = (size: number, end: number) =>
  uploadTensor<tf.Rank.R1>(
    Int32Array.from({ length: size }, (_, i) => (i * 7 + 3) % end),
    [size],
  )

/** Numbers that are halves as they stand. */
const exactHalves = values(202, 1).map((value) => Math.round(value * 1024) / 1024)

const drop = { rate: 0.2, seed: 5, offset: 9 }
const eps = 1e-5

/** One name of each function. */
const functions = activations.filter(
  (name) => !/^gelu_(accurate|fast|python.*|pytorch_tanh)$|^(leakyrelu|swish)$/.test(name),
)

/** `packed`: matrices in half precision are packed; otherwise they are floats of the same values. */
export const familyCases: Record<KernelFamily, (packed: boolean) => tf.Tensor[]> = {
  matmul: products,
  attention: () => [
    ...attentions(8, false, null),
    ...attentions(8, false, drop),
    ...attentions(6, true, drop),
    ...[8, 6].flatMap(behindPrefix),
    ...[8, 6].flatMap((D) => {
      const heads = splitHeads(matrix(10, 3 * D, D), 2, 3)
      return [heads, mergeHeads(heads)]
    }),
  ],
  bottleneck: bottlenecks,
  layerNorm: () =>
    [70, 7].flatMap((H) => {
      const [dy, x, residual] = [matrix(5, H, 1), matrix(5, H, 2), matrix(5, H, 3)]
      const [weight, bias] = [vector(H, 4), vector(H, 5)]
      const gradients = layerNormBackwardWeight(dy, x, eps)
      return [
        layerNorm(x, weight, bias, eps),
        layerNormBackward(dy, x, weight, eps),
        layerNormBackward(dy, x, weight, eps, residual),
        gradients.weight,
        gradients.bias,
      ]
    }),
  activation: () => {
    const [x, dy] = [vector(333, 1, 8), vector(333, 2)]
    return functions.flatMap((name) => [activation(name, x), activationBackward(name, dy, x)])
  },
  addScaled: () =>
    [15, 28].flatMap((size) => [
      addScaled(vector(size, 1), vector(size, 2), 0.3),
      scale(vector(size, 3), 0.7),
    ]),
  embedding: embeddings,
  firstToken: () => [firstToken(matrix(15, 7, 1), 3), firstTokenBackward(matrix(3, 7, 2), 5)],
  gate: () => {
    const [B, S, k] = [3, 71, 2]
    const [x, dy] = [matrix(B * S, k, 1), matrix(B * S, k, 2)]
    const gates = (k: number) => tf.reshape<tf.Rank.R3>(matrix(B, k, 3), [B, 1, k])
    return [
      meanSigmoid(x, B),
      meanSigmoidBackward(gates(k), x),
      timesGate(x, gates(1)),
      timesGateBackward(dy, x, B),
    ]
  },
  dropout: () => [dropout(vector(1001, 1), drop)],
  crossEntropy: () => {
    const few = crossEntropy(matrix(70, 5, 1), indices(70, 5), 0.1)
    const many = crossEntropy(matrix(9, 70, 2), indices(9, 70), 0)
    return [few.loss, few.dLogits, many.loss, many.dLogits]
  },
  vocabulary: () => {
    const [logits, labels, logTotal] = [matrix(9, 71, 1), indices(9, 99), vector(9, 2, 3)]
    const place = { labels, first: 20, size: 99 }
    return [
      rowSums(logits, labels, 20),
      vocabularyGradient(logits, { logTotal, ...place, label_smoothing: 0.1, weight: 0.5 }),
    ]
  },
  sum: () => {
    const long = vector(5001, 1)
    return [columnSum(matrix(150, 7, 2)), sum(long), sumOfSquares(long), l2Norm(long), sum(vector(33, 3))]
  },
  adamw: optimiserSteps,
  copy: () => {
    const target = vector(301, 2)
    copyInto(target, vector(301, 1))
    return [target]
  },
  half: () => [
    halfToFloat(uploadTensor<tf.Rank.R1>(toHalf(exactHalves), [exactHalves.length / 2])),
    halfToFloat(floatToHalf(uploadTensor<tf.Rank.R1>(exactHalves, [exactHalves.length]))),
  ],
  places: () => [placesOf(uploadTensor<tf.Rank.R2>(Int32Array.of(3, 1, 0, 4), [2, 2]), 11, 1)],
}

/** What comes out of families whose reference cannot be asked: it is no program of the device. */
export const familyWants: Partial<Record<KernelFamily, () => ArrayLike<number>[]>> = {
  copy: () => [values(301, 1)],
  half: () => [exactHalves, exactHalves],
  places: placesWanted,
}

/** With every part of an epilogue, batched and of vec4s, split along the inner dimension, in half precision, in blocks. */
function products(packed: boolean): tf.Tensor[] {
  const pre = matrix(37, 19, 3)
  const batch = (rows: number, columns: number, seed: number) =>
    uploadTensor<tf.Rank.R3>(values(3 * rows * columns, seed), [3, rows, columns])
  const kept = onGpu() ? emptyTensor<tf.Rank.R2>([8, 12]) : null
  return [
    matmul(matrix(37, 22, 1), matrix(19, 22, 2), false, true, {
      bias: vector(19, 4),
      factor: 0.5,
      dropout: drop,
      through: { activation: 'gelu', pre },
      residual: matrix(37, 19, 5),
    }),
    matmul(batch(36, 64, 6), batch(64, 48, 7), false, false, { bias: vector(48, 8) }),
    matmul(matrix(2052, 8, 11), matrix(2052, 12, 12), true, false, {
      factor: 0.5,
      activation: { name: 'gelu', pre: kept },
    }),
    ...(kept ? [kept] : []),
    matmul(matrix(21, 32, 15), halves(24, 32, 16, packed), false, true),
    ...(onGpu() && deviceHas('f16') ? productsInHalf(packed) : []),
    projections(matrix(37, 24, 17), matrix(60, 24, 18), vector(60, 19), 3),
    projectionsBackwardInput(batch(37, 20, 20), matrix(60, 24, 21), matrix(37, 24, 22)),
  ]
}

/** Multiplied in half precision, where nothing rounds. */
function productsInHalf(packed: boolean): tf.Tensor[] {
  const x = uploadTensor<tf.Rank.R2>(eighths(21 * 32, 23), [21, 32])
  return [
    matmul(x, halves(24, 32, 24, packed, eighths), false, true, { inHalf: true }),
    matmul(x, halves(32, 24, 25, false, eighths), false, false, { inHalf: true }),
  ]
}

/** Heads of D features; prefixed: keys and values as heads, longer than the queries, and padding for each query. */
function attentions(D: number, prefixed: boolean, drop: Drop | null): tf.Tensor[] {
  const [B, N, S] = [2, 2, 37]
  const T = prefixed ? S + 4 : S
  const rows = (seed: number) => matrix(B * S, N * D, seed)
  const keys = (seed: number) => tf.reshape<tf.Rank.R4>(matrix(B * N * T, D, seed), [B, N, T, D])
  const hiding = prefixed ? B * S : B
  const hidden = Array.from({ length: hiding }, (_, i) => [i % 3, T - 8 - ((i * 7) % 23)]).flat()
  const padding = uploadTensor<tf.Rank.R2>(Int32Array.from(hidden), [hiding, 2])
  const [q, dO] = [rows(1), rows(2)]
  const [k, v] = prefixed ? [keys(3), keys(4)] : [rows(3), rows(4)]
  const sizes = { B, N, scale: D ** -0.5 }
  const { o, lse } = attention<tf.Tensor2D | tf.Tensor4D>(q, k, v, padding, sizes, drop)
  const { dq, dk, dv } = attentionBackward<tf.Tensor2D | tf.Tensor4D>(
    dO,
    q,
    k,
    v,
    o,
    lse,
    padding,
    sizes,
    drop,
  )
  return [o, lse, dq, dk, dv]
}

/** Heads of D features behind a prefix, with a gate for keys and one for values, and all gradients. */
function behindPrefix(D: number): tf.Tensor[] {
  const [B, N, S, P, g] = [2, 3, 9, 4, 2]
  const H = N * D
  const gate = tf.reshape<tf.Rank.R3>(matrix(B, g, 4), [B, 1, g])
  const prefix = { pool: matrix(P, 4 * H, 1), first: 2 * H, gate }
  const own = tf.reshape<tf.Rank.R3>(matrix(2 * B * S, H, 2), [2, B * S, H])
  const { k, v } = withPrefix(own, prefix, B, N)
  return [
    ...[k, v],
    withoutPrefix(matrix(B * S, H, 3), { k, v }, P),
    poolGradient({ k, v }, prefix, matrix(P, 4 * H, 5)),
    gateGradient({ k, v }, prefix, g),
  ]
}

function bottlenecks(): tf.Tensor[] {
  const [N, H, R, factor] = [41, 37, 12, 0.5]
  const [x, dy, around] = [matrix(N, H, 1), matrix(N, H, 2), matrix(N, H, 3)]
  const [down, up, downBias, upBias] = [matrix(R, H, 4), matrix(H, R, 5), vector(R, 6), vector(H, 7)]
  const norm = { weight: vector(H, 8), bias: vector(H, 9), eps }
  const forward = [true, false].flatMap((kept) => {
    const { t, y } = bottleneckUp(matrix(N, R, 10), up, upBias, factor, x, norm, kept)
    return t ? [t, y] : [y]
  })
  const t = matrix(N, H, 11)
  const passes = [norm, null].flatMap((norm) => {
    const { pre, a } = bottleneckDown(x, norm, down, downBias, 'gelu')
    const { dt, dpre } = bottleneckUpBackward(dy, t, norm, up, 'gelu', pre, factor)
    const dx = bottleneckDownBackward(dpre, down, x, norm, norm ? around : null)
    return [...[pre, a, dt, dpre, dx], ...bottleneckWeightBackward({ x, norm, a, dpre, dt, factor }, null)]
  })
  return [...forward, ...passes]
}

/** Tables of one and of three blocks, in both precisions, and rows added up by id. */
function embeddings(packed: boolean): tf.Tensor[] {
  const [H, count] = [70, 29]
  const ids = indices(count, 17)
  const norm = { weight: vector(H, 1), bias: vector(H, 2), eps }
  const around = {
    positions: matrix(11, H, 3),
    position_ids: indices(count, 11),
    types: matrix(1, H, 4),
    norm,
  }
  const rounded = (rows: number, columns: number, seed: number) => halves(rows, columns, seed, packed)
  const tables = [matrix, rounded].flatMap((make) => [
    [make(17, H, 5)],
    [make(7, H, 6), make(7, H, 7), make(3, H, 8)],
  ])
  return [
    ...tables.flatMap((blocks) => [embedding(blocks, ids), embeddingNorm(blocks, ids, around)]),
    segmentSum(matrix(count, H, 9), ids, 17, 3),
  ]
}

/** Two steps of a packed state and one of vectors that lie apart, clipped, with a stretch that is left alone. */
function optimiserSteps(): tf.Tensor[] {
  const args: AdamWArguments = {
    ...{ learning_rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
    ...{ decayed: 120, max_norm: 1 },
  }
  const size = 301
  const first = adamw(adamwState(vector(size, 1)), vector(size, 2), { ...args, max_norm: 0 })
  const second = adamw(first.state, vector(size, 3), args, [
    { size: 100, step: 1 },
    { size: 50, step: null },
    { size: 151, step: 1 },
  ])
  const v = uploadTensor<tf.Rank.R1>(
    values(size, 6).map((x) => x * x),
    [size],
  )
  const apart = adamw({ p: vector(size, 4), m: vector(size, 5), v, step: 3 }, vector(size, 7), args)
  return [second, apart].flatMap(({ state: { p, m, v }, grad_norm }) => [p, m, v, grad_norm])
}

/** Two rows of 11 tokens: first token and length of each are 3, 0 and 2, 4; the padding token is 1. */
function placesWanted(): number[][] {
  const texts = [
    [3, 10],
    [0, 7],
  ] as const
  return [
    texts.flatMap(([from, to]) =>
      Array.from({ length: 11 }, (_, i) => (i >= from && i < to ? 2 + i - from : 1)),
    ),
  ]
}
