/** torch's random numbers, draw for draw, from fixtures made by torch (tests/parity/draws.py). */
import { expect, test } from 'vitest'
import { classificationHead, type AdapterConfig } from '../src/config.ts'
import { initialise } from '../src/model/adapters.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { TorchGenerator } from '../src/random.ts'
import { decode, readFixture, readText, type Stored } from './fixtures.ts'

interface RandomCase {
  seed: number
  randperm: Stored[]
  uniform: Stored[]
  normal: Stored[]
}

interface InitialCase {
  model: string
  adapter: AdapterConfig
  num_labels: number
  seed: number
  tensors: Record<string, Stored>
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

test.each(initial.cases)(
  'a fresh $adapter.method and head on $model are the library’s own for seed $seed',
  async ({ model, adapter, num_labels, seed, tensors }) => {
    const config = parseRobertaConfig(await readText(`tests/fixtures/${model}/config.json`))
    const fresh = initialise(config, adapter, classificationHead(num_labels), 'parity', seed)
    expect([...fresh.keys()].sort()).toEqual(Object.keys(tensors).sort())
    for (const [name, { shape, data }] of fresh) {
      const theirs = decode(tensors[name]!)
      expect(shape).toEqual(theirs.shape)
      expect(worst(data, theirs.data), name).toBeLessThanOrEqual(1e-7)
    }
  },
)
