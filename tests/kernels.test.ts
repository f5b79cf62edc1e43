/** Kernels on the host backends (see kernels/checks.ts), and what needs no backend. */
import { describe, expect, test } from 'vitest'
import { gpuBytes, NoGpuError, openBackend, uploadTensorInChunks } from '../src/kernels/backend.ts'
import { dropoutMask } from '../src/kernels/dropout.ts'
import { FakeGpu } from './bench/fakeDevice.ts'
import { sizeClass } from '../src/kernels/pool.ts'
import { declareKernelTests } from './kernels/checks.ts'

declareKernelTests('cpu')
declareKernelTests('wasm')

test('dropout keeps the share it should, evenly over elements, seeds and offsets', () => {
  const n = 200_000
  for (const p of [0.1, 0.5]) {
    const deviation = Math.sqrt((p * (1 - p)) / n)
    for (const [seed, offset] of [
      [0, 0],
      [42, 1],
      [42, 2],
      [43, 1],
      [42, 4096],
    ] as const) {
      const mask = dropoutMask(n, p, seed, offset)
      const dropped = (from: number, step: number) => {
        let count = 0
        for (let i = from; i < n; i += step) if (mask[i] === 0) count++
        return count / Math.ceil((n - from) / step)
      }
      expect(Math.abs(dropped(0, 1) - p)).toBeLessThan(4.5 * deviation)
      for (const step of [2, 64, 768]) {
        expect(Math.abs(dropped(1, step) - p)).toBeLessThan(4.5 * deviation * Math.sqrt(step))
      }
    }
  }
})

test('dropout masks of neighbouring elements, offsets and seeds are independent', () => {
  const n = 200_000
  const limit = 4.5 / Math.sqrt(n)
  const signs = (seed: number, offset: number) =>
    dropoutMask(n, 0.5, seed, offset).map((x) => (x === 0 ? -1 : 1))
  const correlation = (a: Float32Array, b: Float32Array, lag = 0) => {
    let total = 0
    for (let i = 0; i + lag < n; i++) total += a[i]! * b[i + lag]!
    return Math.abs(total) / (n - lag)
  }
  const base = signs(42, 100)
  for (const other of [signs(42, 101), signs(42, 100 + 4096), signs(43, 100), signs(100, 42)]) {
    for (const lag of [0, 1, 64]) expect(correlation(base, other, lag)).toBeLessThan(limit)
  }
  for (const lag of [1, 2, 3, 32, 768]) expect(correlation(base, base, lag)).toBeLessThan(limit)
})

test('dropout bits stay what they were, so that an old run repeats', () => {
  const bits = (seed: number, offset: number) =>
    dropoutMask(32, 0.5, seed, offset).reduce((word, x, i) => word | (x === 0 ? 0 : 1 << i), 0) >>> 0
  expect([bits(0, 0), bits(42, 7), bits(2 ** 32 - 1, -1)]).toEqual([3911684138, 29450929, 1807352554])
})

describe('opening WebGPU', () => {
  const open = (changes: object, handlers = {}) => {
    const gpu = Object.assign(new FakeGpu(), changes)
    return openBackend('webgpu', { gpu: gpu as unknown as GPU, ...handlers })
  }

  test('no adapter is a NoGpuError', async () => {
    await expect(open({ requestAdapter: async () => null })).rejects.toThrow(NoGpuError)
  })

  test('a lost device and a refused command are told in a sentence', async () => {
    const heard: string[] = []
    const report = await open(
      {
        lost: Promise.resolve({ reason: 'unknown', message: 'driver reset' }),
        addEventListener: (_: string, listener: (event: object) => void) =>
          listener({ error: { message: 'buffer too large' } }),
      },
      {
        onLost: (message: string) => heard.push(message),
        onError: (message: string) => heard.push(message),
      },
    )
    await Promise.resolve()
    expect(heard.sort()).toEqual([
      'The GPU device was lost (fake counts executes nothing): driver reset',
      'The GPU refused a command (fake counts executes nothing): buffer too large',
    ])
    expect(report).toMatchObject({ backend: 'webgpu', is_fallback: false, slow: false })
  })

  test('features and limits are asked for as far as the adapter has them', async () => {
    let asked: GPUDeviceDescriptor | undefined
    const gpu = new FakeGpu()
    await open({
      features: new Set(['subgroups', 'bgra8unorm-storage']),
      requestDevice: async (descriptor: GPUDeviceDescriptor) => ((asked = descriptor), gpu),
    })
    expect(asked?.requiredFeatures).toEqual(['subgroups'])
    expect(asked?.requiredLimits).toMatchObject({
      maxBufferSize: gpu.limits.maxBufferSize,
      maxStorageBuffersPerShaderStage: 10,
    })
  })

  test('a 154 MB table goes to the GPU in pieces, written once and kept nowhere else', async () => {
    const gpu = new FakeGpu()
    await openBackend('webgpu', { gpu: gpu as unknown as GPU })
    const piece = new Float32Array(768 * 5000)
    const pieces = async function* () {
      for (let row = 0; row < 50265; row += 5000) yield piece.subarray(0, 768 * Math.min(5000, 50265 - row))
    }
    const table = await uploadTensorInChunks([50265, 768], pieces())
    expect(gpu.counts.uploadBytes).toBe(50265 * 768 * 4)
    expect(gpuBytes()).toBe(sizeClass(50265 * 768 * 4))
    table.dispose()
  })
})
