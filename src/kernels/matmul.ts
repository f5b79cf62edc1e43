/**
 * Matrix products, plain, batched and of blocks side by side, with an epilogue on what they store, exact on every shape
 * and in one fixed order of summation on one device. GPUs run matmulTiled and software adapters matmulPlain; a long
 * inner dimension with a small result is split there over partial results. The reference is tfjs's product with the
 * epilogue as operations after it: on wasm transposes are made first, because its fast routine takes none and the other
 * one is over ten times slower.
 */
import * as tf from '@tensorflow/tfjs-core'
import { activation, activationBackward } from './activations.ts'
import { copyInto } from './copy.ts'
import { dropout } from './dropout.ts'
import { assertFits, endingOf, type Ending, type Epilogue } from './epilogue.ts'
import { halfToFloat } from './half.ts'
import { foldSplits, type Product } from './matmulForm.ts'
import { planPlain, runPlain } from './matmulPlain.ts'
import { planTiled, runTiled } from './matmulTiled.ts'
import { hasExtension, onGpu, runsOwn, softwareVariants } from './program.ts'

export type { Epilogue } from './epilogue.ts'

/** How a product is made, and what becomes of it. */
export interface Manner extends Epilogue {
  /**
   * Elements are multiplied in half precision, and added in float32, where `multipliesInHalf`: for a matrix b that is not
   * trained, and a not transposed. matmulTiled.ts says within what range.
   */
  inHalf?: boolean
}

/** Whether the open device can multiply in half precision: with shader-f16 and the kernels for GPUs. */
export function multipliesInHalf(): boolean {
  return runsOwn('matmul') && hasExtension('f16', 'matmul')
}

/**
 * a [...,M,K] (or [...,K,M] with transposeA), b [...,K,N] (or [...,N,K] with transposeB) -> [...,M,N]. An int32 `b` holds
 * half precision: two values a word along its last dimension, see half.ts. Throws when ranks, leading dimensions or inner
 * dimensions differ, and when an operand of the epilogue does not fit.
 */
export function matmul<T extends tf.Tensor>(
  a: T,
  b: T,
  transposeA = false,
  transposeB = false,
  { inHalf = false, ...epilogue }: Manner = {},
): T {
  const product = productOf(a, b, transposeA, transposeB)
  const { M, N } = product
  const shape = [...a.shape.slice(0, -2), M, N]
  if (runsOwn('matmul')) return run(product, epilogue, shape, inHalf)
  return finish(epilogue, () => hostProduct<T>(a, floats(b), transposeA, transposeB))
}

/**
 * C linear layers on one x [N,K], whose weights [M,K] and biases [M] lie under one another: weight [C·M,K] (or half
 * precision, [C·M,K/2]), bias [C·M] -> [C,N,M]. Throws when they do not fit.
 */
export function projections(
  x: tf.Tensor2D,
  weight: tf.Tensor2D,
  bias: tf.Tensor1D | null,
  C: number,
  inHalf = false,
): tf.Tensor3D {
  const product = productOf(x, weight, false, true)
  const { M: N, N: columns } = product
  const M = columns / C
  if (!Number.isInteger(M)) throw new Error(`projections cannot part ${columns} columns into ${C}.`)
  if (runsOwn('matmul')) {
    const items = { ...product, batch: C, N: M, sharedA: true, biasByItem: true }
    return run(items, { bias }, [C, N, M], inHalf)
  }
  return tf.tidy(() => {
    const y = finish({ bias }, () => hostProduct(x, floats(weight), false, true))
    return tf.transpose<tf.Tensor3D>(tf.reshape(y, [N, C, M]), [1, 0, 2])
  })
}

/** dy [C,N,M], weight [C·M,K] -> dx [N,K], plus `residual`: the way back through `projections` to x. */
export function projectionsBackwardInput(
  dy: tf.Tensor3D,
  weight: tf.Tensor2D,
  residual: tf.Tensor2D | null,
  inHalf = false,
): tf.Tensor2D {
  const [C, N, M] = dy.shape
  const product = productOf(dy, weight, false, false, [N, C * M])
  if (runsOwn('matmul')) return run({ ...product, block: M }, { residual }, [N, product.N], inHalf)
  return tf.tidy(() => {
    const wide = tf.reshape(tf.transpose(dy, [1, 0, 2]), [N, C * M]) as tf.Tensor2D
    return finish({ residual }, () => hostProduct(wide, floats(weight), false, false))
  })
}

