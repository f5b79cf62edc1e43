/** Fused attention on WebGPU: the programs of both variants, and the reference that replaces them (see ../kernels/). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openBackend, webgpuBackend } from '../../src/kernels/backend.ts'
import { replaceByReference } from '../../src/kernels/program.ts'
import { declareAttentionTests, expectAttention, expectTilesSkipped, shapes } from '../kernels/attention.ts'

const errors: string[] = []

describe.each(['software', 'gpu'] as const)('attention on webgpu, variants for %s', (variants) => {
  beforeAll(async () => {
    await openBackend('webgpu', { variants, onError: (message) => errors.push(message) })
  })
  declareAttentionTests(['rows', 'heads', 'views of one tensor'])

  test('tiles of keys that no query sees are not touched', async () => {
    await expectTilesSkipped(null)
    await expectTilesSkipped({ rate: 0.3, seed: 5, offset: 70 })
  })

  test('attention on a grid of two dimensions, with workgroups to spare', async () => {
    const { device } = webgpuBackend()
    const limits = { ...device.limits, maxComputeWorkgroupsPerDimension: 4 }
    Object.defineProperty(device, 'limits', { value: limits, configurable: true })
    try {
      await expectAttention({ B: 7, N: 1, S: 20, T: 20, D: 4 }, 'left', 'rows', null)
      await expectAttention({ B: 2, N: 1, S: 40, T: 130, D: 4 }, 'by query, some all', 'heads', null)
    } finally {
      Reflect.deleteProperty(device, 'limits')
    }
  })

  test('nothing was refused by the device', () => expect(errors).toEqual([]))
})

describe('attention on webgpu, replaced by its reference', () => {
  beforeAll(async () => {
    await openBackend('webgpu', { variants: 'gpu' })
    replaceByReference(['attention'])
  })
  afterAll(() => replaceByReference([]))
  declareAttentionTests(['rows', 'heads'], shapes.slice(0, 5))
})
