/**
 * Dropout whose mask is a hash of (seed, offset, element), so that it needs no storage: the same call on dy is the
 * backward. The bits are the same on every backend. The mixing function is a multiply-xorshift bijection with
 * constants from the search of https://github.com/skeeto/hash-prospector.
 */
import * as tf from '@tensorflow/tfjs-core'
import { runElements, runsOwn, type Kernel } from './program.ts'

/** One mask: elements are dropped at `rate`; another `offset` gives an independent mask under the same `seed`. */
export interface Drop {
  rate: number
  seed: number
  offset: number
}

/** The uniforms that `dropCode` reads; their values come from `dropValues`. */
export const dropUniforms: Kernel['uniforms'] = {
  dropK0: 'uint32',
  dropK1: 'uint32',
  dropBelow: 'uint32',
  dropGain: 'float32',
}

/**
 * WGSL for an epilogue: `dropped(value, element)` is `value` as `dropout` leaves it at that index of the flat result.
 * The program must declare `dropUniforms`.
 */
export const dropCode = `
fn dropMix(word : u32) -> u32 {
  var x = word;
  x ^= x >> 16u;
  x *= 0x21f0aaadu;
  x ^= x >> 15u;
  x *= 0x735a2d97u;
  x ^= x >> 15u;
  return x;
}
fn dropped(value : f32, element : u32) -> f32 {
  let bits = dropMix(dropMix(element ^ uniforms.dropK0) + uniforms.dropK1);
  return select(0.0, value * uniforms.dropGain, bits >= uniforms.dropBelow);
}`

/** Values of `dropUniforms`; null drops nothing. Throws when the rate is outside [0, 1). */
export function dropValues(drop: Drop | null): Record<string, number> {
  const { rate, seed, offset } = drop ?? { rate: 0, seed: 0, offset: 0 }
  assertRate(rate)
  const [dropK0, dropK1] = keys(seed, offset)
  return { dropK0, dropK1, dropBelow: dropBelow(rate), dropGain: 1 / (1 - rate) }
}

/**
 * x scaled by 1/(1-rate) where hash(seed, offset, i) >= rate * 2^32, else 0, in any shape. Throws when the rate is
 * outside [0, 1).
 */
export function dropout<T extends tf.Tensor>(x: T, drop: Drop): T {
  const { rate, seed, offset } = drop
  assertRate(rate)
  if (rate === 0) return tf.clone(x)
  if (!runsOwn('dropout'))
    return tf.tidy(() => tf.mul<T>(x, tf.tensor(dropoutMask(x.size, rate, seed, offset), x.shape)))
  return runElements(kernel, [x], { size: x.size, ...dropValues(drop) }, x.shape, x.size)
}

/** What `dropout` multiplies n elements by: 0 or float32 1/(1-p). */
export function dropoutMask(n: number, p: number, seed: number, offset: number): Float32Array {
  const [k0, k1] = keys(seed, offset)
  const threshold = dropBelow(p)
  const mask = new Float32Array(n)
  for (let i = 0; i < n; i++) {
    if (mix((mix(i ^ k0) + k1) | 0) >= threshold) mask[i] = 1 / (1 - p)
  }
  return mask
}

function assertRate(p: number): void {
  if (!(p >= 0 && p < 1)) throw new Error(`A dropout rate of ${p} is outside [0, 1).`)
}

function dropBelow(p: number): number {
  return Math.floor(p * 2 ** 32)
}

/** Two words that depend on all bits of seed and offset. */
function keys(seed: number, offset: number): [number, number] {
  const k0 = mix(mix(seed) ^ offset)
  return [k0, mix(k0 + 0x9e3779b9)]
}

/** A bijection of 32-bit words in which every output bit depends on every input bit. */
function mix(x: number): number {
  x ^= x >>> 16
  x = Math.imul(x, 0x21f0aaad)
  x ^= x >>> 15
  x = Math.imul(x, 0x735a2d97)
  x ^= x >>> 15
  return x >>> 0
}

const kernel: Kernel = {
  name: 'dropout',
  inputs: ['x'],
  uniforms: { size: 'int32', ...dropUniforms },
  workgroupSize: 64,
  code: `${dropCode}
fn main(index : i32) {
  if (index < uniforms.size) { result[index] = dropped(x[index], u32(index)); }
}`,
}
