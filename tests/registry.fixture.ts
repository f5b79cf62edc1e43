/** tests/fixtures/methods/registry.json, and how tensors are compared with it. */
import { expect } from 'vitest'
import type { AdapterConfig, RobertaConfig, TensorMap } from '../src/config.ts'
import type { CombineStrategy } from '../src/methods/average.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { decode, readFixture, type Stored } from './fixtures.ts'

export type Named = Record<string, Stored>

export interface Fixture {
  model: object
  draws: { name: string; config: AdapterConfig; tensors: Named; next: Named }[]
  averages: {
    name: string
    config: AdapterConfig
    weights: number[]
    combine_strategy: CombineStrategy
    normalize_weights: boolean
    svd_rank: number | null
    members: { one: Named; two: Named }
    tensors: Named
    result: AdapterConfig
  }[]
  merges: { name: string; config: AdapterConfig; adapter: Named; before: Named; after: Named }[]
  strings: { text: string; config: AdapterConfig }[]
}

export async function readRegistry(): Promise<{ fixture: Fixture; base: RobertaConfig }> {
  const fixture = await readFixture<Fixture>('methods/registry')
  return { fixture, base: parseRobertaConfig(JSON.stringify(fixture.model)) }
}

/** As the library writes a configuration: bottlenecks without `architecture`. */
export function read(config: AdapterConfig): AdapterConfig {
  if (config.architecture === 'union') return { ...config, configs: config.configs.map(read) }
  return { ...config, architecture: config.architecture ?? null } as AdapterConfig
}

export function tensors(named: Named): TensorMap {
  return new Map(Object.entries(named).map(([key, stored]) => [key, decode(stored)]))
}

/** Every expected tensor is there, of its shape, and nothing else; values within `tolerance`. */
export function expectClose(found: TensorMap, expected: TensorMap, tolerance: number): void {
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort())
  for (const [key, { shape, data }] of expected) {
    const own = found.get(key)!
    expect(own.shape, key).toEqual(shape)
    const worst = own.data.reduce((most, value, i) => Math.max(most, Math.abs(value - data[i]!)), 0)
    expect(worst, key).toBeLessThanOrEqual(tolerance)
  }
}
