/**
 * Dropout whose mask is a hash of (seed, offset, element), so that it needs no storage: the same call on dy is the
 * backward. The bits are the same on every backend. The mixing function is a multiply-xorshift bijection with
 * constants from the search of https://github.com/skeeto/hash-prospector.
 */
import * as tf from '@tensorflow/tfjs-core'
import { onGpu, runElements, type Kernel } from './program.ts'

/**
 * x scaled by 1/(1-p) where hash(seed, offset, i) >= p * 2^32, else 0, in any shape. Another `offset` gives an
 * independent mask. Throws when p is outside [0, 1).
 */
export function dropout<T extends tf.Tensor>(x: T, p: number, seed: number, offset: number): T {
  if (!(p >= 0 && p < 1)) throw new Error(`Dropout p = ${p} is outside [0, 1).`)
  if (p === 0) return tf.clone(x)
  if (!onGpu()) return tf.tidy(() => tf.mul<T>(x, tf.tensor(dropoutMask(x.size, p, seed, offset), x.shape)))
  const [k0, k1] = keys(seed, offset)
  const uniforms = { size: x.size, k0, k1, threshold: dropBelow(p), gain: 1 / (1 - p) }
  return runElements(kernel, [x], uniforms, x.shape, x.size)
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
  uniforms: { size: 'int32', k0: 'uint32', k1: 'uint32', threshold: 'uint32', gain: 'float32' },
  workgroupSize: 64,
  code: `
fn mix32(word : u32) -> u32 {
  var x = word;
  x ^= x >> 16u;
  x *= 0x21f0aaadu;
  x ^= x >> 15u;
  x *= 0x735a2d97u;
  x ^= x >> 15u;
  return x;
}
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let bits = mix32(mix32(u32(index) ^ uniforms.k0) + uniforms.k1);
  result[index] = select(0.0, x[index] * uniforms.gain, bits >= uniforms.threshold);
}`,
}
