/**
 * Learned keys and values in front of a text's own (prefix tuning, Li & Liang 2021): joined to them as heads in one
 * dispatch, and on the way back the gradients of the text's own, of what was learned and of its gates in one each.
 */
import * as tf from '@tensorflow/tfjs-core'
import { mergeHeads, splitHeads } from './attention.ts'
import { runElements, runsOwn, type Kernel } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'
import { aligned, viewOf } from './views.ts'

/** Of P prefix positions, a key and a value of H features each. */
export interface Prefix {
  /** [P,W]: the keys are H columns from `first` on, the values the next H. */
  pool: tf.Tensor2D
  first: number
  /** What a text multiplies them by, [B,1,g]: both by one number, or with g = 2 each by its own; null: by nothing. */
  gate: tf.Tensor3D | null
}

/** Keys and values as heads, [B,N,P+S,D] each. */
export interface KeysValues {
  k: tf.Tensor4D
  v: tf.Tensor4D
}

/** A text's own keys and values as rows, [2,B·S,N·D], behind the prefix. */
export function withPrefix(own: tf.Tensor3D, prefix: Prefix, B: number, N: number): KeysValues {
  const [, rows, H] = own.shape
  const { pool, first, gate } = prefix
  const [P, W] = pool.shape
  const [S, D] = [rows / B, H / N]
  const T = P + S
  if (!runsOwn('attention')) return withPrefixReference(own, prefix, B, N)
  const unit = unitOf(D)
  const size = B * T * H
  const start = aligned(size)
  const packed = runElements<tf.Tensor1D>(
    joinKernel(unit, gate),
    [own, pool, ...(gate ? [gate] : [])],
    {
      ...{ size: (2 * size) / unit, B, S, P, N, D: D / unit, W: W / unit, first: first / unit },
      gap: (start - size) / unit,
      ...(gate && { g: gate.shape[2] }),
    },
    [start + size],
    (2 * size) / unit,
  )
  const shape = [B, N, T, D]
  const [k, v] = [viewOf<tf.Tensor4D>(packed, 0, shape), viewOf<tf.Tensor4D>(packed, start, shape)]
  packed.dispose()
  return { k, v }
}

/** dq [B·S,N·D], and dk and dv [B,N,P+S,D] without the prefix, side by side as rows: [3,B·S,N·D]. */
export function withoutPrefix(dq: tf.Tensor2D, { k: dk, v: dv }: KeysValues, P: number): tf.Tensor3D {
  const [rows, H] = dq.shape
  const [B, N, T, D] = dk.shape
  const S = T - P
  if (!runsOwn('attention')) {
    const own = (x: tf.Tensor4D) => mergeHeads(tf.slice(x, [0, 0, P, 0], [B, N, S, D]))
    return tf.tidy(() => tf.stack([dq, own(dk), own(dv)]) as tf.Tensor3D)
  }
  const unit = unitOf(D)
  const size = (3 * rows * H) / unit
  const sizes = { size, rows, S, P, N, D: D / unit }
  return runElements(partKernels[unit], [dq, dk, dv], sizes, [3, rows, H], size)
}

/** The gradient of the pool, [P,W]: `sum`, over which it is written, and what comes from these keys and values. */
export function poolGradient(
  { k: dk, v: dv }: KeysValues,
  { pool, first, gate }: Prefix,
  sum: tf.Tensor2D | null,
): tf.Tensor2D {
  const [B, N, T, D] = dk.shape
  const [P, W] = pool.shape
  const H = N * D
  if (!runsOwn('attention'))
    return tf.tidy(() => {
      const parts = [dk, dv].map((x, c) => {
        const heads = tf.slice(x, [0, 0, 0, 0], [B, N, P, D])
        const shut = gate ? tf.mul(heads, gateOf(gate, c)) : heads
        return tf.reshape(tf.transpose(tf.sum(shut, 0), [1, 0, 2]), [P, H])
      })
      const padded = tf.pad(tf.concat(parts, 1), [
        [0, 0],
        [first, W - first - 2 * H],
      ]) as tf.Tensor2D
      return sum ? tf.add(sum, padded) : padded
    })
  const unit = unitOf(D)
  const size = (2 * P * H) / unit
  return runElements(
    poolKernel(unit, gate),
    [dk, dv, ...(gate ? [gate] : [])],
    {
      ...{ size, B, T, N, D: D / unit, W: W / unit, first: first / unit },
      ...(gate && { g: gate.shape[2] }),
    },
    [P, W],
    size,
    sum ?? tf.fill<tf.Rank.R2>([P, W], 0),
  )
}

