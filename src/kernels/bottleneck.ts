/**
 * The bottleneck of a sequential or parallel adapter (Houlsby et al. 2019, Pfeiffer et al. 2020; `Adapter` of `adapters`):
 * what stands around its thin products, in one dispatch each, so that LN(x) is never stored and an [N,H] matrix is read by
 * few programs: up to R = 64 those of bottleneckTiled.ts and bottleneckWeight.ts on GPUs. The reference is composed of
 * LayerNorm, matrix product and activation. A wider bottleneck takes it too, because its products are thick enough for
 * the programs of matmul.ts; and so does a software adapter, where barriers are dear.
 */
import * as tf from '@tensorflow/tfjs-core'
import { activation, type Activation } from './activations.ts'
import { scale } from './addScaled.ts'
import * as tiled from './bottleneckTiled.ts'
import {
  chunkRows,
  foldChunks,
  layoutOf,
  layoutValues,
  weightKernel,
  type BottleneckGradients,
} from './bottleneckWeight.ts'
import { layerNorm, layerNormBackward } from './layerNorm.ts'
import { matmul } from './matmul.ts'
import { runsOwn, runWorkgroups, softwareVariants, type Kernel } from './program.ts'
import { columnSum } from './sum.ts'
import { aligned, viewOf } from './views.ts'

export type { BottleneckGradients } from './bottleneckWeight.ts'

/** A LayerNorm over H features: weight [H], bias [H]. */
export interface Norm {
  weight: tf.Tensor1D
  bias: tf.Tensor1D
  eps: number
}

/**
 * x [N,H], weight [R,H], bias [R] -> pre = LN(x)·weightᵀ + bias and a = act(pre), [N,R] each; without a norm x itself is
 * projected. Throws when the weight does not fit x.
 */
export function bottleneckDown(
  x: tf.Tensor2D,
  norm: Norm | null,
  weight: tf.Tensor2D,
  bias: tf.Tensor1D,
  act: Activation,
): { pre: tf.Tensor2D; a: tf.Tensor2D } {
  const [N, H] = x.shape
  const R = widthOf('bottleneckDown', weight, 1, H)
  if (!fused(R)) {
    return tf.tidy(() => {
      const pre = matmul(norm ? layerNorm(x, norm.weight, norm.bias, norm.eps) : x, weight, false, true, {
        bias,
      })
      return { pre, a: activation(act, pre) }
    })
  }
  const kernel = once(`down ${!norm} ${act}`, () => tiled.downKernel(norm !== null, act))
  const inputs = [x, weight, bias, ...(norm ? [norm.weight, norm.bias] : [])]
  const aAt = aligned(N * R)
  const packed = runRowBlocks(kernel, inputs, { N, H, R, aAt, eps: norm?.eps ?? 0 }, [aAt + N * R])
  const [pre, a] = [viewOf<tf.Tensor2D>(packed, 0, [N, R]), viewOf<tf.Tensor2D>(packed, aAt, [N, R])]
  packed.dispose()
  return { pre, a }
}

/**
 * a [N,R], weight [H,R], bias [H], residual [N,H] -> y = LN(t) of t = residual + factor·(a·weightᵀ + bias), [N,H] each; t
 * only when it is `kept`. Throws when the weight does not fit a.
 */
export function bottleneckUp(
  a: tf.Tensor2D,
  weight: tf.Tensor2D,
  bias: tf.Tensor1D,
  factor: number,
  residual: tf.Tensor2D,
  norm: Norm,
  kept: boolean,
): { t: tf.Tensor2D | null; y: tf.Tensor2D } {
  const [N, R] = a.shape
  const H = widthOf('bottleneckUp', weight, 1, R)
  if (!fused(R)) {
    const t = matmul(a, weight, false, true, { bias, factor, residual })
    const y = layerNorm(t, norm.weight, norm.bias, norm.eps)
    if (kept) return { t, y }
    t.dispose()
    return { t: null, y }
  }
  const inputs = [a, weight, bias, residual, norm.weight, norm.bias]
  const yAt = kept ? aligned(N * H) : 0
  const uniforms = { N, H, R, yAt, factor, eps: norm.eps }
  const kernel = once('up forward', tiled.upKernel)
  if (!kept) return { t: null, y: runRowBlocks(kernel, inputs, uniforms, [N, H]) }
  const packed = runRowBlocks(kernel, inputs, uniforms, [yAt + N * H])
  const [t, y] = [viewOf<tf.Tensor2D>(packed, 0, [N, H]), viewOf<tf.Tensor2D>(packed, yAt, [N, H])]
  packed.dispose()
  return { t, y }
}

