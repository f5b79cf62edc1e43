/**
 * Steps of the walk that several operations share one kernel in, with their gradients: an activation that is not kept,
 * with the products before and after it, the three projections on one reading of x, with what LoRA adds to them,
 * attention without its scores, and a whole bottleneck adapter. Each is equal to the plain operations of ops.ts one
 * after another.
 */
import * as tf from '@tensorflow/tfjs-core'
import { activation, type Activation } from '../kernels/activations.ts'
import { attention, attentionBackward, type AttentionSizes } from '../kernels/attention.ts'
import {
  bottleneckDown,
  bottleneckDownBackward,
  bottleneckUp,
  bottleneckUpBackward,
  bottleneckWeightBackward,
} from '../kernels/bottleneck.ts'
import { dropout, type Drop } from '../kernels/dropout.ts'
import { timesGate, timesGateBackward } from '../kernels/gate.ts'
import {
  linear,
  linearActivated,
  linearBackwardBias,
  linearBackwardInput,
  linearBackwardWeight,
} from '../kernels/linear.ts'
import { matmul, projections, projectionsBackwardInput } from '../kernels/matmul.ts'
import { gateGradient, poolGradient, withoutPrefix, withPrefix } from '../kernels/prefix.ts'
import { joined, viewOf } from '../kernels/views.ts'
import type { FrozenLinear, FrozenNorm, LowRank } from '../methods/method.ts'
import type { Heads, Matrix, Vector } from './ops.ts'
import { Var, type Tape } from './tape.ts'

/** What a product goes through before it is written: dropout, then a residual is added. */
export interface After {
  drop: Drop | null
  residual: Matrix | null
}

/**
 * act(u)·weightᵀ + bias, through `after`: u [N,K] -> [N,M]. Only u is kept; on the way down its memory is written over
 * where nothing else reads it.
 */
export function activatedLinear(
  tape: Tape,
  name: Activation,
  u: Matrix,
  weight: Matrix,
  bias: Vector | null,
  { drop, residual }: After,
): Matrix {
  const h = new Var(activation(name, u.tensor), false, false)
  const y = linear(h.tensor, weight.tensor, bias?.tensor ?? null, {
    dropout: drop,
    residual: residual?.tensor ?? null,
    inHalf: tape.inHalf(weight),
  })
  const inputs: Var[] = [u, weight, ...(bias ? [bias] : []), ...(residual ? [residual] : [])]
  const keeps = weight.trained && h.tensor.size <= keptUpTo
  const result = tape.record(y, inputs, keeps ? [u, h] : [u], (dy) => {
    const d = drop ? dropout(dy, drop) : dy
    const own = backwardOwn(tape, d, () => (keeps ? h.tensor : activation(name, u.tensor)), weight, bias)
    const du = u.trained ? backwardActivated(tape, d, weight, name, u) : null
    return [du, ...(bias ? own : own.slice(0, 1)), dy]
  })
  tape.release(h)
  return result
}

/**
 * down(act(up(x))), through `after`: x [N,K] -> [N,M]. One product gives u = up(x) and h = act(u); h goes after the other
 * one, as in `activatedLinear`, and u is made only where the way down reads it.
 */
export function feedForward(
  tape: Tape,
  name: Activation,
  x: Matrix,
  up: FrozenLinear,
  down: FrozenLinear,
  { drop, residual }: After,
): Matrix {
  const through = [x, up.weight, up.bias]
  const learns = tape.holds([down.weight])
  const keepsH = learns && x.shape[0] * up.weight.shape[0] <= keptUpTo
  const keepsU = tape.holds(through) || (learns && !keepsH)
  const upInHalf = tape.inHalf(up.weight)
  const made = linearActivated(name, x.tensor, up.weight.tensor, up.bias.tensor, keepsU, upInHalf)
  const [u, h] = [made.u, made.h].map((tensor) => tensor && new Var(tensor, false, false))
  const y = linear(made.h, down.weight.tensor, down.bias.tensor, {
    dropout: drop,
    residual: residual?.tensor ?? null,
    inHalf: tape.inHalf(down.weight),
  })
  const same = residual === x
  const inputs: Var[] = [...through, down.weight, down.bias, ...(residual && !same ? [residual] : [])]
  const saved = [keepsU && u, keepsH && h, up.weight.trained && x].filter((one) => !!one)
  const result = tape.record(y, inputs, saved, (dy) => {
    const d = drop ? dropout(dy, drop) : dy
    const again = () => (keepsH ? h!.tensor : activation(name, u!.tensor))
    const ofDown = backwardOwn(tape, d, again, down.weight, down.bias)
    if (!through.some(({ trained }) => trained)) return [null, null, null, ...ofDown, dy]
    const du = backwardActivated(tape, d, down.weight, name, u!)
    if (drop) d.dispose()
    const ofUp = backwardOwn(tape, du, () => x.tensor, up.weight, up.bias)
    const more = same ? dy : tape.take(x)
    const dx = x.trained
      ? linearBackwardInput(du, up.weight.tensor, { residual: more, inHalf: upInHalf })
      : null
    return [dx, ...ofUp, ...ofDown, dy]
  })
  for (const one of [u, h]) if (one) tape.release(one)
  return result
}