/** The product of a, seen as a tensor of `aShape`, and b. */
function productOf(
  a: tf.Tensor,
  b: tf.Tensor,
  transposeA: boolean,
  transposeB: boolean,
  aShape: number[] = a.shape,
): Product {
  const [aRows = 0, aColumns = 0] = aShape.slice(-2)
  const [bRows = 0, bWidth = 0] = b.shape.slice(-2)
  const bColumns = b.dtype === 'int32' ? 2 * bWidth : bWidth
  const [M, K] = transposeA ? [aColumns, aRows] : [aRows, aColumns]
  const [inner, N] = transposeB ? [bColumns, bRows] : [bRows, bColumns]
  const leading = aShape.slice(0, -2)
  if (aShape.length < 2 || K !== inner || !tf.util.arraysEqual(leading, b.shape.slice(0, -2))) {
    const [left, right] = [`[${aShape}]${transposeA ? 'ᵀ' : ''}`, `[${b.shape}]${transposeB ? 'ᵀ' : ''}`]
    throw new Error(`matmul cannot multiply ${left} by ${right}: inner and leading dimensions must agree.`)
  }
  const batch = tf.util.sizeFromShape(leading)
  const lies = { sharedA: false, biasByItem: false, block: null, inHalf: false }
  return { a, b, transposeA, transposeB, batch, M, N, K, ...lies }
}

/** One dispatch, one more where the inner dimension is split, and one more for the scales of half precision. */
function run<T extends tf.Tensor>(
  whole: Product,
  epilogue: Epilogue,
  shape: number[],
  wantsHalf: boolean,
): T {
  const { batch, M, N, biasByItem, transposeA, sharedA } = whole
  const inHalf = wantsHalf && multipliesInHalf() && !transposeA && (batch === 1 || sharedA)
  const product = { ...whole, inHalf }
  const ending = endingOf(epilogue, batch * M * N, biasByItem ? batch * N : N)
  const plan = softwareVariants('matmul') ? planPlain(product) : planTiled(product)
  const go = <T extends tf.Tensor>(ending: Ending, shape: number[]) =>
    'wide' in plan ? runPlain<T>(product, plan, ending, shape) : runTiled<T>(product, plan, ending, shape)
  if (plan.splits === 1) return go(ending, shape)
  const partials = go(endingOf({}, 0, 0), [plan.splits, batch, M, N])
  const result = foldSplits<T>(partials, product, plan.splits, ending, shape)
  partials.dispose()
  return result
}

/** The epilogue as operations of their own. */
function finish<T extends tf.Tensor>(epilogue: Epilogue, product: () => T): T {
  const { bias, factor = 1, activation: act, dropout: drop, through, residual, output } = epilogue
  return tf.tidy(() => {
    let y: T = product()
    assertFits(epilogue, y.size, y.shape.at(-1) ?? 0)
    if (bias) y = tf.add<T>(y, bias)
    if (factor !== 1) y = tf.mul<T>(y, factor)
    if (act?.pre) copyInto(act.pre, y)
    if (act) y = activation(act.name, y)
    if (drop) y = dropout(y, drop)
    if (through) y = activationBackward(through.activation, y, tf.reshape(through.pre, y.shape) as T)
    if (residual) y = tf.add<T>(y, tf.reshape(residual, y.shape))
    if (!output || !onGpu()) return y
    copyInto(output, y)
    return output as T
  })
}

function hostProduct<T extends tf.Tensor>(a: T, b: T, transposeA: boolean, transposeB: boolean): T {
  if (tf.getBackend() !== 'wasm' || a.rank > 2) return tf.matMul<T>(a, b, transposeA, transposeB)
  return tf.tidy(() => tf.matMul<T>(transposeA ? tf.transpose(a) : a, transposeB ? tf.transpose(b) : b))
}

/** b itself, or what its half-precision words stand for; called within a tidy. */
function floats<T extends tf.Tensor>(b: T): T {
  return b.dtype === 'int32' ? halfToFloat<T>(b) : b
}
