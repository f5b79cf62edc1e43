/** Gradient checkpointing, packed activations and weights in half precision on WebGPU, where each has kernels of its own. */
import { beforeAll, describe, test } from 'vitest'
import { openBackend } from '../../src/kernels/backend.ts'
import { checkHalved, checkHalfWeights, checkpointed, checkRecomputed } from '../savingChecks.ts'

describe('variants for software', () => {
  beforeAll(async () => void (await openBackend('webgpu', { variants: 'software' })))

  test.for(checkpointed)('gradient checkpointing changes no gradient: %s', async (name) => {
    await checkRecomputed(name)
  })

  test.for(['seq_bn', 'lora'])('packed activations change gradients by less than 3e-3: %s', async (name) => {
    await checkHalved(name)
  })

  test.for(['seq_bn', 'lora', 'dora', 'bitfit'])(
    'weights in half precision give nearly the same: %s',
    async (name) => {
      await checkHalfWeights(name)
    },
  )
})

test('variants for GPUs: all three with seq_bn', async () => {
  await openBackend('webgpu', { variants: 'gpu' })
  await checkRecomputed('seq_bn')
  await checkHalved('seq_bn')
  await checkHalfWeights('seq_bn')
})
