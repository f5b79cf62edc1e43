/**
 * The operations that a walk through the model is made of, each with its gradient. Methods (src/methods) are written in
 * these alone: they need no tfjs of their own, and each is differentiated by the tape.
 */
import * as tf from '@tensorflow/tfjs-core'
import { activation, activationBackward, type Activation } from '../kernels/activations.ts'
import { addScaled, scale } from '../kernels/addScaled.ts'
import { mergeHeads, splitHeads, type AttentionSizes } from '../kernels/attention.ts'
import { dropout, type Drop } from '../kernels/dropout.ts'
import { halfToFloat } from '../kernels/half.ts'
import { embedding, embeddingNorm } from '../kernels/embedding.ts'
import { meanSigmoid, meanSigmoidBackward, timesGate, timesGateBackward } from '../kernels/gate.ts'
import { firstToken, firstTokenBackward } from '../kernels/firstToken.ts'
import { layerNorm, layerNormBackward, layerNormBackwardWeight } from '../kernels/layerNorm.ts'
import { linear, linearBackwardBias, linearBackwardInput, linearBackwardWeight } from '../kernels/linear.ts'
import { matmul } from '../kernels/matmul.ts'
import { segmentSum } from '../kernels/segmentSum.ts'
import { sumTo } from '../kernels/sum.ts'
import type { FrozenLinear, FrozenNorm } from '../methods/method.ts'
import {
  activatedLinear,
  areSideBySide,
  attended,
  bottleneck,
  feedForward,
  frozenNorm,
  prefixAttended,
  projected,
  selfAttended,
  type Bottleneck,
  type Prefixed,
  type Update,
} from './fused.ts'
import { constant, Var, type Tape } from './tape.ts'

export type Matrix = Var<tf.Tensor2D>
export type Vector = Var<tf.Tensor1D>
export type Heads = Var<tf.Tensor4D>

/** What a product goes through: it drops at `rate`, then `residual`, of its shape, is added. */
type Joined = { rate?: number; residual?: Matrix | null }

/** Where the masks of one forward and backward pass come from; see kernels/dropout.ts. */
export interface NoiseSource {
  seed: number
  /** Differs for every pass of a run. */
  call: number
}

/** Dropout sites that one pass, and one of its layers, may have. */
const sitesPerCall = 8192
const sitesPerLayer = 128

export class Ops {
  #sites = 0

  /** `noise` null: evaluation, nothing is dropped. */
  constructor(
    readonly tape: Tape,
    readonly noise: NoiseSource | null,
  ) {}

  /** From here on dropout belongs to `layer` (-1: the embeddings), whose masks are the same wherever the walk began. */
  at(layer: number): void {
    this.#sites = (layer + 1) * sitesPerLayer
  }

