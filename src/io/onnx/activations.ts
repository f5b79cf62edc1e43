/**
 * Activations under the names that transformers and the library give them, written once: as nodes of an ONNX graph, and
 * on numbers for what is worked out before the graph.
 */
import type { OnnxGraph, Value } from './graph.ts'

/** What formulas are made of. */
interface Algebra<T> {
  constant(value: number): T
  add(a: T, b: T): T
  mul(a: T, b: T): T
  tanh(x: T): T
  sigmoid(x: T): T
  erf(x: T): T
  relu(x: T): T
  /** ln(1 + eˣ) */
  softplus(x: T): T
}

type Formula = <T>(x: T, to: Algebra<T>) => T

const linear: Formula = (x) => x
const relu: Formula = (x, to) => to.relu(x)
const leaky: Formula = (x, to) =>
  to.add(to.relu(x), to.mul(to.constant(-0.01), to.relu(to.mul(x, to.constant(-1)))))
const silu: Formula = (x, to) => to.mul(x, to.sigmoid(x))
const gelu: Formula = (x, to) => {
  const erf = to.erf(to.mul(x, to.constant(Math.SQRT1_2)))
  return to.mul(to.mul(x, to.constant(0.5)), to.add(erf, to.constant(1)))
}
const tanhGelu: Formula = (x, to) => {
  const cube = to.mul(to.mul(x, x), x)
  const inner = to.add(x, to.mul(cube, to.constant(0.044715)))
  const tanh = to.tanh(to.mul(inner, to.constant(Math.sqrt(2 / Math.PI))))
  return to.mul(to.mul(x, to.constant(0.5)), to.add(tanh, to.constant(1)))
}
/** min(x, limit) */
const atMost = <T>(x: T, limit: number, to: Algebra<T>): T => {
  const over = to.relu(to.add(x, to.constant(-limit)))
  return to.add(x, to.mul(over, to.constant(-1)))
}

const formulas: Record<string, Formula> = {
  linear,
  relu,
  leakyrelu: leaky,
  leaky_relu: leaky,
  tanh: (x, to) => to.tanh(x),
  sigmoid: (x, to) => to.sigmoid(x),
  silu,
  swish: silu,
  gelu,
  gelu_python: gelu,
  // The exact GELU is never below -0.17, so only its upper limit of 10 is ever reached.
  gelu_10: (x, to) => atMost(gelu(x, to), 10, to),
  gelu_new: tanhGelu,
  gelu_accurate: tanhGelu,
  gelu_fast: tanhGelu,
  gelu_python_tanh: tanhGelu,
  gelu_pytorch_tanh: tanhGelu,
  quick_gelu: (x, to) => to.mul(x, to.sigmoid(to.mul(x, to.constant(1.702)))),
  mish: (x, to) => to.mul(x, to.tanh(to.softplus(x))),
  relu2: (x, to) => to.mul(to.relu(x), to.relu(x)),
  relu6: (x, to) => atMost(to.relu(x), 6, to),
  laplace: (x, to) => {
    const moved = to.add(x, to.constant(-0.707107))
    const erf = to.erf(to.mul(moved, to.constant(Math.SQRT1_2 / 0.282095)))
    return to.mul(to.constant(0.5), to.add(erf, to.constant(1)))
  },
}

/** The formula of a name, capitals or not; null is the identity. Throws for one that is not known. */
function formulaOf(name: string | null): Formula {
  const key = name?.toLowerCase() ?? 'linear'
  const formula = Object.hasOwn(formulas, key) ? formulas[key] : undefined
  if (!formula)
    throw new Error(
      `The activation “${name}” has no counterpart in the ONNX export; export the adapter folder instead.`,
    )
  return formula
}

/** An activation of a value of the graph. */
export function activation(graph: OnnxGraph, name: string | null, x: Value): Value {
  const node = (operator: string) => (y: Value) => graph.node(operator, [y])
  return formulaOf(name)<Value>(x, {
    constant: (value) => graph.scalar(value),
    add: (a, b) => graph.node('Add', [a, b]),
    mul: (a, b) => graph.node('Mul', [a, b]),
    tanh: node('Tanh'),
    sigmoid: node('Sigmoid'),
    erf: node('Erf'),
    relu: node('Relu'),
    softplus: node('Softplus'),
  })
}

/** The same on numbers, in double precision. */
export function hostActivation(name: string | null): (x: number) => number {
  const formula = formulaOf(name)
  const algebra: Algebra<number> = {
    constant: (value) => value,
    add: (a, b) => a + b,
    mul: (a, b) => a * b,
    tanh: Math.tanh,
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    erf,
    relu: (x) => Math.max(x, 0),
    softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  }
  return (x) => formula(x, algebra)
}

/** The error function: its power series, which converges everywhere, up to 4; beyond, 1 to float32's last digit. */
function erf(x: number): number {
  if (Math.abs(x) > 4) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17; n++) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}
