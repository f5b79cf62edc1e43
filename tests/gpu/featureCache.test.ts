/**
 * Features kept from epoch to epoch on WebGPU, where every number of a text is summed in an order that neither padding
 * nor batch changes: the run is the same bit for bit. And the file behind memory, in the private file system.
 */
import { beforeAll, describe, expect, test } from 'vitest'
import { openBackend } from '../../src/kernels/backend.ts'
import { loraConfig } from '../../src/methods/lora.ts'
import type { Roberta } from '../../src/model/roberta.ts'
import { openScratchFile } from '../../src/io/scratchFile.ts'
import { args, fourLayers, furthest, memory, ran, setupOf, small, tensors } from '../featureCache.runs.ts'

/** A software adapter takes minutes to compile the way down in a GPU's variants; the layers below are in both. */
const all = [
  { name: 'a head alone', setup: setupOf({ architecture: 'head' }), room: 1 << 20 },
  { name: 'AdapterDrop of 2', setup: setupOf(small, { skip_layers: [0, 1] }), room: 1 << 20 },
  {
    name: 'AdapterDrop of 2, room for some rows',
    setup: setupOf(small, { skip_layers: [0, 1] }),
    room: 12_000,
  },
  { name: 'lora in the last layer', setup: setupOf({ ...loraConfig, leave_out: [0, 1, 2] }), room: 1 << 20 },
]
const cases = [
  { variants: 'software' as const, setups: all },
  { variants: 'gpu' as const, setups: all.slice(0, 1) },
]

describe.each(cases)('in the variants for $variants', ({ variants, setups }) => {
  let roberta: Roberta
  beforeAll(async () => {
    await openBackend('webgpu', { variants })
    roberta = await fourLayers()
  })

  test.each(setups)('$name', async ({ setup, room }) => {
    const before = tensors()
    const two = { args: { ...args, num_train_epochs: 2 } }
    const live = await ran(roberta, setup, null, two)
    const kept = await ran(roberta, setup, memory(room), two)
    expect(live.losses).toHaveLength(10)
    expect(furthest(live, kept)).toBe(0)
    expect(tensors()).toBe(before)
  })
})

describe('a scratch file', () => {
  const folder = async () =>
    (await navigator.storage.getDirectory()).getDirectoryHandle('scratch', { create: true })
  const names = async () => {
    const found: string[] = []
    for await (const name of (await folder()).keys()) found.push(name)
    return found
  }

  test('is written, read and removed in a worker, with what a dead run left behind', async () => {
    await (await folder()).getFileHandle('left', { create: true })
    const worker = new Worker(new URL('./scratch.worker.ts', import.meta.url), { type: 'module' })
    const said = new Promise<unknown>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data)
      worker.onerror = ({ message }) => reject(new Error(message))
    })
    expect(await said).toEqual({
      capacity: true,
      open: 1,
      read: [3, 4, 5, 1, 2],
      beyond: expect.stringContaining('start it again'),
    })
    expect(await names()).toEqual([])
    worker.terminate()
  })

  test('is not to be had on the page itself', async () => {
    expect(await openScratchFile()).toBeNull()
    expect(await names()).toEqual([])
  })
})
