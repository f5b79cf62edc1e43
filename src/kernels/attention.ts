/**
 * Multi-head attention (transformers `RobertaSelfAttention` without its projections), forward and backward, without the
 * scores ever being in memory: online softmax forward and recomputation backward, after FlashAttention (Dao et al. 2022).
 * What a query sees is one run of keys, so there is no mask, only how many keys are hidden before it and behind. As with
 * torch's finite masks, a query that sees no key attends to all of them alike, and its gradient goes to all of them.
 * attentionPlain.ts has the programs for software adapters, attentionTiled.ts those for GPUs; below is the reference,
 * which holds the scores.
 */
import * as tf from '@tensorflow/tfjs-core'
import { plainBackward, plainForward, type AttentionProgram } from './attentionPlain.ts'
import { tiledBackward, tiledForward } from './attentionTiled.ts'
import { dropout, dropValues, type Drop } from './dropout.ts'
import { matmul } from './matmul.ts'
import { runElements, runsOwn, runWorkgroups, softwareVariants, type Kernel } from './program.ts'
import { aligned, viewOf } from './views.ts'

/** Items, heads, and what scores are multiplied by. */
export interface AttentionSizes {
  B: number
  N: number
  scale: number
}

/** Keys or values: rows [B*T,N*D], or heads [B,N,T,D]. */
export type KeyValue = tf.Tensor2D | tf.Tensor4D

/** `lse` [B*N*S]: the logarithm of each query's sum of exponentials; -1e30 where it sees no key. */
export type Attended = {
  o: tf.Tensor2D
  lse: tf.Tensor1D
}

export type AttentionGradients<K extends KeyValue = KeyValue> = {
  dq: tf.Tensor2D
  dk: K
  dv: K
}

/** What a hidden score becomes: far below any score, and still finite after the maximum is subtracted. */
const hidden = -1e30

/** Head sizes beyond this take the reference: an invocation holds a whole row of a head in named variables. */
const largestHead = 128

/**
 * drop(softmax(q·kᵀ·scale))·v over the keys that padding leaves.
 * q [B*S,N*D], k and v [B*T,N*D] or [B,N,T,D], padding int32 [B,2] or, one row for each query, [B*S,2]: how many keys are
 * hidden before the run that is seen, and how many behind it -> o [B*S,N*D], lse [B*N*S]; `drop` null drops nothing, else
 * it acts on the probabilities as `dropout` on [B,N,S,T].
 * Throws when shapes disagree.
 */
export function attention<K extends KeyValue>(
  q: tf.Tensor2D,
  k: K,
  v: K,
  padding: tf.Tensor2D,
  sizes: AttentionSizes,
  drop: Drop | null,
): Attended {
  const call = describe(q, k, v, padding, sizes, drop)
  const { B, N, S, D } = call
  if (!runsOwn('attention') || D > largestHead) return tf.tidy(() => forwardReference(q, k, v, padding, call))
  const lseStart = aligned(q.size)
  const packed = run('forward', [q, k, v, padding], call, { lseStart }, lseStart + B * N * S)
  const o = viewOf<tf.Tensor2D>(packed, 0, q.shape)
  const lse = viewOf<tf.Tensor1D>(packed, lseStart, [B * N * S])
  packed.dispose()
  return { o, lse }
}

/**
 * Gradients of `attention` for dO [B*S,N*D], in the shapes of q, k and v, from its arguments and results; the
 * probabilities are made again. Throws when shapes disagree.
 */
export function attentionBackward<K extends KeyValue>(
  dO: tf.Tensor2D,
  q: tf.Tensor2D,
  k: K,
  v: K,
  o: tf.Tensor2D,
  lse: tf.Tensor1D,
  padding: tf.Tensor2D,
  sizes: AttentionSizes,
  drop: Drop | null,
): AttentionGradients<K> {
  const call = describe(q, k, v, padding, sizes, drop)
  const { D, unit } = call
  if (!runsOwn('attention') || D > largestHead) {
    return tf.tidy(() => backwardReference<K>(dO, q, k, v, padding, call))
  }
  const dkStart = aligned(q.size)
  const dvStart = dkStart + aligned(k.size)
  const starts = { dkStart: dkStart / unit, dvStart: dvStart / unit }
  const packed = run('backward', [dO, q, k, v, o, lse, padding], call, starts, dvStart + v.size)
  const dq = viewOf<tf.Tensor2D>(packed, 0, q.shape)
  const dk = viewOf<K>(packed, dkStart, k.shape)
  const dv = viewOf<K>(packed, dvStart, v.shape)
  packed.dispose()
  return { dq, dk, dv }
}

