/** Sums and norms. */
import { expect, test } from 'vitest'
import { addScaled, scale } from '../../src/kernels/addScaled.ts'
import { addTensors, columnSum, l2Norm, sum, sumOfSquares } from '../../src/kernels/sum.ts'
import { agree, matrix, random, values, vector } from './harness.ts'
import { worstError } from './truth.ts'

export function declareReductions(): void {
  test.each([1, 63, 64, 65, 2048, 2049, 4097, 70_001])(
    'sum, sum of squares and norm of %i elements',
    async (n) => {
      const x = random(n).map((value) => value + 0.5)
      await agree(() => sum(vector(x)), [x.reduce((total, value) => total + value, 0)])
      const squares = x.reduce((total, value) => total + value ** 2, 0)
      await agree(() => sumOfSquares(vector(x)), [squares])
      await agree(() => l2Norm(vector(x)), [Math.sqrt(squares)])
    },
  )

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
}