/**
 * The way back from y = LN(t), where t = … + factor·(act(pre)·weightUpᵀ + …): dy [N,H], t [N,H], weightUp [H,R], pre [N,R]
 * -> dt [N,H] and dpre = factor·(dt·weightUp)∘act'(pre) [N,R]. Without a norm dt is dy, and t is not read. Throws when the
 * weight does not fit, and on a norm without t.
 */
export function bottleneckUpBackward(
  dy: tf.Tensor2D,
  t: tf.Tensor2D | null,
  norm: Norm | null,
  weightUp: tf.Tensor2D,
  act: Activation,
  pre: tf.Tensor2D,
  factor: number,
): { dt: tf.Tensor2D; dpre: tf.Tensor2D } {
  const [N, H] = dy.shape
  const R = widthOf('bottleneckUpBackward', weightUp, 0, H)
  const behind = norm && inputOf('bottleneckUpBackward', t)
  if (!fused(R)) {
    return tf.tidy(() => {
      const dt = norm && behind ? layerNormBackward(dy, behind, norm.weight, norm.eps) : dy.clone()
      const dpre = matmul(dt, weightUp, false, false, { factor, through: { activation: act, pre } })
      return { dt, dpre }
    })
  }
  const kernel = once(`up ${!norm} ${act}`, () => tiled.upBackwardKernel(norm !== null, act))
  const uniforms = { N, H, R, eps: norm?.eps ?? 0, factor }
  if (!norm || !behind) {
    const dpre = runRowBlocks<tf.Tensor2D>(kernel, [dy, weightUp, pre], { ...uniforms, dpreAt: 0 }, [N, R])
    return { dt: dy.clone(), dpre }
  }
  const dpreAt = aligned(N * H)
  const inputs = [dy, weightUp, pre, behind, norm.weight]
  const packed = runRowBlocks(kernel, inputs, { ...uniforms, dpreAt }, [dpreAt + N * R])
  const [dt, dpre] = [viewOf<tf.Tensor2D>(packed, 0, [N, H]), viewOf<tf.Tensor2D>(packed, dpreAt, [N, R])]
  packed.dispose()
  return { dt, dpre }
}

/**
 * dpre [N,R], weightDown [R,H] -> the gradient at x [N,H] of dpre's product with LN(x), plus `residual` [N,H]. Without a
 * norm x is not read. Throws when the weight does not fit, and on a norm without x.
 */
export function bottleneckDownBackward(
  dpre: tf.Tensor2D,
  weightDown: tf.Tensor2D,
  x: tf.Tensor2D | null,
  norm: Norm | null,
  residual: tf.Tensor2D | null,
): tf.Tensor2D {
  const [N, R] = dpre.shape
  const H = widthOf('bottleneckDownBackward', weightDown, 0, R)
  const before = norm && inputOf('bottleneckDownBackward', x)
  if (!fused(R)) {
    if (!norm || !before) return matmul(dpre, weightDown, false, false, { residual })
    return tf.tidy(() => layerNormBackward(matmul(dpre, weightDown), before, norm.weight, norm.eps, residual))
  }
  const kernel = once(`dx ${!norm} ${!residual}`, () =>
    tiled.downBackwardKernel(norm !== null, residual !== null),
  )
  const inputs = [
    ...[dpre, weightDown],
    ...(norm && before ? [before, norm.weight] : []),
    ...(residual ? [residual] : []),
  ]
  return runRowBlocks(kernel, inputs, { N, H, R, eps: norm?.eps ?? 0 }, [N, H])
}

/** What the gradients of the weights are made of: LN(x)·downᵀ -> a, factor·a·upᵀ -> t; x, dt [N,H], a, dpre [N,R]. */
export interface BottleneckPass {
  x: tf.Tensor2D
  norm: Norm | null
  a: tf.Tensor2D
  dpre: tf.Tensor2D
  dt: tf.Tensor2D
  factor: number
}

