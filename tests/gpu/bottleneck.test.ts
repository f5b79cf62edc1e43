/** The bottleneck's programs on WebGPU, and what a software adapter and a device where they are replaced run instead. */
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect } from 'vitest'
import { openBackend } from '../../src/kernels/backend.ts'
import { replaceByReference } from '../../src/kernels/program.ts'
import { declareBottleneck, declareSlots } from '../kernels/bottleneck.ts'

describe.each([
  ['software', false],
  ['gpu', false],
  ['gpu', true],
] as const)('bottleneck on webgpu, variants for %s, reference %s', (variants, byReference) => {
  const errors: string[] = []
  beforeAll(async () => {
    await openBackend('webgpu', { variants, onError: (message) => errors.push(message) })
    if (byReference) replaceByReference(['bottleneck'])
  })
  afterAll(() => replaceByReference([]))
  let before = 0
  beforeEach(() => void (before = tf.memory().numTensors))
  afterEach(() => {
    expect(tf.memory().numTensors, 'tensors left over').toBe(before)
    expect(errors).toEqual([])
  })
  declareBottleneck()
  declareSlots()
})
