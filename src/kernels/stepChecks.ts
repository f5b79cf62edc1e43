/**
 * What a run computes beside the forward and backward passes of the self-test's model, so that every family of kernels
 * has been asked for right numbers before anything is trained: dropout, the optimiser, the loss over a vocabulary, half
 * precision and copies, each against the same worked out here in double precision.
 */
import * as tf from '@tensorflow/tfjs-core'
import { adamw, adamwState } from './adamw.ts'
import { uploadTensor } from './backend.ts'
import { copyInto } from './copy.ts'
import { meanSigmoid, timesGate } from './gate.ts'
import { compared, eighths, values, type DeviceCheck } from './deviceChecks.ts'
import { dropout, dropoutMask } from './dropout.ts'
import { floatToHalf, halfToFloat, packs, toHalf } from './half.ts'
import { linear } from './linear.ts'
import { multipliesInHalf } from './matmul.ts'
import { onGpu } from './program.ts'
import { rowSums, vocabularyGradient } from './vocabulary.ts'

/** They take well under a second on a GPU. */
export function stepChecks(): DeviceCheck[] {
  const everywhere = [knownMask(), optimiserStep(), vocabularyLoss(), gates()]
  return [
    ...everywhere,
    ...(packs() ? [halves()] : []),
    ...(multipliesInHalf() ? [productsInHalf()] : []),
    ...(onGpu() ? [copied()] : []),
  ]
}

const vector = (x: Float32Array) => uploadTensor<tf.Rank.R1>(x, [x.length])

function knownMask(): DeviceCheck {
  const x = values(1001, 1)
  return compared(
    'dropout by a known mask',
    1e-6,
    () => [dropout(vector(x), { rate: 0.3, seed: 5, offset: 9 })],
    () => {
      const mask = dropoutMask(x.length, 0.3, 5, 9)
      return [x.map((value, i) => value * mask[i]!)]
    },
  )
}

/** The first step from p along g, clipped, with decay of the first elements: torch's AdamW written out. */
function optimiserStep(): DeviceCheck {
  const [size, decayed, lr, beta1, beta2, eps, max_norm] = [301, 120, 0.1, 0.9, 0.99, 1e-6, 1]
  const [p, g] = [values(size, 1), values(size, 2)]
  const args = { learning_rate: lr, beta1, beta2, eps, weight_decay: 0.1, decayed, max_norm }
  const make = () => {
    const { state, grad_norm } = adamw(adamwState(vector(p)), vector(g), args)
    return [state.p, state.m, state.v, grad_norm]
  }
  const want = () => {
    const norm = Math.hypot(...g)
    const clipped = Float64Array.from(g, (value) => (value * max_norm) / (norm + 1e-6))
    const m = clipped.map((value) => (1 - beta1) * value)
    const v = clipped.map((value) => (1 - beta2) * value * value)
    const moved = Float64Array.from(p, (value, i) => {
      const kept = i < decayed ? value * (1 - lr * args.weight_decay) : value
      return kept - ((lr / (1 - beta1)) * m[i]!) / (Math.sqrt(v[i]! / (1 - beta2)) + eps)
    })
    return [moved, m, v, [norm]]
  }
  return compared('a step of AdamW', 1e-5, make, want)
}

/** Rows wider than a workgroup, labels inside the block and beyond it. */
function vocabularyLoss(): DeviceCheck {
  const [rows, width, first, size, smoothing] = [3, 150, 20, 199, 0.1]
  const x = values(rows * width, 1)
  const labels = [25, 169, 180]
  const logTotal = [5, 6, 7]
  const place = { first, size, label_smoothing: smoothing, weight: 0.5 }
  const make = () => {
    const logits = uploadTensor<tf.Rank.R2>(x, [rows, width])
    const own = uploadTensor<tf.Rank.R1>(Int32Array.from(labels), [rows])
    const total = vector(Float32Array.from(logTotal))
    return [
      rowSums(logits, own, first),
      vocabularyGradient(logits, { logTotal: total, labels: own, ...place }),
    ]
  }
  const want = () => [
    labels.flatMap((label, row) => {
      const own = [...x.subarray(row * width, (row + 1) * width)]
      const top = Math.max(...own)
      const mass = own.reduce((sum, value) => sum + Math.exp(value - top), 0)
      return [top, mass, own[label - first] ?? 0, own.reduce((sum, value) => sum + value, 0)]
    }),
    Float64Array.from(x, (value, at) => {
      const row = Math.floor(at / width)
      const hit = (at % width) + first === labels[row] ? 1 - smoothing : 0
      return 0.5 * (Math.exp(value - logTotal[row]!) - hit - smoothing / size)
    }),
  ]
  return compared('loss over a vocabulary in blocks', 1e-4, make, want)
}

/** Of texts longer than a workgroup. */
function gates(): DeviceCheck {
  const [B, S] = [2, 71]
  const x = values(B * S, 7)
  const make = () => {
    const rows = uploadTensor<tf.Rank.R2>(x, [B * S, 1])
    return [timesGate(rows, meanSigmoid(rows, B))]
  }
  const want = () => {
    const means = Array.from({ length: B }, (_, b) =>
      x.subarray(b * S, (b + 1) * S).reduce((sum, value) => sum + 1 / (1 + Math.exp(-value)) / S, 0),
    )
    return [Float64Array.from(x, (value, i) => value * means[Math.floor(i / S)]!)]
  }
  return compared('a gate', 1e-5, make, want)
}

/** Numbers that are halves as they stand, so that nothing rounds. */
function halves(): DeviceCheck {
  const x = values(202, 3).map((value) => Math.round(value * 1024) / 1024)
  const make = () => [
    halfToFloat(uploadTensor<tf.Rank.R1>(toHalf(x), [x.length / 2])),
    halfToFloat(floatToHalf(vector(x))),
  ]
  return compared('half precision', 0, make, () => [x, x])
}

/** Sums of four products are made in half precision, so that nothing rounds here. */
function productsInHalf(): DeviceCheck {
  const [N, M, K] = [21, 24, 32]
  const [x, weight] = [eighths(N * K, 5), eighths(M * K, 6)]
  const make = () => {
    const rows = uploadTensor<tf.Rank.R2>(x, [N, K])
    const weights = [
      uploadTensor<tf.Rank.R2>(weight, [M, K]),
      ...(packs() ? [uploadTensor<tf.Rank.R2>(toHalf(weight), [M, K / 2])] : []),
    ]
    return weights.map((one) => linear(rows, one, null, { inHalf: true }))
  }
  const want = () => {
    const y = Float64Array.from({ length: N * M }, (_, at) => {
      const [n, m] = [Math.floor(at / M), at % M]
      return x.subarray(n * K, (n + 1) * K).reduce((sum, one, k) => sum + one * weight[m * K + k]!, 0)
    })
    return packs() ? [y, y] : [y]
  }
  return compared('products in half precision', 1e-6, make, want)
}

function copied(): DeviceCheck {
  const x = values(301, 4)
  const make = () => {
    const target = vector(new Float32Array(x.length))
    copyInto(target, vector(x))
    return [target]
  }
  return compared('a copy', 0, make, () => [x])
}