/** The gradient of a prefix's gates, [B,1,g]. */
export function gateGradient({ k: dk, v: dv }: KeysValues, { pool, first }: Prefix, g: number): tf.Tensor3D {
  const [B, N, T, D] = dk.shape
  const [P, W] = pool.shape
  if (!runsOwn('attention'))
    return tf.tidy(() => {
      const parts = [dk, dv].map((x, c) => {
        const heads = tf.slice(x, [0, 0, 0, 0], [B, N, P, D])
        return tf.sum(tf.mul(heads, prefixHeads(pool, first + c * N * D, N, D)), [1, 2, 3])
      })
      return tf.reshape(g === 2 ? tf.stack(parts, 1) : tf.add(parts[0]!, parts[1]!), [B, 1, g])
    })
  const sizes = { g, P, T, N, D, W, first }
  return runRows(gateKernel, [dk, dv, pool], sizes, [B, 1, g], { rows: B * g, width: (2 * P * N * D) / g })
}

/** Columns of the pool as heads: [1,N,P,D]. */
function prefixHeads(pool: tf.Tensor2D, first: number, N: number, D: number): tf.Tensor4D {
  const P = pool.shape[0]
  return splitHeads(tf.slice(pool, [0, first], [P, N * D]), 1, N)
}

/** The gates of keys (c = 0) or values (1): [B,1,1,1]. */
function gateOf(gate: tf.Tensor3D, c: number): tf.Tensor4D {
  const [B, , g] = gate.shape
  return tf.reshape(tf.slice(gate, [0, 0, Math.min(c, g - 1)], [B, 1, 1]), [B, 1, 1, 1])
}

function withPrefixReference(
  own: tf.Tensor3D,
  { pool, first, gate }: Prefix,
  B: number,
  N: number,
): KeysValues {
  const [, rows, H] = own.shape
  const part = (c: number) =>
    tf.tidy(() => {
      const text = splitHeads(tf.reshape(tf.slice(own, [c, 0, 0], [1, rows, H]), [rows, H]), B, N)
      const prefix = tf.tile(prefixHeads(pool, first + c * H, N, H / N), [B, 1, 1, 1])
      return tf.concat<tf.Tensor4D>([gate ? tf.mul(prefix, gateOf(gate, c)) : prefix, text], 2)
    })
  return { k: part(0), v: part(1) }
}

/** Floats that a program reads at once. */
type Unit = 1 | 4
const unitOf = (D: number): Unit => (D % 4 === 0 ? 4 : 1)

const kernels = new Map<string, Kernel>()

/** The program of this name, whose `opened` multiplies by the gate where there is one. */
function gated(
  name: string,
  unit: Unit,
  gate: tf.Tensor | null,
  make: (opened: string) => Omit<Kernel, 'name'>,
): Kernel {
  const key = `${name}${unit === 4 ? ' vec4' : ''}${gate ? ' gated' : ''}`
  const found = kernels.get(key)
  if (found) return found
  const kernel = make(gate ? ' * gate[b * uniforms.g + min(c, uniforms.g - 1)]' : '')
  const built: Kernel = {
    ...kernel,
    name: key,
    inputs: [...kernel.inputs, ...(gate ? ['gate'] : [])],
    uniforms: { ...kernel.uniforms, ...(gate && { g: 'int32' }) },
    components: unit,
    inputComponents: [...kernel.inputs.map(() => unit), ...(gate ? [1 as const] : [])],
  }
  kernels.set(key, built)
  return built
}

const int32 = (...names: string[]): Kernel['uniforms'] =>
  Object.fromEntries(names.map((name) => [name, 'int32']))

