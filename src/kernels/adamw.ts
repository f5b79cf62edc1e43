/**
 * torch.optim.AdamW (Loshchilov & Hutter 2019) over one flat vector of parameters, in torch's order of operations:
 * `p *= 1 - lr wd; m += (1-β1)(g - m); v = β2 v + (1-β2) g²; p -= lr/(1-β1^t) m / (sqrt(v)/sqrt(1-β2^t) + eps)`.
 * On a GPU p, m and v are views of one tensor, which one dispatch reads, clips by and writes in place; where three
 * vectors together are too long for a binding they stay apart, in place too. On wasm and cpu a step makes new tensors.
 */
import * as tf from '@tensorflow/tfjs-core'
import { openedDevice, webgpuBackend } from './backend.ts'
import { clipped, clippedCode, type Clip } from './clip.ts'
import { runElements, runsOwn, type Kernel } from './program.ts'
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

/**
 * One step along `g`, which is clipped first where `clip` is given, and kept. `stretches`, from the first element to the
 * last: where parts have done different numbers of steps; by default all have done `state.step`. Consumes `state`: on a
 * GPU its tensors are written in place, elsewhere disposed.
 */
export function adamw(
  state: AdamWState,
  g: tf.Tensor1D,
  args: AdamWArguments,
  clip: Clip | null = null,
  stretches: Stretch[] = [{ size: g.size, step: state.step }],
): AdamWState {
  const step = state.step + 1
  if (g.size !== state.p.size)
    throw new Error(`AdamW got a gradient of ${g.size} values for ${state.p.size} parameters.`)
  if (!runsOwn('adamw')) {
    const next = stepOnHost(state, g, args, clip, stretches)
    tf.dispose([state.p, state.m, state.v])
    return { ...next, step }
  }
  const packed = wholeOf(state)
  let first = 0
  for (const { size, step: done } of stretches) {
    if (done !== null) {
      const range = { first, size, max_norm: clip?.max_norm ?? 0, ...numbers(args, done) }
      // Where nothing is clipped the norm is not read.
      stepInPlace(state, packed, [g, clip?.norm ?? g], range)
    }
    first += size
  }
  packed?.dispose()
  return { ...state, step }
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
  args: AdamWArguments,
  clip: Clip | null,
  stretches: Stretch[],
): Vectors {
  return tf.tidy(() => {
    const gradient = clip ? clipped(g, clip) : g
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

function stepInPlace(
  { p, m, v }: Vectors,
  packed: tf.Tensor | null,
  gradient: tf.Tensor[],
  range: Step & { first: number; size: number; max_norm: number },
): void {
  const run = (kernel: Kernel, inputs: tf.Tensor[], output: tf.Tensor, uniforms: Record<string, number>) =>
    runElements(kernel, inputs, uniforms, output.shape, range.size, output)
  if (packed) {
    run(packedKernel, gradient, packed, { ...range, part: aligned(p.size) })
    return
  }
  run(mKernel, gradient, m, { ...range })
  run(vKernel, gradient, v, { ...range })
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

/** A program of `statements` for element `at` of the vectors. */
const main = (statements: string) => `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let at = uniforms.first + index;
  ${statements}
}`

const gradient = `let g = ${clippedCode('at')};`
const nextM = (m: string) => `${m} + uniforms.mRate * (g - ${m})`
const nextV = (v: string) => `uniforms.beta2 * ${v} + uniforms.vRate * g * g`
const nextP = (p: string, m: string, v: string) =>
  `${p} * select(1.0, uniforms.keep, at < uniforms.decayed)
    - uniforms.stepSize * (${m} / (sqrt(${v}) / uniforms.vScale + uniforms.eps))`

const packedKernel: Kernel = {
  name: 'adamw',
  inputs: ['g', 'norm'],
  uniforms: { ...uniforms, part: 'int32' },
  workgroupSize: 64,
  code: main(`${gradient}
  let mAt = uniforms.part + at;
  let vAt = uniforms.part + mAt;
  let m = ${nextM('result[mAt]')};
  let v = ${nextV('result[vAt]')};
  result[mAt] = m;
  result[vAt] = v;
  result[at] = ${nextP('result[at]', 'm', 'v')};`),
}

const mKernel: Kernel = {
  ...packedKernel,
  name: 'adamw m',
  uniforms,
  code: main(`${gradient}
  result[at] = ${nextM('result[at]')};`),
}

const vKernel: Kernel = {
  ...mKernel,
  name: 'adamw v',
  code: main(`${gradient}
  result[at] = ${nextV('result[at]')};`),
}

const pKernel: Kernel = {
  ...mKernel,
  name: 'adamw p',
  inputs: ['m', 'v'],
  code: main(`result[at] = ${nextP('result[at]', 'm[at]', 'v[at]')};`),
}
