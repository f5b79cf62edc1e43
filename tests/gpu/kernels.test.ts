/**
 * Kernels on WebGPU (see ../kernels/checks.ts), in the variants for GPUs and for software adapters, and the defects of
 * tfjs that make ours necessary: each is shown as it is in this browser, beside the op of ours that is right. Should
 * one of the first halves fail, then tfjs has mended it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { attention } from '../../src/kernels/attention.ts'
import { openBackend, openedDevice, uploadTensor, webgpuBackend } from '../../src/kernels/backend.ts'
import { matmul } from '../../src/kernels/matmul.ts'
import { addTensors, sum } from '../../src/kernels/sum.ts'
import { declareKernelTests, declareWithoutSubgroups } from '../kernels/checks.ts'
import { random, values } from '../kernels/harness.ts'
import { matmulTruth, worstError } from '../kernels/truth.ts'

declareKernelTests('webgpu', { variants: 'software' })
declareKernelTests('webgpu', { variants: 'gpu' })
declareWithoutSubgroups()

test('the variants for GPUs reduce by subgroups where there are some', async ({ skip }) => {
  const { features } = await openBackend('webgpu', { variants: 'gpu' })
  skip(!features.includes('subgroups'), 'this adapter has no subgroups')
  const x = random(5000)
  const total = x.reduce((sum, value) => sum + value, 0)
  expect(worstError(await values(() => sum(uploadTensor(x, [5000]))), [total])).toBeLessThan(1e-5)
  const { pipelineCache } = webgpuBackend() as unknown as { pipelineCache: object }
  expect(Object.keys(pipelineCache).filter((key) => key.includes('sum subgroups'))).toHaveLength(1)
})

describe('known defects of tfjs on webgpu', () => {
  let errors: string[] = []
  beforeAll(async () => void (await openBackend('webgpu', { onError: (message) => errors.push(message) })))

  test('split-K matmul ignores transposeB; the packed program that openBackend asks for does not', async () => {
    const [M, N, K] = [128, 8, 3072]
    const [a, b] = [random(M * K), random(N * K)]
    const want = matmulTruth(a, b, { batch: 1, M, N, K }, false, true)
    const operands = () => [uploadTensor<tf.Rank.R2>(a, [M, K]), uploadTensor<tf.Rank.R2>(b, [N, K])] as const
    const error = async () => worstError(await values(() => tf.matMul(...operands(), false, true)), want)
    expect(tf.env().getNumber('WEBGPU_MATMUL_PROGRAM_TYPE')).toBe(3)
    expect(await error()).toBeLessThan(1e-5)
    tf.env().set('WEBGPU_MATMUL_PROGRAM_TYPE', -1)
    try {
      expect(await error()).toBeGreaterThan(0.1)
    } finally {
      tf.env().set('WEBGPU_MATMUL_PROGRAM_TYPE', 3)
    }
  })

  test('addN of more tensors than a shader binds is lost, and said through onError; addTensors adds them', async () => {
    const count = openedDevice().limits.maxStorageBuffersPerShaderStage
    const tensors = () =>
      Array.from({ length: count }, () => uploadTensor(new Float32Array(64).fill(1), [64]))
    errors = []
    expect(await values(() => tf.addN(tensors()))).not.toEqual(new Float32Array(64).fill(count))
    await expect.poll(() => errors.join()).toContain('The GPU refused a command')
    expect(await values(() => addTensors(tensors()))).toEqual(new Float32Array(64).fill(count))
  })

  test('softmax of -Infinity alone is NaN; attention with every key hidden is uniform', async () => {
    const scores = new Float32Array(4).fill(-Infinity)
    expect((await values(() => tf.softmax(uploadTensor(scores, [1, 4])))).every(Number.isNaN)).toBe(true)
    const rows = (n: number) => uploadTensor<tf.Rank.R2>(new Float32Array(4 * n).fill(n), [n, 4])
    const padding = () => uploadTensor<tf.Rank.R2>(Int32Array.of(0, 2), [1, 2])
    const v = () => uploadTensor<tf.Rank.R2>(Float32Array.of(1, 2, 3, 4, 3, 2, 1, 0), [2, 4])
    const ours = () => attention(rows(1), rows(2), v(), padding(), { B: 1, N: 1, scale: 1 }, null).o
    expect(await values(ours)).toEqual(new Float32Array(4).fill(2))
  })

  test('gather of an id outside the table is zeros without an error', async () => {
    const table = uploadTensor<tf.Rank.R2>(
      random(8).map((x) => x + 2),
      [4, 2],
    )
    const ids = uploadTensor<tf.Rank.R1>(Int32Array.of(4), [1])
    expect(await values(() => tf.gather(table, ids))).toEqual(new Float32Array(2))
    tf.dispose([table, ids])
  })

  test('NaN in one item reaches the item before it in tfjs; in our product it stays where it is', async () => {
    const [batch, M, N, K] = [2, 8, 8, 36]
    const [a, b] = [random(batch * M * K), random(batch * K * N).fill(NaN, K * N)]
    const operands = () =>
      [uploadTensor<tf.Rank.R3>(a, [batch, M, K]), uploadTensor<tf.Rank.R3>(b, [batch, K, N])] as const
    const first = (data: Float32Array) => data.subarray(0, M * N)
    expect(first(await values(() => tf.matMul(...operands()))).some(Number.isNaN)).toBe(true)
    const want = matmulTruth(a, b, { batch: 1, M, N, K }, false, false)
    expect(worstError(first(await values(() => matmul(...operands()))), want)).toBeLessThan(1e-5)
  })

  test('what freed buffers hold never reaches a product, in either variant', async () => {
    const [batch, M, N, K] = [3, 16, 20, 33]
    for (const variants of ['gpu', 'software'] as const) {
      await openBackend('webgpu', { variants })
      for (const length of [batch * M * K, batch * K * N, batch * M * N]) {
        uploadTensor(new Float32Array(length).fill(NaN), [length]).dispose()
      }
      const [a, b] = [random(batch * M * K), random(batch * K * N)]
      const make = () =>
        matmul(uploadTensor<tf.Rank.R3>(a, [batch, M, K]), uploadTensor<tf.Rank.R3>(b, [batch, K, N]))
      expect(
        worstError(await values(make), matmulTruth(a, b, { batch, M, N, K }, false, false)),
      ).toBeLessThan(1e-5)
    }
  })
})
