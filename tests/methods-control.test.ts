/** What is done to whole adapters, against the real library (tests/parity/make_registry.py). */
import { beforeAll, describe, expect, test } from 'vitest'
import type { AdapterConfig, HostTensor, RobertaConfig, TensorMap } from '../src/config.ts'
import { dropProblem, skippedLayers } from '../src/methods/adapterDrop.ts'
import { averageAdapter } from '../src/methods/average.ts'
import { mergeAdapter, mergeProblem } from '../src/methods/merge.ts'
import { parsePreset } from '../src/methods/registry.ts'
import { expectClose, read, readRegistry, tensors, type Fixture, type Named } from './registry.fixture.ts'

let fixture: Fixture
let base: RobertaConfig
beforeAll(async () => {
  ;({ fixture, base } = await readRegistry())
})

describe('average_adapter', () => {
  const members = (one: Fixture['averages'][number]) =>
    (['one', 'two'] as const).map((name, i) => ({
      name,
      config: read(one.config),
      tensors: tensors(one.members[name]),
      weight: one.weights[i]!,
    }))

  test('gives the library’s weights and configuration', () => {
    for (const one of fixture.averages) {
      const { config, tensors: found } = averageAdapter(base, 'mean', members(one), one)
      expect(config, one.name).toEqual(read(one.result))
      const expected = tensors(one.tensors)
      for (const key of found.keys()) if (key.includes('invertible_adapters')) found.delete(key) // the library forgets it
      if (one.combine_strategy !== 'lora_delta_w_svd') expectClose(found, expected, 1e-6)
      else expectClose(deltas(found), deltas(expected), 1e-5)
    }
  })

  test('by singular values leaves orthonormal rows in A, those of value 0 included', () => {
    const one = fixture.averages.find(({ svd_rank }) => svd_rank === 6)!
    const { tensors: found } = averageAdapter(base, 'mean', members(one), one)
    for (const [key, { shape, data }] of found) {
      if (!key.endsWith('lora_A')) continue
      const [r, inputs] = shape as [number, number]
      for (let i = 0; i < r; i++)
        for (let j = 0; j < r; j++) {
          let dot = 0
          for (let k = 0; k < inputs; k++) dot += data[i * inputs + k]! * data[j * inputs + k]!
          expect(dot).toBeCloseTo(i === j ? 1 : 0, 5)
        }
    }
  })

  test('refuses what the library refuses', () => {
    const plain = { combine_strategy: 'linear', normalize_weights: true, svd_rank: null } as const
    const [a, b] = members(fixture.averages.find(({ name }) => name === 'lora')!) as [Member, Member]
    type Member = ReturnType<typeof members>[number]
    expect(() => averageAdapter(base, 'mean', [], plain)).toThrow(/no adapter/)
    expect(() =>
      averageAdapter(base, 'mean', [a, { ...b, config: parsePreset('lora[r=3]') }], plain),
    ).toThrow(/“two”/)
    expect(() => averageAdapter(base, 'mean', [a, b], plain)).toThrow(/add up to 0/)
    const svd = { ...plain, normalize_weights: false, combine_strategy: 'lora_delta_w_svd' } as const
    expect(() => averageAdapter(base, 'mean', [a, b], svd)).toThrow(/svd_rank/)
    const [c, d] = members(fixture.averages[0]!) as [Member, Member]
    expect(() => averageAdapter(base, 'mean', [c, d], { ...svd, svd_rank: 2 })).toThrow(/plain LoRA/)
    const other = { ...a, config: { ...a.config, dropout: 0.1 } as AdapterConfig }
    expect(averageAdapter(base, 'mean', [other, { ...b, weight: 1 }], plain).tensors.size).toBeGreaterThan(0)
  })
})

/** B·A of every place. */
function deltas(found: TensorMap): TensorMap {
  const products: TensorMap = new Map()
  for (const [key, A] of found) {
    if (!key.endsWith('lora_A')) continue
    const B = found.get(key.replace(/A$/, 'B'))!
    products.set(key, product(B, A))
  }
  return products
}

function product(B: HostTensor, A: HostTensor): HostTensor {
  const [outputs = 0, r = 0] = B.shape
  const inputs = A.shape[1]!
  const data = new Float32Array(outputs * inputs)
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++)
      for (let k = 0; k < r; k++) data[o * inputs + i]! += B.data[o * r + k]! * A.data[k * inputs + i]!
  return { shape: [outputs, inputs], data }
}

