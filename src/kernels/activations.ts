/**
 * Elementwise activations under their Hugging Face names (transformers `ACT2FN`), several of which are one function.
 * `gelu` is the exact one, with erf (torch's default and RoBERTa's); `gelu_new` is GPT-2's tanh form. erf is Abramowitz
 * & Stegun 7.1.26, in tfjs as in our WGSL: its error is below 1.5e-7, and the gradient uses the exact density beside it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { runElements, runsOwn, type Kernel } from './program.ts'

/** Every name of the library but `prelu` and `xielu`, which have weights of their own. */
export const activations = [
  'gelu',
  'gelu_10',
  'gelu_accurate',
  'gelu_fast',
  'gelu_new',
  'gelu_python',
  'gelu_python_tanh',
  'gelu_pytorch_tanh',
  'laplace',
  'leaky_relu',
  'leakyrelu',
  'linear',
  'mish',
  'quick_gelu',
  'relu',
  'relu2',
  'relu6',
  'sigmoid',
  'silu',
  'swish',
  'tanh',
] as const

/** Names that `config.hidden_act`, an adapter's non_linearity and a head's activation_function may have. */
export type Activation = (typeof activations)[number]

/** x -> f(x). Throws on a name that is not one of `Activation`. */
export function activation<T extends tf.Tensor>(name: Activation, x: T): T {
  const formula = find(name)
  if (!runsOwn('activation')) return tf.tidy(() => formula.forward(x) as T)
  return runWgsl(name, 'forward', formula.wgsl.forward, [x], x)
}

/** dy, x -> dy f'(x). Throws as `activation`. */
export function activationBackward<T extends tf.Tensor>(name: Activation, dy: T, x: T): T {
  const formula = find(name)
  if (!runsOwn('activation')) return tf.tidy(() => tf.mul<T>(dy, formula.derivative(x)))
  return runWgsl(name, 'backward', `dy[index] * (${formula.wgsl.derivative})`, [x, dy], x)
}

/**
 * f and f' for another program: WGSL expressions of an f32 `v`, and the functions that they call. Throws as
 * `activation`.
 */
export function activationCode(name: Activation): { functions: string; forward: string; derivative: string } {
  return { functions, ...find(name).wgsl }
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

/** gelu, kept within ±10. */
const gelu_10: Formula = {
  forward: (x) => tf.clipByValue(gelu.forward(x), -10, 10),
  derivative: (x) =>
    tf.mul(gelu.derivative(x), tf.cast(tf.lessEqual(tf.abs(gelu.forward(x)), 10), 'float32')),
  wgsl: {
    forward: 'clamp(v * cdf(v), -10.0, 10.0)',
    derivative: `select(0.0, ${gelu.wgsl.derivative}, abs(v * cdf(v)) <= 10.0)`,
  },
}

/** The normal distribution function of mean √½ and deviation √(1/4π), rounded as transformers rounds them. */
const [laplaceMean, laplaceDeviation] = [0.707107, 0.282095]
const laplace: Formula = {
  forward: (x) => normalCdf(tf.div(tf.sub(x, laplaceMean), laplaceDeviation)),
  derivative: (x) =>
    tf.div(normalDensity(tf.div(tf.sub(x, laplaceMean), laplaceDeviation)), laplaceDeviation),
  wgsl: {
    forward: `cdf((v - ${laplaceMean}) / ${laplaceDeviation})`,
    derivative: `density((v - ${laplaceMean}) / ${laplaceDeviation}) / ${laplaceDeviation}`,
  },
}

const leaky_relu: Formula = {
  forward: (x) => tf.leakyRelu(x, 0.01),
  derivative: (x) => tf.add(0.01, tf.mul(0.99, tf.step(x))),
  wgsl: { forward: 'select(0.01 * v, v, v > 0.0)', derivative: 'select(0.01, 1.0, v > 0.0)' },
}

const linear: Formula = {
  forward: (x) => tf.clone(x),
  derivative: (x) => tf.onesLike(x),
  wgsl: { forward: 'v', derivative: '1.0' },
}

const mish: Formula = {
  forward: (x) => tf.mul(x, tf.tanh(tf.softplus(x))),
  derivative: (x) => {
    const t = tf.tanh(tf.softplus(x))
    return tf.add(t, tf.mul(tf.mul(x, tf.sigmoid(x)), tf.sub(1, tf.square(t))))
  },
  wgsl: {
    forward: 'v * tanhOf(softplus(v))',
    derivative: `tanhOf(softplus(v)) +
      v * sigmoid(v) * (1.0 - tanhOf(softplus(v)) * tanhOf(softplus(v)))`,
  },
}

const quick_gelu: Formula = {
  forward: (x) => tf.mul(x, tf.sigmoid(tf.mul(x, 1.702))),
  derivative: (x) => {
    const s = tf.sigmoid(tf.mul(x, 1.702))
    return tf.mul(s, tf.add(1, tf.mul(tf.mul(x, 1.702), tf.sub(1, s))))
  },
  wgsl: {
    forward: 'v * sigmoid(1.702 * v)',
    derivative: 'sigmoid(1.702 * v) * (1.0 + 1.702 * v * (1.0 - sigmoid(1.702 * v)))',
  },
}

const relu2: Formula = {
  forward: (x) => tf.square(tf.relu(x)),
  derivative: (x) => tf.mul(2, tf.relu(x)),
  wgsl: { forward: 'max(v, 0.0) * max(v, 0.0)', derivative: '2.0 * max(v, 0.0)' },
}

const relu6: Formula = {
  forward: (x) => tf.relu6(x),
  derivative: (x) => tf.mul(tf.step(x), tf.step(tf.sub(6, x))),
  wgsl: { forward: 'clamp(v, 0.0, 6.0)', derivative: 'select(0.0, 1.0, v > 0.0 && v < 6.0)' },
}

const sigmoid: Formula = {
  forward: (x) => tf.sigmoid(x),
  derivative: (x) => {
    const s = tf.sigmoid(x)
    return tf.mul(s, tf.sub(1, s))
  },
  wgsl: { forward: 'sigmoid(v)', derivative: 'sigmoid(v) * (1.0 - sigmoid(v))' },
}

const formulas: Record<Activation, Formula> = {
  gelu,
  gelu_10,
  gelu_accurate: gelu_new,
  gelu_fast: gelu_new,
  gelu_new,
  gelu_python: gelu,
  gelu_python_tanh: gelu_new,
  gelu_pytorch_tanh: gelu_new,
  laplace,
  leaky_relu,
  leakyrelu: leaky_relu,
  linear,
  mish,
  quick_gelu,
  relu,
  relu2,
  relu6,
  sigmoid,
  silu,
  swish: silu,
  tanh,
}

function find(name: Activation): Formula {
  if (Object.hasOwn(formulas, name)) return formulas[name]
  throw new Error(`The activation "${name}" is not known here; known are ${activations.join(', ')}.`)
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
fn softplus(v : f32) -> f32 { return max(v, 0.0) + log(1.0 + exp(-abs(v))); }
fn density(v : f32) -> f32 { return ${densityScale} * exp(-0.5 * v * v); }
fn sigmoid(v : f32) -> f32 { return 1.0 / (1.0 + exp(clamp(-v, -80.0, 80.0))); }
fn cdf(v : f32) -> f32 {
  let z = abs(v) * ${Math.SQRT1_2};
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let half = 0.5 * tail * exp(-z * z);
  return select(half, 1.0 - half, v > 0.0);
}`