/** Heads of keys, then of values: [2,B,N,T,D]. */
function joinKernel(unit: Unit, gate: tf.Tensor | null): Kernel {
  return gated('attentionPrefix', unit, gate, (opened) => ({
    inputs: ['own', 'pool'],
    uniforms: int32('size', 'B', 'S', 'P', 'N', 'D', 'W', 'first', 'gap'),
    workgroupSize: 64,
    code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let T = uniforms.P + uniforms.S;
  let H = uniforms.N * uniforms.D;
  let t = index / uniforms.D % T;
  let h = index / uniforms.D / T % uniforms.N * uniforms.D + index % uniforms.D;
  let b = index / H / T % uniforms.B;
  let c = index / H / T / uniforms.B;
  let at = index + c * uniforms.gap;
  if (t < uniforms.P) {
    result[at] = pool[t * uniforms.W + uniforms.first + c * H + h]${opened};
  } else {
    result[at] = own[((c * uniforms.B + b) * uniforms.S + t - uniforms.P) * H + h];
  }
}`,
  }))
}

const partKernel: Kernel = {
  name: 'attentionPrefixParted',
  inputs: ['dq', 'dk', 'dv'],
  uniforms: int32('size', 'rows', 'S', 'P', 'N', 'D'),
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let H = uniforms.N * uniforms.D;
  let h = index % H;
  let row = index / H % uniforms.rows;
  let c = index / H / uniforms.rows;
  if (c == 0) {
    result[index] = dq[index];
    return;
  }
  let head = row / uniforms.S * uniforms.N + h / uniforms.D;
  let t = uniforms.P + row % uniforms.S;
  let at = (head * (uniforms.P + uniforms.S) + t) * uniforms.D + h % uniforms.D;
  if (c == 1) { result[index] = dk[at]; } else { result[index] = dv[at]; }
}`,
}

const partKernels: Record<Unit, Kernel> = {
  1: partKernel,
  4: { ...partKernel, name: 'attentionPrefixParted vec4', components: 4 },
}

/** One invocation adds up the texts, in their order. */
function poolKernel(unit: Unit, gate: tf.Tensor | null): Kernel {
  return gated('attentionPrefixPool', unit, gate, (opened) => ({
    inputs: ['dk', 'dv'],
    uniforms: int32('size', 'B', 'T', 'N', 'D', 'W', 'first'),
    workgroupSize: 64,
    code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let H = uniforms.N * uniforms.D;
  let column = index % (2 * H);
  let p = index / (2 * H);
  let c = column / H;
  let h = column % H;
  var sum = ${unit === 4 ? 'vec4<f32>' : 'f32'}(0.0);
  for (var b = 0; b < uniforms.B; b++) {
    let head = b * uniforms.N + h / uniforms.D;
    let at = (head * uniforms.T + p) * uniforms.D + h % uniforms.D;
    if (c == 0) { sum += dk[at]${opened}; } else { sum += dv[at]${opened}; }
  }
  let at = p * uniforms.W + uniforms.first + column;
  result[at] = result[at] + sum;
}`,
  }))
}

const gateKernel: RowKernel = {
  family: 'attention',
  name: 'attentionPrefixGate',
  inputs: ['dk', 'dv', 'pool'],
  uniforms: int32('g', 'P', 'T', 'N', 'D', 'W', 'first'),
  code: `
  let b = row / uniforms.g;
  let block = uniforms.P * uniforms.D;
  var sum = 0.0;
  for (var i = lane; i < width; i += LANES) {
    let c = row % uniforms.g + i / (uniforms.N * block);
    let n = i / block % uniforms.N;
    let p = i / uniforms.D % uniforms.P;
    let d = i % uniforms.D;
    let at = ((b * uniforms.N + n) * uniforms.T + p) * uniforms.D + d;
    let learned = pool[p * uniforms.W + uniforms.first + (c * uniforms.N + n) * uniforms.D + d];
    if (c == 0) { sum += dk[at] * learned; } else { sum += dv[at] * learned; }
  }
  let all = sumRow(sum);
  if (live) {
    if (lane == 0) { result[row] = all; }
  }`,
}