/** One call's sizes. `unit`: floats that a program reads at once; `queries`: rows of padding of an item, 1 or S. */
interface Call extends AttentionSizes {
  S: number
  T: number
  D: number
  queries: number
  unit: 1 | 4
  /** Whether keys and values are [B,N,T,D]. */
  heads: boolean
  drop: Drop | null
}

function describe(
  q: tf.Tensor2D,
  k: KeyValue,
  v: KeyValue,
  padding: tf.Tensor2D,
  { B, N, scale }: AttentionSizes,
  drop: Drop | null,
): Call {
  const [S, D] = [q.shape[0] / B, q.shape[1] / N]
  const heads = k.rank === 4
  const T = heads ? k.shape[2]! : k.shape[0] / B
  const wanted = heads ? [B, N, T, D] : [B * T, N * D]
  const [rows, columns] = padding.shape
  const fits =
    [S, D, T].every(Number.isInteger) &&
    [k, v].every(({ shape }) => tf.util.arraysEqual(shape, wanted)) &&
    columns === 2 &&
    (rows === B || rows === B * S)
  if (!fits) {
    const shapes = [q, k, v, padding].map(({ shape }) => `[${shape}]`)
    throw new Error(
      `attention of ${B} items and ${N} heads got q, k, v, padding of shapes ${shapes.join(', ')}, which disagree.`,
    )
  }
  const unit = D % 4 === 0 ? 4 : 1
  return { B, N, S, T, D, scale, queries: rows / B, unit, heads, drop: drop?.rate ? drop : null }
}

const programs = {
  plain: { forward: plainForward, backward: plainBackward },
  tiled: { forward: tiledForward, backward: tiledBackward },
}

const made = new Map<string, AttentionProgram>()

function program(direction: 'forward' | 'backward', { D, drop, unit }: Call): AttentionProgram {
  const variant = softwareVariants('attention') || unit === 1 ? 'plain' : 'tiled'
  const key = `${variant} ${direction} ${D} ${drop !== null}`
  const found = made.get(key) ?? programs[variant][direction](D, drop !== null)
  made.set(key, found)
  return found
}

/** Runs a program; `starts` are uniforms of its own. -> [size] */
function run(
  direction: 'forward' | 'backward',
  inputs: tf.Tensor[],
  call: Call,
  starts: Record<string, number>,
  size: number,
): tf.Tensor1D {
  const { B, N, S, T, D, scale, queries, unit, heads, drop } = call
  const { kernel, workgroups } = program(direction, call)
  const uniforms = {
    ...{ B, N, S, T, queries, scale },
    keyHead: (heads ? T * D : D) / unit,
    keyRow: (heads ? D : N * D) / unit,
    ...starts,
    ...(drop && dropValues(drop)),
  }
  return runWorkgroups(kernel, inputs, uniforms, [size], workgroups(B * N, S, T))
}

/** Probabilities [B,N,S,T] before dropout, and lse [B*N*S]. */
function probabilities(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  padding: tf.Tensor2D,
  { B, queries, T, scale }: Call,
): { p: tf.Tensor4D; lse: tf.Tensor1D } {
  const [before, behind] = tf.split(tf.reshape(padding, [B, 1, queries, 2]), 2, -1)
  const t = tf.range(0, T, 1, 'int32')
  const seen = tf.logicalAnd(tf.greaterEqual(t, before!), tf.less(tf.add(t, behind!), T)) // [B,1,queries,T]
  const scores = tf.where(seen, tf.mul(matmul(q, k, false, true), scale), hidden) // [B,N,S,T]
  const top = tf.max(scores, -1, true)
  const weights = tf.exp(tf.sub(scores, top))
  const total = tf.sum(weights, -1, true)
  return { p: tf.div(weights, total), lse: tf.reshape(tf.add(top, tf.log(total)), [-1]) }
}