  /**
   * x [N,K], weight [M,K], bias [M] or null -> factor·(x·weightᵀ + bias), which drops at `rate` before `residual` [N,M] is
   * added: [N,M]
   */
  linear(
    x: Matrix,
    weight: Matrix,
    bias: Vector | null,
    { rate = 0, residual = null, factor = 1 }: Joined & { factor?: number } = {},
  ): Matrix {
    const { tape } = this
    const [drop, inHalf] = [this.#drop(rate), tape.inHalf(weight)]
    const manner = { dropout: drop, residual: residual?.tensor ?? null, factor, inHalf }
    const y = linear(x.tensor, weight.tensor, bias?.tensor ?? null, manner)
    const inputs: Var[] = [x, weight, ...(bias ? [bias] : []), ...(residual ? [residual] : [])]
    const saved = [...(weight.trained ? [x] : []), ...(x.trained ? [weight] : [])]
    return tape.record(y, inputs, saved, (dy) => {
      const d = scale(drop ? dropout(dy, drop) : dy, factor)
      const dWeight = weight.trained ? linearBackwardWeight(d, x.tensor, tape.slotOf(weight)) : null
      const dBias = bias?.trained ? linearBackwardBias(d, tape.slotOf(bias)) : null
      const more = residual === x ? null : tape.take(x)
      const dx = x.trained ? linearBackwardInput(d, weight.tensor, { residual: more, inHalf }) : null
      return [dx, dWeight, ...(bias ? [dBias] : []), dy]
    })
  }

  /** `linear` of act(u), of which only u [N,K] is kept: -> [N,M]. */
  activatedLinear(
    name: Activation,
    u: Matrix,
    weight: Matrix,
    bias: Vector | null,
    { rate = 0, residual = null }: Joined = {},
  ): Matrix {
    return activatedLinear(this.tape, name, u, weight, bias, { drop: this.#drop(rate), residual })
  }

  /** `linear` of act of `linear`: down(act(up(x))), of which only up(x) is kept: x [N,K] -> [N,M]. */
  feedForward(
    name: Activation,
    x: Matrix,
    { up, down }: { up: FrozenLinear; down: FrozenLinear },
    { rate = 0, residual = null }: Joined = {},
  ): Matrix {
    return feedForward(this.tape, name, x, up, down, { drop: this.#drop(rate), residual })
  }

  /** Whether the device has a kernel for these linear layers together: their weights lie side by side. */
  areSideBySide(parts: FrozenLinear[]): boolean {
    return areSideBySide(parts)
  }

  /** Such linear layers, and updates of them, on one x [N,K] -> [C,N,M]. */
  projected(x: Matrix, parts: FrozenLinear[], updates: (Update | null)[]): Var<tf.Tensor3D> {
    return projected(this.tape, x, parts, updates)
  }

  /** One bottleneck adapter with all that it joins, [N,H]; see fused.ts. */
  bottleneck(parts: Bottleneck): Matrix {
    return bottleneck(this.tape, parts)
  }

  /** a [...,M,K] · b [...,K,N] -> [...,M,N], leading dimensions equal; see kernels/matmul.ts for the transposes. */
  matmul<T extends tf.Tensor>(a: Var<T>, b: Var<T>, transposeA = false, transposeB = false): Var<T> {
    const y = matmul(a.tensor, b.tensor, transposeA, transposeB)
    const saved = [...(b.trained ? [a] : []), ...(a.trained ? [b] : [])]
    return this.tape.record<T>(y, [a, b], saved, (dy) => {
      const [A, B] = [a.tensor, b.tensor]
      const da = () => (transposeA ? matmul(B, dy, transposeB, true) : matmul(dy, B, false, !transposeB))
      const db = () => (transposeB ? matmul(dy, A, true, transposeA) : matmul(A, dy, !transposeA, false))
      return [a.trained ? da() : null, b.trained ? db() : null]
    })
  }

  /** a + factor·b, of one shape. */
  add<T extends tf.Tensor>(a: Var<T>, b: Var<T>, factor = 1): Var<T> {
    return this.tape.record(addScaled(a.tensor, b.tensor, factor), [a, b], [], (dy) => [
      dy,
      b.trained ? scale(dy, factor) : null,
    ])
  }

  /** factor·x */
  scale<T extends tf.Tensor>(x: Var<T>, factor: number): Var<T> {
    return factor === 1 ? x : this.tape.record(scale(x.tensor, factor), [x], [], (dy) => [scale(dy, factor)])
  }

  /** a·b element by element, with broadcasting; the result has the shape of `a`. */
  mul<T extends tf.Tensor>(a: Var<T>, b: Var): Var<T> {
    const saved = [...(b.trained ? [a] : []), ...(a.trained ? [b] : [])]
    return this.tape.record(tf.mul<T>(a.tensor, b.tensor), [a, b], saved, (dy) => [
      a.trained ? tf.mul(dy, b.tensor) : null,
      b.trained ? sumTo(tf.mul(dy, a.tensor), b.shape) : null,
    ])
  }

  /** x [1,…] the same for each of `count` rows: [count,…]. */
  repeat<T extends tf.Tensor>(x: Var<T>, count: number): Var<T> {
    const times = x.shape.map((_, i) => (i === 0 ? count : 1))
    return this.tape.record(tf.tile(x.tensor, times), [x], [], (dy) => [sumTo(dy, x.shape)])
  }

  /** a + b with broadcasting; the result has the shape of `a`. */
  addBroadcast<T extends tf.Tensor>(a: Var<T>, b: Var): Var<T> {
    return this.tape.record(tf.add<T>(a.tensor, b.tensor), [a, b], [], (dy) => [
      dy,
      b.trained ? sumTo(dy, b.shape) : null,
    ])
  }

  /** x to a constant power, element by element; x > 0 unless the exponent is a whole number. */
  pow<T extends tf.Tensor>(x: Var<T>, exponent: number): Var<T> {
    return this.tape.record(tf.pow(x.tensor, exponent) as T, [x], [x], (dy) => [
      tf.mul(dy, tf.mul(tf.pow(x.tensor, exponent - 1), exponent)),
    ])
  }

  /** The sum over one axis, which stays with length 1. */
  sum<T extends tf.Tensor>(x: Var<T>, axis: number): Var<T> {
    return this.tape.record(tf.sum<T>(x.tensor, axis, true), [x], [], (dy) => [
      tf.mul(tf.onesLike(x.tensor), dy),
    ])
  }

  /** torch.nn.functional activation by the library's name; `null` and `linear` are the identity. */
  activation<T extends tf.Tensor>(name: Activation, x: Var<T>): Var<T> {
    return this.tape.record(activation(name, x.tensor), [x], [x], (dy) => [
      activationBackward(name, dy, x.tensor),
    ])
  }

  /** x [B·S,k] -> the mean of sigmoid(x) over the S rows of each text: [B,1,k]. */
  meanSigmoid(x: Matrix, B: number): Var<tf.Tensor3D> {
    return this.tape.record(meanSigmoid(x.tensor, B), [x], [x], (dy) => [meanSigmoidBackward(dy, x.tensor)])
  }

  /** x [B·S,M], of which the rows of each text are multiplied by its gate [B,1,1]. */
  timesGate(x: Matrix, gate: Var<tf.Tensor3D>): Matrix {
    const saved = [...(gate.trained ? [x] : []), ...(x.trained ? [gate] : [])]
    return this.tape.record(timesGate(x.tensor, gate.tensor), [x, gate], saved, (dy) => [
      x.trained ? timesGate(dy, gate.tensor) : null,
      gate.trained ? timesGateBackward(dy, x.tensor, gate.shape[0]) : null,
    ])
  }

  /** torch.nn.LayerNorm of x [N,H] over its features. */
  layerNorm(x: Matrix, weight: Vector, bias: Vector, eps: number): Matrix {
    const y = layerNorm(x.tensor, weight.tensor, bias.tensor, eps)
    return this.tape.record(y, [x, weight, bias], [x], (dy) => {
      const own = weight.trained || bias.trained ? layerNormBackwardWeight(dy, x.tensor, eps) : null
      const dx = x.trained ? layerNormBackward(dy, x.tensor, weight.tensor, eps, this.tape.take(x)) : null
      return [dx, own?.weight ?? null, own?.bias ?? null]
    })
  }

  /** Dropout with a mask of its own, which the way down draws again; the value itself in evaluation. */
  dropout<T extends tf.Tensor>(x: Var<T>, rate: number): Var<T> {
    const drop = this.#drop(rate)
    return drop ? this.tape.record(dropout(x.tensor, drop), [x], [], (dy) => [dropout(dy, drop)]) : x
  }

  /** One dropout site: the same mask on the way up and down, or null when nothing is dropped. */
  #drop(rate: number): Drop | null {
    if (rate <= 0) return null
    const site = this.#sites++
    if (!this.noise) return null
    const { seed, call } = this.noise
    return { rate, seed, offset: Math.imul(call, sitesPerCall) + site }
  }

  /** x [B·S,N·D] -> [B,N,S,D] */
  splitHeads(x: Matrix, B: number, N: number): Heads {
    return this.tape.record(splitHeads(x.tensor, B, N), [x], [], (dy) => [mergeHeads(dy)])
  }

  /**
   * softmax(q·kᵀ·scale)·v over the keys that padding leaves, with dropout on the probabilities. q [B·S,H]; k and v [B·T,H]
   * or heads [B,N,T,D]; padding int32 [B,2] or, where queries see different keys, [B·S,2] -> [B·S,H]
   */
  attention<K extends Matrix | Heads>(
    q: Matrix,
    k: K,
    v: K,
    padding: Matrix,
    sizes: AttentionSizes,
    rate: number,
  ): Matrix {
    return attended(this.tape, q, k, v, padding, sizes, this.#drop(rate))
  }

  /** The same for the projections [3,B·S,H] of `projected`. */
  selfAttention(qkv: Var<tf.Tensor3D>, padding: Matrix, sizes: AttentionSizes, rate: number): Matrix {
    return selfAttended(this.tape, qkv, padding, sizes, this.#drop(rate))
  }

  /** The same with learned keys and values before each text's own; `padding` as if they were not there. */
  prefixAttention(
    qkv: Var<tf.Tensor3D>,
    prefix: Prefixed,
    padding: Matrix,
    sizes: AttentionSizes,
    rate: number,
  ): Matrix {
    return prefixAttended(this.tape, qkv, prefix, padding, sizes, this.#drop(rate))
  }

  /**
   * The padding [B,2] of texts of S tokens that get P prompt rows in front, which all see, and which themselves, the first
   * P queries, see everything, padding too -> [B·(P+S),2]
   */
  promptPadding({ tensor }: Matrix, S: number, P: number): Matrix {
    const B = tensor.shape[0]
    const own = tf.tile(tf.reshape(tensor, [B, 1, 2]), [1, S, 1])
    const all = tf.concat([tf.fill([B, P, 2], 0, 'int32'), own], 1)
    return constant(tf.reshape(all, [B * (P + S), 2]))
  }

  /** softmax over the last of two axes: x [N,M] -> [N,M] */
  softmax(x: Matrix): Matrix {
    const p: Matrix = this.tape.record(tf.softmax(x.tensor), [x], ['output'], (dy) => [
      tf.mul(p.tensor, tf.sub(dy, tf.sum(tf.mul(p.tensor, dy), -1, true))),
    ])
    return p
  }

  /** Values side by side along an axis. */
  concat<T extends tf.Tensor>(parts: Var<T>[], axis: number): Var<T> {
    if (parts.length === 1) return parts[0]!
    const y = tf.concat(
      parts.map(({ tensor }) => tensor),
      axis,
    )
    return this.tape.record(y, parts, [], (dy) => {
      let from = 0
      return parts.map(({ shape, trained }) => {
        const begin = shape.map((_, i) => (i === axis ? from : 0))
        from += shape[axis]!
        return trained ? tf.slice(dy, begin, shape) : null
      })
    })
  }

  /** `size` entries of an axis from `start`. */
  slice<T extends tf.Tensor>(x: Var<T>, axis: number, start: number, size: number): Var<T> {
    if (start === 0 && size === x.shape[axis]) return x
    const begin = x.shape.map((_, i) => (i === axis ? start : 0))
    const sizes = x.shape.map((length, i) => (i === axis ? size : length))
    const around = x.shape.map((length, i): [number, number] =>
      i === axis ? [start, length - start - size] : [0, 0],
    )
    return this.tape.record(tf.slice(x.tensor, begin, sizes), [x], [], (dy) => [tf.pad(dy, around)])
  }

  /** Rows of x [N,H] by index (int32 [M], each below N; see `Walk.constant`) -> [M,H]. */
  gather(x: Matrix, indices: Vector): Matrix {
    return this.tape.record(tf.gather(x.tensor, indices.tensor), [x], [indices], (dy) => [
      segmentSum(dy, indices.tensor, x.shape[0]),
    ])
  }

  /** Rows of x [N,H] by distinct indices on the host [M] -> [M,H]; the way back is a gather too. */
  rows(x: Matrix, indices: Int32Array): Matrix {
    const [N, H] = x.shape
    return this.tape.record(tf.gather(x.tensor, tf.tensor1d(indices, 'int32')), [x], [], (dy) => {
      const origin = new Int32Array(N).fill(indices.length)
      indices.forEach((row, i) => (origin[row] = i))
      return [tf.gather(tf.concat2d([dy, tf.zeros([1, H])], 0), tf.tensor1d(origin, 'int32'))]
    })
  }

  /**
   * torch.nn.Embedding: ids int32 [N] of a table in row blocks -> [N,H]. The row `padding_idx` gets no gradient. Only a
   * table in one block can be trained.
   */
  embedding(blocks: Matrix[], ids: tf.Tensor1D, padding_idx: number): Matrix {
    const y = embedding(
      blocks.map(({ tensor }) => tensor),
      ids,
    )
    return this.tape.record(y, blocks, [], (dy) => [segmentSum(dy, ids, blocks[0]!.shape[0], padding_idx)])
  }

  /** LayerNorm(word + type 0 + position) of frozen tables: ids int32 [N] -> [N,H]. */
  embeddingNorm(
    words: Matrix[],
    ids: tf.Tensor1D,
    from: { positions: Matrix; position_ids: tf.Tensor1D; types: Matrix; norm: FrozenNorm },
  ): Matrix {
    const [positions, types] = [from.positions.tensor, from.types.tensor]
    const around = { positions, position_ids: from.position_ids, types, norm: frozenNorm(from.norm) }
    const blocks = words.map(({ tensor }) => tensor)
    return new Var(embeddingNorm(blocks, ids, around), false, false)
  }

  /** x [B·S,H] -> [B,H]: row 0 of each text. */
  firstToken(x: Matrix, B: number): Matrix {
    const S = x.shape[0] / B
    if (S === 1) return x
    return this.tape.record(firstToken(x.tensor, B), [x], [], (dy) => [firstTokenBackward(dy, S)])
  }

  reshape<T extends tf.Tensor>(x: Var, shape: number[]): Var<T> {
    return this.tape.record(tf.reshape(x.tensor, shape) as T, [x], [], (dy) => [tf.reshape(dy, x.shape)])
  }

  /** The axes in another order. */
  transpose<T extends tf.Tensor>(x: Var<T>, order: number[]): Var<T> {
    const back = order.map((_, i) => order.indexOf(i))
    return this.tape.record(tf.transpose(x.tensor, order) as T, [x], [], (dy) => [tf.transpose(dy, back)])
  }

  /** Whole parts, cut towards zero as `int()` does; no gradient goes through. */
  whole<T extends tf.Tensor>({ tensor }: Var<T>): Var<T> {
    return new Var(tf.cast(tf.cast(tensor, 'int32'), 'float32') as T, false, false)
  }

  /** A frozen matrix in full precision, whatever it is held in. */
  inFull(weight: Matrix): Matrix {
    return weight.tensor.dtype === 'int32'
      ? new Var(halfToFloat<tf.Tensor2D>(weight.tensor), false, false)
      : weight
  }

  /** The same values, through which no gradient goes. */
  detach<T extends tf.Tensor>({ tensor }: Var<T>): Var<T> {
    return new Var(tensor.clone(), false, false)
  }
}
