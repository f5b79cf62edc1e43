/**
 * Elementwise activations under their Hugging Face names. `gelu` is the exact one, with erf (torch's default and
 * RoBERTa's); `gelu_new` is GPT-2's tanh form; `swish` is another name of `silu`. erf is Abramowitz & Stegun 7.1.26,
 * in tfjs as in our WGSL: its error is below 1.5e-7, and the gradient uses the exact density beside it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { onGpu, runElements, type Kernel } from './program.ts'

/** Names that `config.hidden_act` and an adapter's non_linearity may have. */
export type Activation = 'gelu' | 'gelu_new' | 'relu' | 'silu' | 'swish' | 'tanh'

/** x -> f(x). Throws on a name that is not one of `Activation`. */
export function activation<T extends tf.Tensor>(name: Activation, x: T): T {
  const formula = find(name)
  if (!onGpu()) return tf.tidy(() => formula.forward(x) as T)
  return runWgsl(name, 'forward', formula.wgsl.forward, [x], x)
}

/** dy, x -> dy f'(x). Throws as `activation`. */
export function activationBackward<T extends tf.Tensor>(name: Activation, dy: T, x: T): T {
  const formula = find(name)
  if (!onGpu()) return tf.tidy(() => tf.mul<T>(dy, formula.derivative(x)))
  return runWgsl(name, 'backward', `dy[index] * (${formula.wgsl.derivative})`, [x, dy], x)
}

/** f and f' in tfjs ops, and in WGSL as expressions of `v`. */
interface Formula {
  forward(x: tf.Tensor): tf.Tensor
  derivative(x: tf.Tensor): tf.Tensor
  wgsl: { forward: string; derivative: string }
}

/** sqrt(2/π) and 1/sqrt(2π). */
const tanhScale = Math.sqrt(2 / Math.PI)
const densityScale = 1 / Math.sqrt(2 * Math.PI)

const gelu: Formula = {
  forward: (x) => tf.mul(x, normalCdf(x)),
  derivative: (x) => tf.add(normalCdf(x), tf.mul(x, normalDensity(x))),
  wgsl: { forward: 'v * cdf(v)', derivative: `cdf(v) + v * ${densityScale} * exp(-0.5 * v * v)` },
}

const gelu_new: Formula = {
  forward: (x) => tf.mul(tf.mul(x, 0.5), tf.add(1, tf.tanh(tanhArgument(x)))),
  derivative: (x) => {
    const t = tf.tanh(tanhArgument(x))
    const slope = tf.mul(tanhScale, tf.add(1, tf.mul(3 * 0.044715, tf.square(x))))
    return tf.mul(0.5, tf.add(tf.add(1, t), tf.mul(tf.mul(x, tf.sub(1, tf.square(t))), slope)))
  },
  wgsl: {
    forward: '0.5 * v * (1.0 + tanhOf(tanhArgument(v)))',
    derivative: `0.5 * (1.0 + tanhOf(tanhArgument(v))) + 0.5 * v * ${tanhScale} * (1.0 + 0.134145 * v * v) *
      (1.0 - tanhOf(tanhArgument(v)) * tanhOf(tanhArgument(v)))`,
  },
}

const silu: Formula = {
  forward: (x) => tf.mul(x, tf.sigmoid(x)),
  derivative: (x) => {
    const s = tf.sigmoid(x)
    return tf.mul(s, tf.add(1, tf.mul(x, tf.sub(1, s))))
  },
  wgsl: { forward: 'v * sigmoid(v)', derivative: 'sigmoid(v) * (1.0 + v * (1.0 - sigmoid(v)))' },
}

const relu: Formula = {
  forward: (x) => tf.relu(x),
  derivative: (x) => tf.step(x),
  wgsl: { forward: 'max(v, 0.0)', derivative: 'select(0.0, 1.0, v > 0.0)' },
}

const tanh: Formula = {
  forward: (x) => tf.tanh(x),
  derivative: (x) => tf.sub(1, tf.square(tf.tanh(x))),
  wgsl: { forward: 'tanhOf(v)', derivative: '1.0 - tanhOf(v) * tanhOf(v)' },
}

const formulas: Record<Activation, Formula> = { gelu, gelu_new, relu, silu, swish: silu, tanh }

function find(name: Activation): Formula {
  if (Object.hasOwn(formulas, name)) return formulas[name]
  throw new Error(
    `The activation "${name}" is not known here; known are ${Object.keys(formulas).join(', ')}.`,
  )
}

function normalCdf(x: tf.Tensor): tf.Tensor {
  return tf.mul(0.5, tf.add(1, tf.erf(tf.mul(x, Math.SQRT1_2))))
}

function normalDensity(x: tf.Tensor): tf.Tensor {
  return tf.mul(densityScale, tf.exp(tf.mul(-0.5, tf.square(x))))
}

function tanhArgument(x: tf.Tensor): tf.Tensor {
  return tf.mul(tanhScale, tf.add(x, tf.mul(0.044715, tf.mul(x, tf.square(x)))))
}

function runWgsl<T extends tf.Tensor>(
  name: Activation,
  pass: 'forward' | 'backward',
  value: string,
  inputs: tf.Tensor[],
  { shape, size }: tf.Tensor,
): T {
  const kernel: Kernel = {
    name: `${name} ${pass}`,
    inputs: ['x', 'dy'].slice(0, inputs.length),
    uniforms: { size: 'int32' },
    workgroupSize: 64,
    code: `${functions}
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let v = x[index];
  result[index] = ${value};
}`,
  }
  return runElements(kernel, inputs, { size }, shape, size)
}

/** exp and tanh get clamped arguments: drivers may treat an infinity as anything. */
const functions = `
fn tanhOf(v : f32) -> f32 { return tanh(clamp(v, -15.0, 15.0)); }
fn tanhArgument(v : f32) -> f32 { return ${tanhScale} * (v + 0.044715 * v * v * v); }
fn sigmoid(v : f32) -> f32 { return 1.0 / (1.0 + exp(clamp(-v, -80.0, 80.0))); }
fn cdf(v : f32) -> f32 {
  let z = abs(v) * ${Math.SQRT1_2};
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let half = 0.5 * tail * exp(-z * z);
  return select(half, 1.0 - half, v > 0.0);
}`
