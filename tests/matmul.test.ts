/** Matrix products on the host backends (see kernels/matmulChecks.ts), and half precision, which needs none. */
import { expect, test } from 'vitest'
import { fromHalf, toHalf } from '../src/kernels/half.ts'
import { declareMatmulTests } from './kernels/matmulChecks.ts'
import { random } from './kernels/harness.ts'

declareMatmulTests('cpu')
declareMatmulTests('wasm')

/** Every finite half-precision value from zero up, by its definition, at the index of its bits. */
const halves = Array.from({ length: 0x7c00 }, (_, bits) => {
  const [exponent, fraction] = [bits >> 10, bits & 1023]
  return exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25)
})

test('every half-precision value survives both ways, in both halves of a word', () => {
  const words = Int32Array.from(halves, (_, bits) => bits | ((bits | 0x8000) << 16))
  const values = fromHalf(words)
  halves.forEach((value, bits) => {
    expect(values[2 * bits]).toBe(value)
    expect(values[2 * bits + 1]).toBe(-value)
  })
  expect(toHalf(values)).toEqual(words)
})

test('toHalf rounds to nearest, and halfway to the even one', () => {
  const once = (value: number) => fromHalf(toHalf(Float32Array.of(value, 0)))[0]
  for (let bits = 0; bits + 1 < halves.length; bits += 7) {
    const [low, high] = [halves[bits]!, halves[bits + 1]!]
    const middle = (low + high) / 2
    expect(once(middle)).toBe(bits % 2 ? high : low)
    expect(once(low + (high - low) * 0.499)).toBe(low)
    expect(once(low + (high - low) * 0.501)).toBe(high)
  }
  for (const value of random(1000)) {
    expect(Math.abs(once(value)! - value)).toBeLessThanOrEqual(2 ** -11 * Math.abs(value) + 2 ** -25)
  }
})

test('toHalf overflows to infinity, keeps NaN and signed zeros, and refuses an odd number of values', () => {
  const values = Float32Array.of(65519, 65520, -1e6, Infinity, -Infinity, NaN, -0, 1e-9)
  expect([...fromHalf(toHalf(values))]).toEqual([65504, Infinity, -Infinity, Infinity, -Infinity, NaN, -0, 0])
  expect(() => toHalf(new Float32Array(3))).toThrow('packs pairs')
})
