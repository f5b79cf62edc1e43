/** Gradient checkpointing and activations in half precision on the host; tests/gpu/saving.test.ts has the same on WebGPU. */
import { expect, it } from 'vitest'
import { openNodeBackend } from '../src/headless/node.ts'
import { keepsAll } from '../src/model/walk.ts'
import { checkHalved, checkpointed, checkRecomputed, curveOf } from './savingChecks.ts'

it.for(checkpointed)('gradient checkpointing changes no gradient on wasm: %s', async (name) => {
  await openNodeBackend('wasm')
  await checkRecomputed(name)
})

it.for(['seq_bn', 'unipelt'])('nor on cpu: %s', async (name) => {
  await openNodeBackend('cpu')
  await checkRecomputed(name)
})

it.for(['seq_bn', 'lora', 'full'])(
  'packed activations change gradients by less than 3e-3: %s',
  async (name) => {
    await openNodeBackend('wasm')
    await checkHalved(name)
  },
)

it('a run with packed activations follows the run without', async () => {
  await openNodeBackend('wasm')
  const kept = await curveOf('seq_bn', keepsAll, 30)
  const halved = await curveOf('seq_bn', { ...keepsAll, recompute: true, halves: true }, 30)
  expect(kept.at(-1)).toBeLessThan(0.8 * kept[0]!)
  expect(halved[0]).toBe(kept[0])
  for (const [i, loss] of kept.entries()) expect(Math.abs(halved[i]! - loss)).toBeLessThan(0.02)
})
