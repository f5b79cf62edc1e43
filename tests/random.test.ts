/** torch's random numbers, draw for draw, from fixtures made by torch (tests/parity/draws.py). */
import { beforeAll, describe, expect, test } from 'vitest'
import type { ModelSetup, TensorMap } from '../src/config.ts'
import { openBackend, type DeviceReport } from '../src/kernels/backend.ts'
import { initialTensors } from '../src/model/initialise.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { TorchGenerator } from '../src/random.ts'
import {
  byName,
  decode,
  readFixture,
  readText,
  setupOf,
  type Stored,
  type StoredByLayer,
} from './fixtures.ts'
import { madeUpWeights } from './madeUp.ts'
import { withBase } from './parity.engine.ts'

interface RandomCase {
  seed: number
  randperm: Stored[]
  uniform: Stored[]
  normal: Stored[]
}

/** Of each tensor its mean, its length and its first eight values. */
interface InitialCase {
  model: string
  name: string
  setup: ModelSetup
  seed: number
  tensors: StoredByLayer[]
}

const random = await readFixture<{ sizes: number[]; cases: RandomCase[] }>('random')
const initial = await readFixture<{ cases: InitialCase[] }>('initial')

function worst(ours: ArrayLike<number>, theirs: Float32Array): number {
  expect(ours.length).toBe(theirs.length)
  return theirs.reduce((most, value, i) => Math.max(most, Math.abs(value - ours[i]!)), 0)
}

test.each(random.cases)('seed $seed: randperm, uniform and normal, drawn one after another', (stored) => {
  const draws = {
    randperm: (generator: TorchGenerator, n: number) => generator.randperm(n),
    uniform: (generator: TorchGenerator, n: number) => generator.uniform(n, -0.25, 0.75),
    normal: (generator: TorchGenerator, n: number) => generator.normal(n, 0.5, 0.02),
  }
  const limits = { randperm: 0, uniform: 6e-8, normal: 1e-7 }
  for (const kind of ['randperm', 'uniform', 'normal'] as const) {
    const generator = new TorchGenerator(stored.seed)
    random.sizes.forEach((n, i) => {
      expect(
        worst(draws[kind](generator, n), decode(stored[kind][i]!).data),
        `${kind}(${n})`,
      ).toBeLessThanOrEqual(limits[kind])
    })
  }
})

/** Everything that is drawn for `setup` on a made-up base, but the base's own. */
async function fresh(
  device: DeviceReport,
  model: string,
  setup: ModelSetup,
  seed: number,
): Promise<TensorMap> {
  const config = parseRobertaConfig(await readText(`tests/fixtures/${model}/config.json`))
  return withBase(device, config, madeUpWeights(config), (roberta) =>
    initialTensors(roberta, setup, new Map(), seed, () => []),
  )
}

function summary(data: Float32Array): number[] {
  const mean = data.reduce((sum, value) => sum + value, 0) / data.length
  return [mean, Math.sqrt(data.reduce((sum, value) => sum + value * value, 0)), ...data.subarray(0, 8)]
}

describe('fresh tensors', () => {
  let device: DeviceReport
  beforeAll(async () => {
    device = await openBackend('cpu')
  })

  test.each(initial.cases)('of $name are the library’s own for its seed', async (stored) => {
    const { model, setup, seed, tensors } = stored
    const ours = await fresh(device, model, setupOf(setup), seed)
    const theirs = byName(tensors)
    expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort())
    for (const [name, { shape, data }] of ours) {
      const { shape: expected, kept } = theirs.get(name)!
      expect(shape, name).toEqual(expected)
      // An orthogonal start is worked out, not only drawn; else a rounding or two of the largest value.
      const limit = name.endsWith('.base') ? 2e-6 : 4e-7 * Math.max(1, ...kept.slice(2).map(Math.abs))
      const [mean, length, ...first] = summary(data)
      expect(Math.abs(mean! - kept[0]!), `mean of ${name}`).toBeLessThanOrEqual(limit)
      expect(Math.abs(length! - kept[1]!), `length of ${name}`).toBeLessThanOrEqual(limit + 1e-6 * kept[1]!)
      expect(worst(first, Float32Array.from(kept.slice(2))), name).toBeLessThanOrEqual(limit)
    }
  })

  test.each(initial.cases)('of $name are distributed alike with another seed', async (stored) => {
    const { model, setup, seed, tensors } = stored
    const ours = await fresh(device, model, setupOf(setup), seed + 1)
    for (const [name, { shape, kept }] of byName(tensors)) {
      const [mean, length] = summary(ours.get(name)!.data)
      const n = shape.reduce((a, b) => a * b, 1)
      if (n < 100) continue
      const spread = kept[1]! / Math.sqrt(n)
      // Six standard errors of a mean, and of the ratio of two root mean squares.
      expect(Math.abs(mean! - kept[0]!), `mean of ${name}`).toBeLessThanOrEqual(
        (6 * Math.SQRT2 * spread) / Math.sqrt(n),
      )
      if (spread > 0)
        expect(Math.abs(length! / kept[1]! - 1), `spread of ${name}`).toBeLessThanOrEqual(6 / Math.sqrt(n))
      else expect(length, name).toBe(0)
    }
  })
})
