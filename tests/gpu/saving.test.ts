/** Gradient checkpointing, packed activations and weights in half precision on WebGPU, where each has kernels of its own. */
import { beforeAll, describe, expect, test } from 'vitest'
import { openBackend } from '../../src/kernels/backend.ts'
import { unpacksExactly } from '../../src/kernels/half.ts'
import { openSafetensors } from '../../src/io/safetensors.ts'
import { loadRoberta, type Precision, type WeightSource } from '../../src/model/loadRoberta.ts'
import { disposeRoberta } from '../../src/model/roberta.ts'
import { parseRobertaConfig } from '../../src/model/robertaConfig.ts'
import { keepsAll } from '../../src/model/walk.ts'
import { readBytes } from '../fixtures.ts'
import {
  checkHalved,
  checkHalfWeights,
  checkpointed,
  checkLossless,
  checkRecomputed,
  curveOf,
  halfWeights,
  loadBase,
} from '../savingChecks.ts'

/** Each of which does something else with the base's weights, or starts from them. */
const everyUse = [
  'seq_bn',
  'compacter',
  'lora',
  'dora',
  'ia3',
  'loreft',
  'prompt_tuning',
  'mam',
  'bitfit',
  'full',
  'head',
]

describe('variants for software', () => {
  beforeAll(async () => void (await openBackend('webgpu', { variants: 'software' })))

  test.for(checkpointed)('gradient checkpointing changes no gradient: %s', async (name) => {
    await checkRecomputed(name)
  })

  test.for(['seq_bn', 'lora', 'unipelt'])(
    'packed activations change gradients by less than 3e-3: %s',
    async (name) => {
      await checkHalved(name)
    },
  )

  test.for(['seq_bn', 'lora', 'dora', 'bitfit'])(
    'weights in half precision give nearly the same: %s',
    async (name) => {
      await checkHalfWeights(name)
    },
  )

  test.for(everyUse)('a file of halves that stay halves gives the same: %s', async (name) => {
    await checkLossless(name)
  })

  test('the bundled model, a file of halves, learns the same step by step', async () => {
    const folder = 'public/models/mini-roberta'
    const file = await openSafetensors(new Blob([await readBytes(`${folder}/model.safetensors`)]))
    const bundled = parseRobertaConfig(new TextDecoder().decode(await readBytes(`${folder}/config.json`)))
    const [whole, half] = await Promise.all(
      (['float32', 'auto'] as const).map((precision) => loadRoberta(bundled, file, null, precision)),
    )
    expect(half!.notes).toContainEqual(expect.stringMatching(/nothing is rounded/))
    const losses = await curveOf('seq_bn', keepsAll, 4, Promise.resolve(half!))
    expect(losses).toEqual(await curveOf('seq_bn', keepsAll, 4, Promise.resolve(whole!)))
    expect(losses.at(-1)).toBeLessThan(losses[0]!)
  })

  test('a matrix of which only a part is halves lies in float32', async () => {
    await checkLossless('seq_bn', /LayerNorm|layer\.1\.attention\.self\.key/)
  })

  test('what is packed is what a file of halves holds, and is said', async () => {
    expect(await unpacksExactly()).toBe(true)
    const notes = async (precision: Precision, weights?: WeightSource) => {
      const { roberta, rounded, notes } = await loadBase(precision, weights)
      disposeRoberta(roberta)
      return [rounded, ...notes]
    }
    expect(await notes('auto')).toEqual([false])
    expect(await notes('auto', halfWeights(/^$/))).toEqual([
      false,
      expect.stringMatching(/nothing is rounded/),
    ])
    expect(await notes('float16', halfWeights(/^$/))).toEqual([
      false,
      expect.stringMatching(/nothing is rounded/),
    ])
    expect(await notes('float16')).toEqual([true, expect.stringMatching(/about three digits/)])
  })
})

test('variants for GPUs: all three with seq_bn', async () => {
  await openBackend('webgpu', { variants: 'gpu' })
  await checkRecomputed('seq_bn')
  await checkHalved('seq_bn')
  await checkHalfWeights('seq_bn')
  for (const name of ['seq_bn', 'dora', 'full']) await checkLossless(name)
})