function dropping({ drop }: Call): (x: tf.Tensor4D) => tf.Tensor4D {
  return (x) => (drop ? dropout(x, drop) : x)
}

/** Keys or values as heads, and heads as they came. */
function asHeads(x: KeyValue, { B, N }: Call): tf.Tensor4D {
  return x.rank === 4 ? (x as tf.Tensor4D) : splitHeads(x as tf.Tensor2D, B, N)
}

function asGiven<K extends KeyValue>(x: tf.Tensor4D, { heads }: Call): K {
  return (heads ? x : mergeHeads(x)) as K
}

function forwardReference(
  q: tf.Tensor2D,
  k: KeyValue,
  v: KeyValue,
  padding: tf.Tensor2D,
  call: Call,
): Attended {
  const { p, lse } = probabilities(asHeads(q, call), asHeads(k, call), padding, call)
  return { o: mergeHeads(matmul(dropping(call)(p), asHeads(v, call))), lse }
}

function backwardReference<K extends KeyValue>(
  dO: tf.Tensor2D,
  q: tf.Tensor2D,
  k: K,
  v: K,
  padding: tf.Tensor2D,
  call: Call,
): AttentionGradients<K> {
  const [dOut, Q, K, V] = [asHeads(dO, call), asHeads(q, call), asHeads(k, call), asHeads(v, call)]
  const drop = dropping(call)
  const { p } = probabilities(Q, K, padding, call)
  const dp = drop(matmul(dOut, V, false, true))
  const mean = tf.sum(tf.mul(p, dp), -1, true)
  const dScores = tf.mul<tf.Tensor4D>(call.scale, tf.mul(p, tf.sub(dp, mean)))
  return {
    dq: mergeHeads(matmul(dScores, K)),
    dk: asGiven<K>(matmul(dScores, Q, true, false), call),
    dv: asGiven<K>(matmul(drop(p), dOut, true, false), call),
  }
}

/** x [B*S,N*D] -> [B,N,S,D] */
export function splitHeads(x: tf.Tensor2D, B: number, N: number): tf.Tensor4D {
  const [rows, H] = x.shape
  const [S, D] = [rows / B, H / N]
  if (runsOwn('attention')) return swapMiddle(x, [B, S, N, D], [B, N, S, D])
  return tf.tidy(() => tf.transpose<tf.Tensor4D>(tf.reshape(x, [B, S, N, D]), [0, 2, 1, 3]))
}

/** x [B,N,S,D] -> [B*S,N*D] */
export function mergeHeads(x: tf.Tensor4D): tf.Tensor2D {
  const [B, N, S, D] = x.shape
  if (runsOwn('attention')) return swapMiddle(x, x.shape, [B * S, N * D])
  return tf.tidy(() => tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [B * S, N * D]))
}

/** x of sizes [b,i,j,d] -> the same elements in order [b,j,i,d], as a tensor of `shape`. */
function swapMiddle<T extends tf.Tensor>(x: tf.Tensor, sizes: number[], shape: number[]): T {
  const [, I = 1, J = 1, D = 1] = sizes
  const wide = D % 4 === 0
  const size = wide ? x.size / 4 : x.size
  return runElements(wide ? swapKernel4 : swapKernel, [x], { size, I, J, D: wide ? D / 4 : D }, shape, size)
}

const swapKernel: Kernel = {
  name: 'swapMiddle',
  inputs: ['x'],
  uniforms: { size: 'int32', I: 'int32', J: 'int32', D: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let d = index % uniforms.D;
  let i = index / uniforms.D % uniforms.I;
  let j = index / uniforms.D / uniforms.I % uniforms.J;
  let b = index / uniforms.D / uniforms.I / uniforms.J;
  result[index] = x[((b * uniforms.I + i) * uniforms.J + j) * uniforms.D + d];
}`,
}

const swapKernel4: Kernel = { ...swapKernel, name: 'swapMiddle vec4', components: 4 }