/** The gradients of a linear layer's own weight and bias from what came to its result, and its input. */
function backwardOwn(
  tape: Tape,
  dy: tf.Tensor2D,
  x: () => tf.Tensor2D,
  weight: Matrix,
  bias: Vector | null,
): [tf.Tensor2D | null, tf.Tensor1D | null] {
  const dWeight = weight.trained ? tf.tidy(() => linearBackwardWeight(dy, x(), tape.slotOf(weight))) : null
  return [dWeight, bias?.trained ? linearBackwardBias(dy, tape.slotOf(bias)) : null]
}

/** The gradient of u from that of act(u)·weightᵀ, over u itself where nothing else reads it. */
function backwardActivated(
  tape: Tape,
  dy: tf.Tensor2D,
  weight: Matrix,
  name: Activation,
  u: Matrix,
): tf.Tensor2D {
  const output = tape.isLastReader(u) ? u.tensor : null
  const through = { activation: name, pre: u.tensor }
  return matmul(dy, weight.tensor, false, false, { through, output, inHalf: tape.inHalf(weight) })
}

/** Elements of an activation that are kept for a weight's gradient; larger ones are made again. */
const keptUpTo = 1 << 20

/** A low-rank update that stands on a linear layer, and the gate of each text, [B,1,1]. */
export type Update = Omit<LowRank, 'gate'> & { gate: Var<tf.Tensor3D> | null }

/** Whether the weights of linear layers lie side by side in memory, and their biases; on wasm and cpu they do not. */
export function areSideBySide(parts: FrozenLinear[]): boolean {
  return tf.tidy(() => weightsOf(parts) !== null && biasesOf(parts) !== null)
}

const weightsOf = (parts: FrozenLinear[]) => joined(parts.map(({ weight }) => weight.tensor))
const biasesOf = (parts: FrozenLinear[]) => joined(parts.map(({ bias }) => bias.tensor))

/** Such linear layers on one x [N,K], each with the update that stands on it, if any -> [C,N,M]. */
export function projected(
  tape: Tape,
  x: Matrix,
  parts: FrozenLinear[],
  updates: (Update | null)[],
): Var<tf.Tensor3D> {
  const C = parts.length
  const [N, M] = [x.shape[0], parts[0]!.weight.shape[0]]
  const weight = () => tf.reshape<tf.Rank.R2>(weightsOf(parts)!, [C * M, -1])
  const inHalf = parts.every(({ weight }) => tape.inHalf(weight))
  const y = projections(x.tensor, weight(), biasesOf(parts), C, inHalf)
  const partOf = (whole: tf.Tensor3D, i: number) => viewOf<tf.Tensor2D>(whole, i * N * M, [N, M])
  const changes = updates.flatMap((update, i) => (update ? [changed(x, update, i, partOf(y, i))] : []))
  const leaves = parts.flatMap(({ weight, bias }) => [weight, bias])
  const learned = changes.flatMap(({ A, B, gate }): Var[] => [A, B, ...(gate ? [gate] : [])])
  const inputs = [x, ...leaves, ...learned]
  const held = changes.flatMap(({ low, gate }): Var[] => [low, ...(gate ? [gate] : [])])
  const reads = inputs.slice(1).some(({ trained }) => trained) ? [x, ...held] : []
  const result = tape.record(y, inputs, reads, (dy) => {
    const own = leaves.map((leaf, i) => {
      if (!leaf.trained) return null
      const slot = tape.slotOf(leaf)
      return i % 2 === 0
        ? linearBackwardWeight(partOf(dy, i >> 1), x.tensor, slot)
        : linearBackwardBias(partOf(dy, i >> 1), slot)
    })
    const dx = x.trained ? projectionsBackwardInput(dy, weight(), tape.take(x), inHalf) : null
    const ofChanges = changes.flatMap((change) => changedBackward(tape, partOf(dy, change.at), x, change, dx))
    return [dx, ...own, ...ofChanges]
  })
  for (const { low } of changes) tape.release(low)
  return result
}

