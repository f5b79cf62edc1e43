/**
 * Every kernel against double precision (truth.ts) on whatever backend is asked for: ../kernels.test.ts runs this on
 * cpu and wasm, ../gpu/kernels.test.ts on WebGPU in both variants.
 */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect } from 'vitest'
import { openBackend, type BackendKind, type BackendOptions } from '../../src/kernels/backend.ts'
import { declareElementwise } from './elementwise.ts'
import { declareGates } from './gates.ts'
import { declareOptimiser } from './optimiser.ts'
import { declarePrefix } from './prefix.ts'
import { declareProducts } from './products.ts'
import { declareReductions } from './reductions.ts'
import { declareRowOps } from './rows.ts'
import { declareTraining } from './training.ts'

/** Declares all tests of the ops for one backend; each must leave as many tensors as it found. */
export function declareKernelTests(kind: BackendKind, options: BackendOptions = {}): void {
  describe(`kernels on ${kind}${options.variants ? `, variants for ${options.variants}` : ''}`, () => {
    beforeAll(async () => void (await openBackend(kind, options)))
    let before = 0
    beforeEach(() => void (before = tf.memory().numTensors))
    afterEach(() => expect(tf.memory().numTensors, 'tensors left over').toBe(before))
    declareProducts()
    declareRowOps()
    declareReductions()
    declareTraining()
    declareOptimiser()
    declarePrefix()
    declareGates()
    // The rest has one program for every adapter, tested under the other variant.
    if (options.variants === 'gpu') return
    declareElementwise()
  })
}

/** The same for what reduces along rows, on a device that is asked for no optional feature: it has no subgroups. */
export function declareWithoutSubgroups(): void {
  describe('reductions on webgpu, variants for gpu, without subgroups', () => {
    beforeAll(async () => {
      const { features } = await openBackend('webgpu', { variants: 'gpu', features: [] })
      expect(features).not.toContain('subgroups')
    })
    declareRowOps()
    declareReductions()
    declareOptimiser()
    declarePrefix()
    declareGates()
  })
}
