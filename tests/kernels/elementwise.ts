/** Activations, dropout and embedding. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import {
  activation,
  activationBackward,
  activations,
  type Activation,
} from '../../src/kernels/activations.ts'
import { dropout, dropoutMask } from '../../src/kernels/dropout.ts'
import { assertIds, embedding } from '../../src/kernels/embedding.ts'
import { firstToken, firstTokenBackward } from '../../src/kernels/firstToken.ts'
import { agree, matrix, random, values, vector } from './harness.ts'
import { activationTruth, gradientTruth, worstError } from './truth.ts'

export function declareElementwise(): void {
  test.each(activations)('%s, forward and backward', async (name) => {
    const x = Float32Array.of(...random(65).map((value) => 4 * value), -30, -9, 9, 30)
    const dy = random(x.length)
    const f = activationTruth[name]!
    await agree(() => activation(name, vector(x)), Float64Array.from(x, f), 1e-6)
    const dx = gradientTruth((at) => at.map(f), x, dy)
    await agree(() => activationBackward(name, vector(dy), vector(x)), dx, 1e-6)
  })

  test('an unknown activation is refused by name', () => {
    const x = tf.zeros([2])
    expect(() => activation('prelu' as Activation, x)).toThrow('prelu')
    x.dispose()
  })

  test('dropout has the bits of dropoutMask and is its own backward', async () => {
    const x = random(70_001)
    for (const [p, seed, offset] of [
      [0.1, 42, 0],
      [0.5, 2 ** 32 - 1, -5],
      [0.9, 0, 123456789],
    ] as const) {
      const mask = dropoutMask(x.length, p, seed, offset)
      const got = await values(() => dropout(vector(x), { rate: p, seed, offset }))
      expect(
        worstError(
          got,
          x.map((value, i) => value * mask[i]!),
        ),
      ).toBe(0)
    }
    expect(await values(() => dropout(vector(x), { rate: 0, seed: 1, offset: 1 }))).toEqual(x)
    expect(() => tf.tidy(() => dropout(tf.scalar(1), { rate: 1, seed: 0, offset: 0 }))).toThrow(
      'outside [0, 1)',
    )
  })

  test('embedding of one table and of row blocks', async () => {
    const [V, H] = [11, 5]
    const table = random(V * H)
    const ids = Int32Array.of(0, 10, 4, 3, 3, 8, 7)
    const want = Float32Array.from(
      { length: ids.length * H },
      (_, i) => table[ids[Math.floor(i / H)]! * H + (i % H)]!,
    )
    for (const height of [11, 8, 4, 1]) {
      const cut = (at: number) => matrix(table.slice(at * H, (at + height) * H), H)
      const make = () =>
        embedding(
          Array.from({ length: Math.ceil(V / height) }, (_, i) => cut(i * height)),
          vector(ids),
        )
      expect(await values(make)).toEqual(want)
    }
    expect(() => assertIds(Int32Array.of(1, 11), V)).toThrow('Id 11 at position 1')
    expect(() => assertIds(Int32Array.of(-1), V)).toThrow('Id -1 at position 0')
    assertIds(ids, V)
  })

  test.each([
    [1, 1, 1],
    [3, 5, 7],
    [2, 1, 8],
    [4, 16, 64],
  ])('firstToken of %i texts of %i tokens, %i wide, and its way back', async (B, S, H) => {
    const [x, dy] = [random(B * S * H), random(B * H)]
    const rows = Float32Array.from(dy, (_, i) => x[Math.floor(i / H) * S * H + (i % H)]!)
    expect(await values(() => firstToken(matrix(x, H), B))).toEqual(rows)
    const dx = new Float32Array(B * S * H)
    for (let b = 0; b < B; b++) dx.set(dy.subarray(b * H, (b + 1) * H), b * S * H)
    expect(await values(() => firstTokenBackward(matrix(dy, H), S))).toEqual(dx)
  })
}
