/**
 * Weights drawn from an integer hash of the tensor's name, the same bits as `made_up` in tests/parity/store.py: a
 * model of any size, on both sides, without a file. `sketch` likewise: a tensor in few numbers.
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

/** `count` numbers in [-1, 1). */
export function uniform(name: string, count: number): Float64Array {
  return fill(name, new Float64Array(count), 0, 1)
}

/** `centre` and at most `span` more or less, drawn from `name`. */
function fill<T extends Float32Array | Float64Array>(name: string, data: T, centre: number, span: number): T {
  const seed = seedOf(name)
  for (let i = 0; i < data.length; i++)
    data[i] = hashed((seed + Math.imul(i, 0x9e3779b9)) | 0) * span + centre
  return data
}

/** Where the values of a tensor lie. */
function rangeOf(name: string, shape: number[]): { centre: number; span: number } {
  const isScale = /(LayerNorm\.weight|norm_before\.weight|norm_after\.weight|\.scaling)$/.test(name)
  if (isScale) return { centre: 1, span: 0.2 }
  if (shape.length === 2 && shape[1] === 1) return { centre: 1, span: 0.5 }
  if (name.includes('.phm_rule') || name.includes('.W_')) return { centre: 0, span: 0.8 }
  if (shape.length < 2) return { centre: 0, span: 0.2 }
  const span = name.includes('embeddings') ? 0.5 : 2 / Math.sqrt(shape.at(-1)!)
  return { centre: 0, span: name.includes('.adapter_fusion_layer.') ? span / 4 : span }
}

/** Matrices by fan-in, scales and norms near 1, small biases: activations stay lively at any size. */
export function madeUp(name: string, shape: number[]): Float32Array {
  const { centre, span } = rangeOf(name, shape)
  const size = shape.reduce((a, b) => a * b, 1)
  const data = fill(name, new Float32Array(size), centre, span)
  if (name.endsWith('parametrizations.weight.original'))
    for (let i = 0; i < Math.min(...shape); i++) data[i * shape[1]! + i] = -1
  return data
}

export function madeUpTensors(shapes: Iterable<[name: string, shape: number[]]>): TensorMap {
  return new Map([...shapes].map(([name, shape]) => [name, { shape, data: madeUp(name, shape) }]))
}

/** A whole made-up checkpoint for `config`, with a pooler when asked for, one tensor at a time. */
export function madeUpWeights(config: RobertaConfig, pooler = false): WeightSource {
  const { hidden_size: H } = config
  const shapes = new Map(baseShapes(config).map(([key, shape]) => [`roberta.${key}`, shape]))
  if (pooler) shapes.set('roberta.pooler.dense.weight', [H, H]).set('roberta.pooler.dense.bias', [H])
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

const projections = 8
const directions = new Map<string, Float64Array>()

function direction(k: number, size: number): Float64Array {
  const key = `${k} ${size}`
  const kept = directions.get(key)
  if (kept) return kept
  const made = uniform(`direction ${k}`, size)
  directions.set(key, made)
  return made
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

/** `sketch` of tests/parity/store.py: a tensor's length, then its few values or its products with eight directions. */
export function sketch(values: Float32Array): number[] {
  const kept =
    values.length > projections
      ? Array.from({ length: projections }, (_, k) => dot(values, direction(k, values.length)))
      : [...values]
  return [Math.sqrt(dot(values, values)), ...kept]
}

/** How far apart two tensors of `size` elements are, by their sketches: exact for small ones, else an estimate. */
export function sketchDistance(ours: number[], theirs: number[], size: number): number {
  const squares = theirs.slice(1).reduce((sum, value, i) => sum + (value - ours[i + 1]!) ** 2, 0)
  // A direction's entries are uniform in [-1, 1): of variance a third.
  const spread = size > projections ? Math.sqrt((3 * squares) / projections) : Math.sqrt(squares)
  return Math.max(spread, Math.abs(ours[0]! - theirs[0]!))
}

/** Rows of `width` numbers, each summed with factors made up from `name`. */
export function weighed(name: string, values: Float32Array, width: number): Float32Array {
  const factors = uniform(name, width)
  return Float32Array.from({ length: values.length / width }, (_, i) =>
    dot(values.subarray(i * width, (i + 1) * width), factors),
  )
}
