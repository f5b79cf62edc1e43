/** How the library's heads are drawn: `nn.Linear`'s own start, thrown away by the model's `_init_weights`. */
import type { TensorMap } from '../../config.ts'
import type { Parameter, Start } from '../../methods/method.ts'
import type { TorchGenerator } from '../../random.ts'

const size = ({ shape }: Parameter) => shape.reduce((a, b) => a * b, 1)

/** Linear layers that are made one after another and then initialised in that order. */
export function drawLinears(start: Start, parameters: Parameter[]): TensorMap {
  for (const one of parameters) skipUniform(start.generator, size(one))
  return initLinears(start, parameters)
}

/** `_init_weights` of Linear layers: weights N(0, initializer_range), biases 0. */
export function initLinears({ generator, base }: Start, parameters: Parameter[]): TensorMap {
  return new Map(
    parameters.map((one) => {
      const n = size(one)
      const isWeight = one.key.endsWith('weight')
      const data = isWeight ? generator.normal(n, 0, base.initializer_range) : new Float32Array(n)
      return [one.key, { shape: one.shape, data }]
    }),
  )
}

/** Passes over `n` uniform draws. */
export function skipUniform(generator: TorchGenerator, n: number): void {
  for (let i = 0; i < n; i++) generator.next32()
}

/** Passes over the draws of one tensor of `n` normal values. */
export function skipNormal(generator: TorchGenerator, n: number): void {
  if (n < 16) generator.normal(n)
  else skipUniform(generator, n % 16 === 0 ? n : n + 16)
}
