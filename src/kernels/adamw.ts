/**
 * torch.optim.AdamW (Loshchilov & Hutter 2019) over one flat vector of parameters, in torch's order of operations:
 * `p *= 1 - lr wd; m += (1-β1)(g - m); v = β2 v + (1-β2) g²; p -= lr/(1-β1^t) m / (sqrt(v)/sqrt(1-β2^t) + eps)`.
 * On a GPU three dispatches make three new tensors: writing p, m and v in place would need them packed in one buffer,
 * and tfjs would go on returning values that it read before.
 */
import * as tf from '@tensorflow/tfjs-core'
import { onGpu, runElements, type Kernel } from './program.ts'

/** Parameters, both moments (all of one length) and the number of steps done. */
export interface AdamWState {
  p: tf.Tensor1D
  m: tf.Tensor1D
  v: tf.Tensor1D
  step: number
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

/** The state before the first step: zero moments. Takes over `p`. */
export function adamwState(p: tf.Tensor1D): AdamWState {
  return { p, m: tf.zerosLike(p), v: tf.zerosLike(p), step: 0 }
}

/** One step. Disposes `state`'s tensors and returns new ones; keeps `g`. */
export function adamw(state: AdamWState, g: tf.Tensor1D, args: AdamWArguments): AdamWState {
  const t = state.step + 1
  const step: Step = {
    mRate: 1 - args.beta1,
    beta2: args.beta2,
    vRate: 1 - args.beta2,
    stepSize: args.learning_rate / (1 - args.beta1 ** t),
    vScale: Math.sqrt(1 - args.beta2 ** t),
    eps: args.eps,
    keep: 1 - args.learning_rate * args.weight_decay,
    decayed: args.decayed,
  }
  const next = onGpu() ? stepOnGpu(state, g, step) : stepOnHost(state, g, step)
  tf.dispose([state.p, state.m, state.v])
  return { ...next, step: t }
}

type Vectors = Pick<AdamWState, 'p' | 'm' | 'v'>

function stepOnHost(state: Vectors, g: tf.Tensor1D, step: Step): Vectors {
  return tf.tidy(() => {
    const m = tf.add<tf.Tensor1D>(state.m, tf.mul(tf.sub(g, state.m), step.mRate))
    const v = tf.add<tf.Tensor1D>(tf.mul(state.v, step.beta2), tf.mul(tf.square(g), step.vRate))
    const update = tf.div(m, tf.add(tf.div(tf.sqrt(v), step.vScale), step.eps))
    return { p: tf.sub<tf.Tensor1D>(decay(state.p, step), tf.mul(update, step.stepSize)), m, v }
  })
}

function decay(p: tf.Tensor1D, { keep, decayed }: Step): tf.Tensor1D {
  if (decayed === 0 || keep === 1) return p
  if (decayed >= p.size) return tf.mul(p, keep)
  return tf.concat([tf.mul(tf.slice(p, 0, decayed), keep), tf.slice(p, decayed)])
}

function stepOnGpu(state: Vectors, g: tf.Tensor1D, step: Step): Vectors {
  const size = g.size
  const { mRate, vRate, beta2, stepSize, vScale, eps, keep, decayed } = step
  const m = runElements<tf.Tensor1D>(mKernel, [state.m, g], { size, mRate }, g.shape, size)
  const v = runElements<tf.Tensor1D>(vKernel, [state.v, g], { size, beta2, vRate }, g.shape, size)
  const uniforms = { size, stepSize, vScale, eps, keep, decayed }
  return { p: runElements<tf.Tensor1D>(pKernel, [state.p, m, v], uniforms, g.shape, size), m, v }
}

const guarded = (value: string) => `
fn main(index : i32) {
  if (index < uniforms.size) { result[index] = ${value}; }
}`

const mKernel: Kernel = {
  name: 'adamw m',
  inputs: ['m', 'g'],
  uniforms: { size: 'int32', mRate: 'float32' },
  workgroupSize: 64,
  code: guarded('m[index] + uniforms.mRate * (g[index] - m[index])'),
}

const vKernel: Kernel = {
  name: 'adamw v',
  inputs: ['v', 'g'],
  uniforms: { size: 'int32', beta2: 'float32', vRate: 'float32' },
  workgroupSize: 64,
  code: guarded('uniforms.beta2 * v[index] + uniforms.vRate * g[index] * g[index]'),
}

const pKernel: Kernel = {
  name: 'adamw p',
  inputs: ['p', 'm', 'v'],
  uniforms: {
    size: 'int32',
    stepSize: 'float32',
    vScale: 'float32',
    eps: 'float32',
    keep: 'float32',
    decayed: 'int32',
  },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let kept = p[index] * select(1.0, uniforms.keep, index < uniforms.decayed);
  result[index] = kept - uniforms.stepSize * (m[index] / (sqrt(v[index]) / uniforms.vScale + uniforms.eps));
}`,
}
