/** Sums, norms and clipping. */
import { expect, test } from 'vitest'
import { addScaled, scale } from '../../src/kernels/addScaled.ts'
import { clipByGlobalNorm, globalNorm } from '../../src/kernels/clip.ts'
import { addTensors, columnSum, sum, sumOfSquares } from '../../src/kernels/sum.ts'
import { agree, matrix, random, values, vector } from './harness.ts'
import { worstError } from './truth.ts'

export function declareReductions(): void {
  test.each([1, 63, 64, 65, 4097, 70_001])('sum and sum of squares of %i elements', async (n) => {
    const x = random(n)
    await agree(() => sum(vector(x)), [x.reduce((total, value) => total + value, 0)])
    const squares = x.reduce((total, value) => total + value ** 2, 0)
    await agree(() => sumOfSquares(vector(x)), [squares])
    await agree(() => globalNorm(vector(x)), [Math.sqrt(squares)])
  })

  test.each([
    [1, 1],
    [200, 3],
    [4099, 33],
  ])('columnSum of [%i,%i] repeats bit for bit', async (N, M) => {
    const x = random(N * M)
    const want = new Float64Array(M)
    x.forEach((value, i) => (want[i % M]! += value))
    const first = await values(() => columnSum(matrix(x, M)))
    expect(worstError(first, want)).toBeLessThan(1e-5)
    expect(await values(() => columnSum(matrix(x, M)))).toEqual(first)
  })

  test('addTensors of 3 and of 20, addScaled, scale', async () => {
    for (const [count, n] of [
      [3, 7],
      [20, 64],
    ] as const) {
      const all = Array.from({ length: count }, () => random(n))
      const want = Array.from({ length: n }, (_, i) => all.reduce((total, x) => total + x[i]!, 0))
      await agree(() => addTensors(all.map(vector)), want)
    }
    const [a, b] = [random(33), random(33)]
    await agree(
      () => addScaled(vector(a), vector(b), -0.3),
      a.map((value, i) => value - 0.3 * b[i]!),
    )
    await agree(
      () => scale(vector(a), 2.5),
      a.map((value) => 2.5 * value),
    )
  })

  test('clipByGlobalNorm clips long gradients and leaves short ones', async () => {
    const g = random(1000)
    const norm = Math.hypot(...g)
    for (const max of [norm / 3, norm * 3]) {
      const factor = Math.min(1, max / (norm + 1e-6))
      await agree(
        () => clipByGlobalNorm(vector(g), max).g,
        g.map((value) => value * factor),
      )
      await agree(() => clipByGlobalNorm(vector(g), max).norm, [norm])
    }
  })
}
