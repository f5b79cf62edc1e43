/** Activations as configurations name them. */
import type { Activation } from '../kernels/activations.ts'

/** Every name that the kernels know; the type keeps the two lists alike. */
const known: Record<Activation, true> = {
  gelu: true,
  gelu_10: true,
  gelu_accurate: true,
  gelu_fast: true,
  gelu_new: true,
  gelu_python: true,
  gelu_python_tanh: true,
  gelu_pytorch_tanh: true,
  laplace: true,
  leaky_relu: true,
  leakyrelu: true,
  linear: true,
  mish: true,
  quick_gelu: true,
  relu: true,
  relu2: true,
  relu6: true,
  sigmoid: true,
  silu: true,
  swish: true,
  tanh: true,
}

/** Names for a form. */
export const nonLinearities = Object.keys(known) as Activation[]

/** The activation called `name`; the library takes capitals too. Throws on any other. */
export function nonLinearity(name: string): Activation {
  const problem = nonLinearityProblem(name)
  if (problem !== null) throw new Error(problem)
  return name.toLowerCase() as Activation
}

/** Why `name` is no activation that can run here, in one sentence; null when it is one. */
export function nonLinearityProblem(name: unknown): string | null {
  if (typeof name === 'string' && Object.hasOwn(known, name.toLowerCase())) return null
  const given = typeof name === 'string' ? `“${name}”` : JSON.stringify(name)
  return `non_linearity is ${given}, which is no activation known here; take one of ${nonLinearities.join(', ')}.`
}
