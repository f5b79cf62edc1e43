/** How torch draws the weights of fresh modules: `nn.Linear`, and the functions of `torch.nn.init` that adapters use. */
import type { HostTensor } from '../config.ts'
import type { TorchGenerator } from '../random.ts'

/** N(mean 0, std) in the order of `Tensor.normal_`. */
export function normal(generator: TorchGenerator, shape: number[], std: number): HostTensor {
  return { shape, data: generator.normal(sizeOf(shape), 0, std) }
}

/** U(±1/√fan_in), which is what `kaiming_uniform_` with a = √5 comes to. */
export function kaimingUniform(generator: TorchGenerator, shape: number[], fan_in: number): HostTensor {
  const bound = 1 / Math.sqrt(fan_in)
  return { shape, data: generator.uniform(sizeOf(shape), -bound, bound) }
}

/** The values with which `nn.Linear(inputs, outputs)` is born; `bias` null without one. */
export function bornLinear(
  generator: TorchGenerator,
  inputs: number,
  outputs: number,
  bias = true,
): { weight: HostTensor; bias: HostTensor | null } {
  const weight = kaimingUniform(generator, [outputs, inputs], inputs)
  return { weight, bias: bias ? kaimingUniform(generator, [outputs], inputs) : null }
}

/** `trunc_normal_` with mean 0 and cuts at ±bound, as torch 2.13 has it: all values drawn again for those outside. */
export function truncatedNormal(
  generator: TorchGenerator,
  shape: number[],
  std: number,
  bound: number,
): HostTensor {
  const size = sizeOf(shape)
  const data = generator.normal(size, 0, std)
  const cut = Math.fround(bound)
  const outside = (value: number) => Math.abs(value) > cut
  while (data.some(outside)) {
    const again = generator.normal(size, 0, std)
    for (let i = 0; i < size; i++) if (outside(data[i]!)) data[i] = again[i]!
  }
  return { shape, data }
}

/** N(0, 2/(rows + columns)) slice by slice of [p,rows,columns]: `xavier_normal_` on each slice i of each tensor in turn. */
export function xavierNormalSlices(generator: TorchGenerator, shapes: number[][]): HostTensor[] {
  const tensors = shapes.map((shape) => ({ shape, data: new Float32Array(sizeOf(shape)) }))
  const slices = shapes[0]?.[0] ?? 0
  for (let i = 0; i < slices; i++)
    for (const { shape, data } of tensors) {
      const [rows, columns] = [shape[1]!, shape[2]!]
      const size = rows * columns
      data.set(generator.normal(size, 0, Math.sqrt(2 / (rows + columns))), i * size)
    }
  return tensors
}

export function filled(shape: number[], value: number): HostTensor {
  return { shape, data: new Float32Array(sizeOf(shape)).fill(value) }
}

export function sizeOf(shape: number[]): number {
  return shape.reduce((a, b) => a * b, 1)
}