/** An update of projection `at`, and low = factor·A·x before the gate: [N,r]. */
interface Change extends Update {
  at: number
  low: Matrix
}

/** Adds an update of `x` to `y` [N,M], in place. */
function changed(x: Matrix, update: Update, at: number, y: tf.Tensor2D): Change {
  const { A, B, factor, gate } = update
  const low = linear(x.tensor, A.tensor, null, { factor })
  const through = gate ? timesGate(low, gate.tensor) : low
  linear(through, B.tensor, null, { residual: y, output: y })
  y.dispose()
  return { ...update, at, low: new Var(low, false, false) }
}

/** dy [N,M] -> gradients of A, B and the gate; that of x is added to `dx`, in place. */
function changedBackward(
  tape: Tape,
  dy: tf.Tensor2D,
  x: Matrix,
  { A, B, factor, low, gate }: Change,
  dx: tf.Tensor2D | null,
): (tf.Tensor | null)[] {
  const through = gate ? timesGate(low.tensor, gate.tensor) : low.tensor
  const dB = B.trained ? linearBackwardWeight(dy, through, tape.slotOf(B)) : null
  const dThrough = linearBackwardInput(dy, B.tensor, { factor })
  const dLow = gate ? timesGate(dThrough, gate.tensor) : dThrough
  if (dx) linearBackwardInput(dLow, A.tensor, { residual: dx, output: dx })
  const dA = A.trained ? linearBackwardWeight(dLow, x.tensor, tape.slotOf(A)) : null
  if (!gate) return [dA, dB]
  return [dA, dB, gate.trained ? timesGateBackward(dThrough, low.tensor, gate.shape[0]) : null]
}

/** softmax(q·kᵀ·scale)·v of the projections [3,B·S,H] of one x, over the keys that padding leaves: [B·S,H]. */
export function selfAttended(
  tape: Tape,
  qkv: Var<tf.Tensor3D>,
  padding: Matrix,
  sizes: AttentionSizes,
  drop: Drop | null,
): Matrix {
  const [, rows, H] = qkv.shape
  const parts = () => [0, 1, 2].map((c) => viewOf<tf.Tensor2D>(qkv.tensor, c * rows * H, [rows, H]))
  const [q, k, v] = parts()
  const { o, lse } = attention(q!, k!, v!, padding.tensor, sizes, drop)
  const kept = new Var(lse, false, false)
  const result: Matrix = tape.record(o, [qkv], [qkv, 'output', kept, padding], (dy) => {
    const [q, k, v] = parts()
    const of = [result.tensor, kept.tensor, padding.tensor] as const
    const { dq, dk, dv } = attentionBackward(dy, q!, k!, v!, ...of, sizes, drop)
    return [tf.reshape(joined([dq, dk, dv]) ?? tf.concat([dq, dk, dv]), qkv.shape)]
  })
  tape.release(kept)
  return result
}

/** The same for q [B·S,H] and k, v that come apart: as [B·T,H], or as heads [B,N,T,D]. */
export function attended<K extends Matrix | Heads>(
  tape: Tape,
  q: Matrix,
  k: K,
  v: K,
  padding: Matrix,
  sizes: AttentionSizes,
  drop: Drop | null,
): Matrix {
  const { o, lse } = attention(q.tensor, k.tensor, v.tensor, padding.tensor, sizes, drop)
  const kept = new Var(lse, false, false)
  const result: Matrix = tape.record(o, [q, k, v], [q, k, v, 'output', kept, padding], (dy) => {
    const of = [q.tensor, k.tensor, v.tensor, result.tensor, kept.tensor, padding.tensor] as const
    const { dq, dk, dv } = attentionBackward(dy, ...of, sizes, drop)
    return [dq, dk, dv]
  })
  tape.release(kept)
  return result
}

/** Learned keys and values of one layer, which every text sees before its own: see kernels/prefix.ts. */
export interface Prefixed {
  pool: Matrix // [P,W]
  first: number
  gate: Var<tf.Tensor3D> | null // [B,1,1], or [B,1,2]
}

