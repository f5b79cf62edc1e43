/**
 * Half precision (IEEE 754 binary16) as storage: two values in one int32 word, the first in the low half, which WGSL
 * unpacks everywhere, with or without `shader-f16`. Sums over such values stay in float32. tfjs's own operations cannot
 * take such words apart, so that where a device is wrong here nothing is packed: whoever packs asks `packs`.
 */
import * as tf from '@tensorflow/tfjs-core'
import { uploadTensor, webgpuBackend } from './backend.ts'
import { onGpu, runElements, runsOwn, type Kernel } from './program.ts'

/**
 * values, an even number -> half as many words. Rounds to nearest, ties to even; what lies beyond ±65504 becomes
 * infinite, as in torch. Throws on an odd number of values.
 */
export function toHalf(values: Float32Array): Int32Array {
  if (values.length % 2 !== 0)
    throw new Error(
      `toHalf packs pairs and got ${values.length} values; keep a matrix of odd width in float32.`,
    )
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const words = new Int32Array(values.length / 2)
  for (let i = 0; i < words.length; i++) words[i] = rounded(bits[2 * i]!) | (rounded(bits[2 * i + 1]!) << 16)
  return words
}

/** What the words of `toHalf` stand for, twice as many values. */
export function fromHalf(words: Int32Array): Float32Array {
  const values = new Float32Array(words.length * 2)
  words.forEach((word, i) => {
    values[2 * i] = valueOf(word & 0xffff)
    values[2 * i + 1] = valueOf(word >>> 16)
  })
  return values
}

/** Whether values may be held as halves: everything stays in float32 on a GPU that packs or unpacks them wrongly. */
export function packs(): boolean {
  return !onGpu() || runsOwn('half')
}

/** x int32 [...,n/2] as `toHalf` packs it -> float32 [...,n]. */
export function halfToFloat<T extends tf.Tensor>(x: tf.Tensor): T {
  const shape = [...x.shape.slice(0, -1), 2 * (x.shape.at(-1) ?? 0)]
  if (onGpu()) return runElements(kernel, [x], { words: x.size }, shape, x.size)
  return tf.tensor(fromHalf(x.dataSync<'int32'>()), shape) as T
}

/**
 * Whether the open device makes of every half what it stands for: WGSL lets it take those below 2^-14, which weights do
 * have, for zero. False off the GPU, where nothing is packed.
 */
export async function unpacksExactly(): Promise<boolean> {
  if (!onGpu() || !packs()) return false
  const words = Int32Array.from({ length: 1 << 15 }, (_, i) => (2 * i) | ((2 * i + 1) << 16))
  const packed = uploadTensor<tf.Rank.R1>(words, [words.length])
  const values = halfToFloat<tf.Tensor1D>(packed)
  const found = await values.data<'float32'>()
  tf.dispose([packed, values])
  return fromHalf(words).every((value, i) => Number.isNaN(value) || Object.is(value, found[i]))
}

/** x float32 [...,n], n even -> int32 [...,n/2] as `toHalf` packs it, on the device. */
export function floatToHalf<T extends tf.Tensor>(x: T): T {
  const width = x.shape.at(-1) ?? 0
  if (width % 2 !== 0)
    throw new Error(`A tensor of odd width ${width} cannot be packed in pairs; keep it in float32.`)
  const shape = [...x.shape.slice(0, -1), width / 2]
  if (!onGpu()) return tf.tensor(toHalf(x.dataSync<'float32'>()), shape, 'int32') as T
  const { dataId } = webgpuBackend().makeTensorInfo(shape, 'int32')
  const output = tf.engine().makeTensorFromTensorInfo({ dataId, shape, dtype: 'int32' }) as T
  return runElements<T>(packKernel, [x], { words: output.size }, shape, output.size, output)
}

/** The 16 bits nearest to a float32 given by its bits. */
function rounded(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  // 65536 and above; from 65520 the carry of the rounding below gives infinity.
  if (magnitude >= 0x47800000) return sign | 0x7c00
  // From 2^-14: another bias of the exponent, 13 bits of the fraction less.
  if (magnitude >= 0x38800000) return sign | halve(magnitude - 0x38000000, 13)
  // Up to 2^-25, half of the smallest subnormal, it is zero.
  if (magnitude <= 0x33000000) return sign
  return sign | halve((magnitude & 0x7fffff) | 0x800000, 126 - (magnitude >>> 23))
}

/** x / 2^places to the nearest whole number, ties to even. */
function halve(x: number, places: number): number {
  return (x + (1 << (places - 1)) - 1 + ((x >>> places) & 1)) >>> places
}

function valueOf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >>> 10) & 31
  const fraction = half & 0x3ff
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24)
}

const kernel: Kernel = {
  name: 'halfToFloat',
  inputs: ['x'],
  uniforms: { words: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.words) { return; }
  let pair = unpack2x16float(bitcast<u32>(x[index]));
  result[2 * index] = pair.x;
  result[2 * index + 1] = pair.y;
}`,
}

const packKernel: Kernel = {
  name: 'floatToHalf',
  inputs: ['x'],
  uniforms: { words: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.words) { return; }
  result[index] = bitcast<i32>(pack2x16float(vec2<f32>(x[2 * index], x[2 * index + 1])));
}`,
}
