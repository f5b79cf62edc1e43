/**
 * Weights drawn from an integer hash of the tensor's name, the same bits as `made_up` in tests/parity/store.py: a
 * model of any size, on both sides, without a file.
 */
import type { RobertaConfig, TensorMap } from '../src/config.ts'
import { baseShapes, type WeightSource } from '../src/model/loadRoberta.ts'

/** FNV-1a of the name, 32 bits. */
function seedOf(name: string): number {
  let seed = 0x811c9dc5
  for (let i = 0; i < name.length; i++) seed = Math.imul(seed ^ name.charCodeAt(i), 0x01000193)
  return seed
}

/** murmur3's finaliser, as a number in [-1, 1) on a 24-bit grid. */
function hashed(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return ((x ^ (x >>> 16)) >>> 8) * 2 ** -23 - 1
}

/** Matrices by fan-in, LayerNorm weights near 1, small biases: activations stay lively at any size. */
export function madeUp(name: string, shape: number[]): Float32Array {
  const centre = name.endsWith('LayerNorm.weight') ? 1 : 0
  const isMatrix = shape.length > 1
  const span = !isMatrix ? 0.2 : name.includes('embeddings') ? 0.5 : 2 / Math.sqrt(shape.at(-1)!)
  const seed = seedOf(name)
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1))
  for (let i = 0; i < data.length; i++)
    data[i] = hashed((seed + Math.imul(i, 0x9e3779b9)) | 0) * span + centre
  return data
}

export function madeUpTensors(shapes: Iterable<[name: string, shape: number[]]>): TensorMap {
  return new Map([...shapes].map(([name, shape]) => [name, { shape, data: madeUp(name, shape) }]))
}

/** A whole made-up checkpoint for `config`, one tensor at a time. */
export function madeUpWeights(config: RobertaConfig): WeightSource {
  const shapes = new Map(baseShapes(config).map(([key, shape]) => [`roberta.${key}`, shape]))
  return {
    names: () => [...shapes.keys()],
    shape: (name) => shapes.get(name)!,
    read: async (name) => madeUp(name, shapes.get(name)!),
    async *readChunks(name, maxElements) {
      const data = madeUp(name, shapes.get(name)!)
      for (let start = 0; start < data.length; start += maxElements)
        yield data.subarray(start, start + maxElements)
    },
  }
}
