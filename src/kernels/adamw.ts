/**
 * torch.optim.AdamW (Loshchilov & Hutter 2019) over one flat vector of parameters, in torch's order of operations:
 * `p *= 1 - lr wd; m += (1-β1)(g - m); v = β2 v + (1-β2) g²; p -= lr/(1-β1^t) m / (sqrt(v)/sqrt(1-β2^t) + eps)`.
 * On a GPU p, m and v are views of one tensor. One dispatch adds up the gradient's squares in parts; a second one, each
 * workgroup of which adds up the parts, clips and writes p, m and v in place. Where three vectors together are too long
 * for a binding they stay apart, in place too. On wasm and cpu a step makes new tensors.
 */
import * as tf from '@tensorflow/tfjs-core'
import { openedDevice, webgpuBackend } from './backend.ts'
import { clipFactor, clipped } from './clip.ts'
import { runElements, runsOwn, type Kernel } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'
import { l2Norm, squaresInParts } from './sum.ts'
import { aligned, viewOf, whereOf } from './views.ts'

/** Parameters, both moments (all of one length) and the number of steps done. */
export interface AdamWState extends Vectors {
  step: number
}

interface Vectors {
  p: tf.Tensor1D
  m: tf.Tensor1D
  v: tf.Tensor1D
}

export interface AdamWArguments {
  learning_rate: number
  beta1: number
  beta2: number
  eps: number
  weight_decay: number
  /** Only the first so many elements are decayed: put weights first, biases after. */
  decayed: number
  /** The gradient is clipped to this norm; 0: never. */
  max_norm: number
}

/** A stretch of the vector and the steps that it has done; null: it is left alone, with its moments. */
export interface Stretch {
  size: number
  step: number | null
}

/** The numbers of one step, worked out in double precision as torch does. */
interface Step {
  /** 1 - β1 */
  mRate: number
  beta2: number
  /** 1 - β2 */
  vRate: number
  /** lr / (1 - β1^t) */
  stepSize: number
  /** sqrt(1 - β2^t) */
  vScale: number
  eps: number
  /** 1 - lr wd */
  keep: number
  decayed: number
}

/** The state of `p`, which it takes over: before the first step, or with the moments of `earlier` ones. */
export function adamwState(p: tf.Tensor1D, earlier: Omit<AdamWState, 'p'> | null = null): AdamWState {
  const step = earlier?.step ?? 0
  if (!runsOwn('adamw') || !fits(p.size)) {
    const zeros = () => tf.fill<tf.Rank.R1>(p.shape, 0)
    return { p, m: earlier?.m ?? zeros(), v: earlier?.v ?? zeros(), step }
  }
  const [size, part] = [p.size, aligned(p.size)]
  // Without moments there is nothing to read them from.
  const uniforms = { size, part, moments: earlier ? 1 : 0 }
  const inputs = [p, earlier?.m ?? p, earlier?.v ?? p]
  const packed = runElements(packKernel, inputs, uniforms, [3 * part], 3 * part)
  const view = (index: number) => viewOf<tf.Tensor1D>(packed, index * part, [size])
  const state = { p: view(0), m: view(1), v: view(2), step }
  tf.dispose([packed, p, ...(earlier ? [earlier.m, earlier.v] : [])])
  return state
}

/** Whether three vectors of n elements can be one tensor that a program sees as a whole. */
function fits(n: number): boolean {
  const { maxBufferSize, maxStorageBufferBindingSize } = openedDevice().limits
  return 3 * aligned(n) * 4 <= Math.min(maxBufferSize, maxStorageBufferBindingSize)
}

/** The state after a step, and the norm of its gradient before clipping. */
export interface Stepped {
  state: AdamWState
  grad_norm: tf.Scalar
}

/**
 * One step along `g`, which is clipped and kept. `stretches`, from the first element to the last: where parts have done
 * different numbers of steps; by default all have done `state.step`. Consumes `state`: on a GPU its tensors are written in
 * place, elsewhere disposed.
 */