/** `selfAttended` behind a prefix. Keys and values with it are not kept: they are joined again on the way down. */
export function prefixAttended(
  tape: Tape,
  qkv: Var<tf.Tensor3D>,
  { pool, first, gate }: Prefixed,
  padding: Matrix,
  sizes: AttentionSizes,
  drop: Drop | null,
): Matrix {
  const [, rows, H] = qkv.shape
  const prefix = () => ({ pool: pool.tensor, first, gate: gate?.tensor ?? null })
  const q = () => viewOf<tf.Tensor2D>(qkv.tensor, 0, [rows, H])
  const keysValues = () => {
    const own = viewOf<tf.Tensor3D>(qkv.tensor, rows * H, [2, rows, H])
    return withPrefix(own, prefix(), sizes.B, sizes.N)
  }
  const { k, v } = keysValues()
  const { o, lse } = attention(q(), k, v, padding.tensor, sizes, drop)
  tf.dispose([k, v])
  const kept = new Var(lse, false, false)
  const inputs = [qkv, pool, ...(gate ? [gate] : [])]
  const saved = [qkv, 'output', kept, padding, ...(gate ? [gate] : [])] as const
  const result: Matrix = tape.record(o, inputs, [...saved], (dy) => {
    const { k, v } = keysValues()
    const of = [result.tensor, kept.tensor, padding.tensor] as const
    const { dq, dk, dv } = attentionBackward(dy, q(), k, v, ...of, sizes, drop)
    tf.dispose([k, v])
    const learned = { k: dk, v: dv }
    return [
      qkv.trained ? withoutPrefix(dq, learned, pool.shape[0]) : null,
      pool.trained ? poolGradient(learned, prefix(), tape.take(pool)) : null,
      gate?.trained ? gateGradient(learned, prefix(), gate.shape[2]) : null,
    ]
  })
  tape.release(kept)
  return result
}

/** One bottleneck adapter and what it joins. */
export interface Bottleneck {
  /** What it reads [N,H], and the LayerNorm that stands before; it may be `residual` itself. */
  x: Matrix
  before: FrozenNorm | null
  down: { weight: Matrix; bias: Vector } // [R,H], [R]
  activation: Activation
  up: { weight: Matrix; bias: Vector } // [H,R], [H]
  factor: number
  residual: Matrix // [N,H]
  after: FrozenNorm
}

/** after(residual + factor·up(act(down(before(x))))): [N,H]. The LayerNorms are not trained. */
export function bottleneck(tape: Tape, parts: Bottleneck): Matrix {
  const { x, before, down, up, factor, residual, after } = parts
  const norms = { before: before && frozenNorm(before), after: frozenNorm(after) }
  const [downWeight, upWeight] = [down.weight.tensor, up.weight.tensor]
  const { pre, a } = bottleneckDown(x.tensor, norms.before, downWeight, down.bias.tensor, parts.activation)
  const leaves = [down.weight, down.bias, up.weight, up.bias]
  const same = x === residual
  const inputs = [x, ...(same ? [] : [residual]), ...leaves]
  const joining = [up.bias.tensor, factor, residual.tensor, norms.after] as const
  const { t, y } = bottleneckUp(a, upWeight, ...joining, tape.holds(inputs))
  const kept = [pre, a, ...(t ? [t] : [])].map((tensor) => new Var(tensor, false, false))
  const result = tape.record<tf.Tensor2D>(y, inputs, [x, ...kept], (dy) => {
    const [pre, a, t] = kept.map(({ tensor }) => tensor) as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D]
    const { dt, dpre } = bottleneckUpBackward(dy, t, norms.after, upWeight, parts.activation, pre, factor)
    const own = leaves.some(({ trained }) => trained)
      ? bottleneckWeightBackward(
          { x: x.tensor, norm: norms.before, a, dpre, dt, factor },
          leaves.map((leaf) => tape.slotOf(leaf)),
        )
      : leaves.map(() => null)
    const more = same ? dt : tape.take(x)
    const dx = x.trained ? bottleneckDownBackward(dpre, downWeight, x.tensor, norms.before, more) : null
    return [dx, ...(same ? [] : [dt]), ...own]
  })
  kept.forEach((one) => tape.release(one))
  return result
}

/** A LayerNorm as the kernels take it. */
export function frozenNorm({ weight, bias, eps }: FrozenNorm): {
  weight: tf.Tensor1D
  bias: tf.Tensor1D
  eps: number
} {
  return { weight: weight.tensor, bias: bias.tensor, eps }
}