/**
 * Gradients of down weight [R,H], down bias [R], up weight [H,R] and up bias [H]; LN(x) is made again. `outputs`: slots of
 * a flat gradient, in this order, that our kernels write into; null, or a null among them, is a new tensor. A slot is what
 * is returned for it, except on wasm and cpu and where a reference runs: there a tensor may be new.
 */
export function bottleneckWeightBackward(
  pass: BottleneckPass,
  outputs: readonly (tf.Tensor | null)[] | null,
): BottleneckGradients {
  const { x, norm, a, dpre, dt, factor } = pass
  const [N, H] = x.shape
  const R = a.shape[1]
  const targets = outputs ?? [null, null, null, null]
  if (!fused(R)) return composedGradients(pass, targets)
  const layout = layoutOf(H, R)
  const inputs = [dpre, a, dt, x, ...(norm ? [norm.weight, norm.bias] : [])]
  const uniforms = { ...layoutValues(layout), N, H, R, eps: norm?.eps ?? 0 }
  const { partial, chunks } = partialSums(inputs, uniforms, norm !== null)
  const gradients = foldChunks(partial, layout, { chunks, factor }, targets)
  partial.dispose()
  return gradients
}

interface Partial {
  partial: tf.Tensor
  chunks: number
}

type WeightUniforms = Record<'N' | 'H' | 'R' | 'size', number>

/** About 32 chunks: more would cost more memory than they save time. Two workgroups share the columns of a product. */
function partialSums(inputs: tf.Tensor[], uniforms: WeightUniforms, normed: boolean): Partial {
  const { N, H, size } = uniforms
  const { step, most } = chunkRows
  const rows = Math.min(most, Math.max(1, Math.ceil(N / 32 / step)) * step)
  const chunks = Math.ceil(N / rows)
  const groups = Math.min(2, Math.ceil(H / tiled.tile.columns))
  const kernel = once(`weight ${normed}`, () => weightKernel(normed))
  const values = { ...uniforms, rows, chunks, groups }
  return { partial: runWorkgroups(kernel, inputs, values, [chunks * size], chunks * 2 * groups), chunks }
}

function composedGradients(
  pass: BottleneckPass,
  outputs: readonly (tf.Tensor | null)[],
): BottleneckGradients {
  const { x, norm, a, dpre, dt, factor } = pass
  const [downWeight, downBias, upWeight, upBias] = outputs
  return tf.tidy((): BottleneckGradients => {
    const z = norm ? layerNorm(x, norm.weight, norm.bias, norm.eps) : x
    const scaled = tf.reshape<tf.Rank.R2>(scale(columnSum(dt), factor), [1, x.shape[1]])
    return [
      matmul(dpre, z, true, false, { output: downWeight }),
      columnSum(dpre, downBias),
      matmul(dt, a, true, false, { factor, output: upWeight }),
      columnSum(scaled, upBias),
    ]
  })
}

/** The widest bottleneck that our own programs run: what a tile of theirs holds. */
const widest = tiled.tile.columns

/** Elsewhere, and on software adapters, where the programs' barriers are dear, other families' kernels do the same. */
function fused(R: number): boolean {
  return runsOwn('bottleneck') && !softwareVariants('bottleneck') && R <= widest
}

const kernels = new Map<string, Kernel>()

function once(key: string, make: () => Kernel): Kernel {
  const kernel = kernels.get(key) ?? make()
  kernels.set(key, kernel)
  return kernel
}

/** Runs a program that takes rows in blocks; `uniforms.N` is their number. */
function runRowBlocks<T extends tf.Tensor>(
  kernel: Kernel,
  inputs: tf.Tensor[],
  uniforms: Record<string, number> & { N: number },
  shape: number[],
): T {
  return runWorkgroups(kernel, inputs, uniforms, shape, Math.ceil(uniforms.N / tiled.tile.rows))
}

/** The other dimension of a weight whose dimension `axis` must be `size`. */
function widthOf(op: string, { shape }: tf.Tensor2D, axis: 0 | 1, size: number): number {
  if (shape[axis] !== size)
    throw new Error(
      `${op} got a weight [${shape}] where its dimension ${axis} must be ${size}: pass one that fits.`,
    )
  return shape[1 - axis]!
}

function inputOf(op: string, input: tf.Tensor2D | null): tf.Tensor2D {
  if (!input) throw new Error(`${op} got a LayerNorm without its input: pass the matrix that was normed.`)
  return input
}