export function adamw(
  state: AdamWState,
  g: tf.Tensor1D,
  args: AdamWArguments,
  stretches: Stretch[] = [{ size: g.size, step: state.step }],
): Stepped {
  const step = state.step + 1
  if (g.size !== state.p.size)
    throw new Error(`AdamW got a gradient of ${g.size} values for ${state.p.size} parameters.`)
  if (stretches.every((stretch) => stretch.step === null))
    return { state: { ...state, step }, grad_norm: l2Norm(g) }
  if (!runsOwn('adamw')) {
    const grad_norm = l2Norm(g)
    const next = stepOnHost(state, g, grad_norm, args, stretches)
    tf.dispose([state.p, state.m, state.v])
    return { state: { ...next, step }, grad_norm }
  }
  const packed = wholeOf(state)
  const squares = squaresInParts(g)
  const grad_norm = tf
    .engine()
    .makeTensorFromTensorInfo(webgpuBackend().makeTensorInfo([], 'float32')) as tf.Scalar
  let first = 0
  for (const { size, step: done } of stretches) {
    if (done !== null) {
      const range = { first, size, max_norm: args.max_norm, ...numbers(args, done) }
      stepInPlace(state, packed, [g, squares, grad_norm], range)
    }
    first += size
  }
  tf.dispose([squares, ...(packed ? [packed] : [])])
  return { state: { ...state, step }, grad_norm }
}

function numbers(
  { learning_rate, beta1, beta2, eps, weight_decay, decayed }: AdamWArguments,
  done: number,
): Step {
  const t = done + 1
  return {
    mRate: 1 - beta1,
    beta2,
    vRate: 1 - beta2,
    stepSize: learning_rate / (1 - beta1 ** t),
    vScale: Math.sqrt(1 - beta2 ** t),
    eps,
    keep: 1 - learning_rate * weight_decay,
    decayed,
  }
}

function stepOnHost(
  { p, m, v }: Vectors,
  g: tf.Tensor1D,
  grad_norm: tf.Scalar,
  args: AdamWArguments,
  stretches: Stretch[],
): Vectors {
  return tf.tidy(() => {
    const gradient = clipped(g, grad_norm, args.max_norm)
    let first = 0
    const parts = stretches.map(({ size, step }) => {
      const cut = (x: tf.Tensor1D) => (size === x.size ? x : tf.slice(x, first, size))
      const own = { p: cut(p), m: cut(m), v: cut(v) }
      const decayed = Math.min(Math.max(args.decayed - first, 0), size)
      const next = step === null ? own : moved(own, cut(gradient), { ...numbers(args, step), decayed })
      first += size
      return next
    })
    const whole = (name: keyof Vectors) => tf.concat1d(parts.map((part) => part[name]))
    return { p: whole('p'), m: whole('m'), v: whole('v') }
  })
}

/** Each vector in a tidy of its own, since they may be long. */
function moved(state: Vectors, g: tf.Tensor1D, step: Step): Vectors {
  const m = tf.tidy(() => tf.add<tf.Tensor1D>(state.m, tf.mul(tf.sub(g, state.m), step.mRate)))
  const v = tf.tidy(() => tf.add<tf.Tensor1D>(tf.mul(state.v, step.beta2), tf.mul(tf.square(g), step.vRate)))
  const p = tf.tidy(() => {
    const update = tf.div(m, tf.add(tf.div(tf.sqrt(v), step.vScale), step.eps))
    return tf.sub<tf.Tensor1D>(decay(state.p, step), tf.mul(update, step.stepSize))
  })
  return { p, m, v }
}

function decay(p: tf.Tensor1D, { keep, decayed }: Step): tf.Tensor1D {
  if (decayed === 0 || keep === 1) return p
  if (decayed >= p.size) return tf.mul(p, keep)
  return tf.concat([tf.mul(tf.slice(p, 0, decayed), keep), tf.slice(p, decayed)])
}

/** A handle, which the caller disposes, of the tensor that p, m and v are packed in; null where they are apart. */
function wholeOf({ p, m, v }: Vectors): tf.Tensor | null {
  const [first, second, third] = [whereOf(p), whereOf(m), whereOf(v)]
  const part = aligned(p.size)
  if (!first || first.offset !== 0 || second?.offset !== part || third?.offset !== 2 * part) return null
  const { flat } = first
  if (second.flat.dataId !== flat.dataId || third.flat.dataId !== flat.dataId) return null
  webgpuBackend().incRef(flat.dataId)
  return tf.engine().makeTensorFromTensorInfo({ ...flat })
}