describe('merge_adapter', () => {
  const weights = (named: Named) => {
    const all = tensors(named)
    return (key: string) => {
      const found = all.get(key)
      return Promise.resolve(found ? found.data : new Float32Array(base.intermediate_size).fill(0.5))
    }
  }

  test('gives the library’s weights, and the originals to put back', async () => {
    for (const { config, adapter, before, after } of fixture.merges) {
      const own = tensors(adapter)
      const { merged, originals } = await mergeAdapter(
        base,
        read(config),
        'a',
        own,
        weights(before),
        'library',
      )
      expectClose(merged, tensors(after), 1e-6)
      expectClose(originals, tensors(before), 0)
    }
  })

  test('exactly gives a layer that computes what base and adapter compute together', async () => {
    for (const { config, adapter, before } of fixture.merges) {
      const { merged, originals } = await mergeAdapter(
        base,
        read(config),
        'a',
        tensors(adapter),
        weights(before),
        'exact',
      )
      for (const key of merged.keys()) {
        if (!key.endsWith('.weight')) continue
        const path = key.replace(/weight$/, '')
        const bias = merged.get(`${path}bias`) ?? (await biasOf(weights(before), path))
        const W = originals.get(key)!
        const b = originals.get(`${path}bias`) ?? bias
        const x = Float32Array.from({ length: W.shape[1]! }, (_, i) => Math.sin(i + 1))
        const found = affine(merged.get(key)!, x, bias.data)
        const expected = unmerged(config, tensors(adapter), path, W, b, x)
        found.forEach((value, i) => expect(value).toBeCloseTo(expected[i]!, 5))
      }
    }
  })

  test('refuses gates and methods that add computation', () => {
    expect(mergeProblem(parsePreset('lora[use_gating=True]'))).toMatch(/gate/)
    expect(mergeProblem(parsePreset('seq_bn'))).toMatch(/Only LoRA/)
    expect(mergeProblem(parsePreset('lora|seq_bn'))).toBeNull()
  })
})

async function biasOf(weight: (key: string) => Promise<Float32Array>, path: string): Promise<HostTensor> {
  const data = await weight(`${path}bias`)
  return { shape: [data.length], data }
}

function affine(W: HostTensor, x: Float32Array, bias: Float32Array | null): number[] {
  const [outputs = 0, inputs = 0] = W.shape
  return Array.from({ length: outputs }, (_, o) => {
    let sum = bias ? bias[o]! : 0
    for (let i = 0; i < inputs; i++) sum += W.data[o * inputs + i]! * x[i]!
    return sum
  })
}

/** The adapter's own forward formulas, one token. */
function unmerged(
  config: AdapterConfig,
  own: TensorMap,
  path: string,
  W: HostTensor,
  b: HostTensor,
  x: Float32Array,
): number[] {
  if (config.architecture !== 'lora') throw new Error('Only LoRA is merged here.')
  const B = own.get(`${path}loras.a.lora_B`)!
  const plain = affine(W, x, b.data)
  if (config.composition_mode === 'scale') return plain.map((y, o) => y * B.data[o]! * config.alpha)
  const delta = product(B, own.get(`${path}loras.a.lora_A`)!)
  const moved = affine(delta, x, null).map((y, o) => plain[o]! + (config.alpha / config.r) * y)
  if (!config.use_dora) return moved
  const m = own.get(`${path}loras.a.m.weight`)!
  const inputs = W.shape[1]!
  return moved.map((y, o) => {
    let square = 0
    for (let i = 0; i < inputs; i++) square += (W.data[o * inputs + i]! + delta.data[o * inputs + i]!) ** 2
    return (y * m.data[o]!) / Math.sqrt(square)
  })
}

describe('AdapterDrop', () => {
  test('is fixed, or drawn anew in each step from the seed', () => {
    expect(skippedLayers({ mode: 'fixed', layers: 3 }, 1, 9)).toEqual([0, 1, 2])
    const drop = { mode: 'random', layers: 5 } as const
    const depths = Array.from({ length: 600 }, (_, step) => skippedLayers(drop, 42, step).length)
    for (let depth = 0; depth <= 5; depth++) {
      const share = depths.filter((one) => one === depth).length / depths.length
      expect(share).toBeGreaterThan(0.1)
      expect(share).toBeLessThan(0.24)
    }
    expect(skippedLayers(drop, 42, 7)).toEqual(skippedLayers(drop, 42, 7))
    const other = Array.from({ length: 600 }, (_, step) => skippedLayers(drop, 43, step).length)
    expect(other).not.toEqual(depths)
  })

  test('leaves one layer its adapter', () => {
    expect(dropProblem({ mode: 'fixed', layers: 11 }, 12)).toBeNull()
    expect(dropProblem({ mode: 'random', layers: 12 }, 12)).toMatch(/0 to 11/)
  })
})