/** Elements of a row, as adamw's programs see the vectors: many enough to add up the parts of the norm for. */
const rowLength = 256

function stepInPlace(
  { p, m, v }: Vectors,
  packed: tf.Tensor | null,
  gradient: [g: tf.Tensor, squares: tf.Tensor, grad_norm: tf.Tensor],
  range: Step & { first: number; size: number; max_norm: number },
): void {
  const rows = { rows: Math.ceil(range.size / rowLength), width: rowLength }
  const run = (kernel: RowKernel, inputs: tf.Tensor[], output: tf.Tensor, uniforms: Record<string, number>) =>
    runRows(kernel, inputs, uniforms, output.shape, rows, output)
  const clipping = { ...range, parts: gradient[1].size }
  if (packed) {
    run(packedKernel, gradient, packed, { ...clipping, part: aligned(p.size) })
    return
  }
  run(mKernel, gradient, m, clipping)
  run(vKernel, gradient, v, clipping)
  run(pKernel, [m, v], p, { ...range })
}

const packKernel: Kernel = {
  name: 'adamw pack',
  inputs: ['p', 'm', 'v'],
  uniforms: { size: 'int32', part: 'int32', moments: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= 3 * uniforms.part) { return; }
  let which = index / uniforms.part;
  let at = index % uniforms.part;
  var value = 0.0;
  if (at < uniforms.size) {
    if (which == 0) { value = p[at]; }
    else if (uniforms.moments == 1) { value = select(m[at], v[at], which == 2); }
  }
  result[index] = value;
}`,
}

const uniforms: Kernel['uniforms'] = {
  first: 'int32',
  size: 'int32',
  max_norm: 'float32',
  mRate: 'float32',
  beta2: 'float32',
  vRate: 'float32',
  stepSize: 'float32',
  vScale: 'float32',
  eps: 'float32',
  keep: 'float32',
  decayed: 'int32',
}

/** A program of `statements` for each element `at` of the vectors. */
const forEach = (statements: string) => `
  if (live) {
    let end = min(start + width, uniforms.size);
    for (var i = start + lane; i < end; i += LANES) {
      let at = uniforms.first + i;
      ${statements}
    }
  }`

/** The same where `g` is the clipped gradient there. */
const forEachClipped = (statements: string) => `
  var total = 0.0;
  for (var i = lane; i < uniforms.parts; i += LANES) { total += squares[i]; }
  let norm = sqrt(sumRow(total));
  if (live & (row == 0) & (lane == 0)) { grad_norm[0] = norm; }
  let factor = ${clipFactor('norm')};
  ${forEach(`let gradient = g[at] * factor;
      ${statements}`)}`

const nextM = (m: string) => `${m} + uniforms.mRate * (gradient - ${m})`
const nextV = (v: string) => `uniforms.beta2 * ${v} + uniforms.vRate * gradient * gradient`
const nextP = (p: string, m: string, v: string) =>
  `${p} * select(1.0, uniforms.keep, at < uniforms.decayed)
    - uniforms.stepSize * (${m} / (sqrt(${v}) / uniforms.vScale + uniforms.eps))`

const mKernel: RowKernel = {
  family: 'adamw',
  name: 'adamw m',
  inputs: ['g', 'squares', 'grad_norm'],
  writes: ['grad_norm'],
  uniforms: { ...uniforms, parts: 'int32' },
  code: forEachClipped(`result[at] = ${nextM('result[at]')};`),
}

const vKernel: RowKernel = {
  ...mKernel,
  name: 'adamw v',
  code: forEachClipped(`result[at] = ${nextV('result[at]')};`),
}

const pKernel: RowKernel = {
  family: 'adamw',
  name: 'adamw p',
  inputs: ['m', 'v'],
  uniforms,
  code: forEach(`result[at] = ${nextP('result[at]', 'm[at]', 'v[at]')};`),
}

const packedKernel: RowKernel = {
  ...mKernel,
  name: 'adamw',
  uniforms: { ...mKernel.uniforms, part: 'int32' },
  code: forEachClipped(`let mAt = uniforms.part + at;
      let vAt = uniforms.part + mAt;
      let m = ${nextM('result[mAt]')};
      let v = ${nextV('result[vAt]')};
      result[mAt] = m;
      result[vAt] = v;
      result[at] = ${nextP('result[at]', 'm', 'v')};`),
}
