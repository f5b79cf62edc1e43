/**
 * Setups with all their tensors as a fixture under tests/fixtures/methods holds them, and the engine held against what
 * the library made of them: the last hidden state, the loss, every gradient, fresh values.
 */
import { readFileSync } from 'node:fs'
import * as tf from '@tensorflow/tfjs-core'
import { expect } from 'vitest'
import type { AdapterConfig, ModelSetup, RobertaConfig, TensorMap } from '../src/config.ts'
import type { DeviceReport } from '../src/kernels/backend.ts'
import { disposeBatch, uploadBatch, type Batch } from '../src/model/batch.ts'
import { initialTensors } from '../src/model/initialise.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { createModel, disposeModel, hiddenStates, lossAndGradient, type Model } from '../src/model/model.ts'
import { unflatten } from '../src/model/params.ts'
import { disposeRoberta, type Roberta } from '../src/model/roberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { decode, type Stored, type StoredBatch } from './fixtures.ts'
import { madeUpWeights } from './madeUp.ts'

export interface MethodCase {
  setup: ModelSetup
  tensors: Record<string, Stored>
  last_hidden_state: Stored
  loss: number
  grads: Record<string, Stored>
}

export interface MethodFixture {
  config: RobertaConfig
  batch: StoredBatch
  cases: Record<string, MethodCase>
  fresh: Record<string, Pick<MethodCase, 'setup' | 'tensors'>>
}

/** tests/fixtures/methods/{name}.json, its configurations as the app holds them. */
export function readMethodFixture(name: string): MethodFixture {
  const path = new URL(`./fixtures/methods/${name}.json`, import.meta.url)
  const { config, batch, cases, fresh } = JSON.parse(readFileSync(path, 'utf8')) as MethodFixture
  for (const one of [...Object.values(cases), ...Object.values(fresh)]) one.setup = wholeSetup(one.setup)
  return { config: parseRobertaConfig(JSON.stringify(config)), batch, cases, fresh }
}

/** The library's bottleneck configurations have no architecture; ours is null. */
function wholeSetup({ adapters, ...rest }: ModelSetup): ModelSetup {
  const whole = (adapter: object) => ({ architecture: null, ...adapter }) as AdapterConfig
  return {
    ...rest,
    adapters: Object.fromEntries(Object.entries(adapters).map(([name, one]) => [name, whole(one)])),
  }
}

/** Largest |a - b|; NaN when any is not a number. */
export function furthest(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  expect(ours.length).toBe(theirs.length)
  let worst = 0
  for (let i = 0; i < theirs.length; i++) {
    const apart = Math.abs(ours[i]! - theirs[i]!)
    if (!(apart <= worst)) worst = apart
  }
  return worst
}

export async function valuesOf(tensor: tf.Tensor): Promise<Float32Array> {
  const copy = Float32Array.from(await tensor.data())
  tensor.dispose()
  return copy
}

export function uploaded({ config, batch }: MethodFixture): Batch {
  const { input_ids, attention_mask, labels } = batch
  return uploadBatch(config, {
    B: input_ids.length,
    S: input_ids[0]!.length,
    input_ids: Int32Array.from(input_ids.flat()),
    attention_mask: Int32Array.from(attention_mask.flat()),
    labels: Int32Array.from(labels),
  })
}

/** Hands a model with this setup to `use` and frees it; fails when anything is left on the device. */
export async function withSetup(
  fixture: MethodFixture,
  { limits }: DeviceReport,
  setup: ModelSetup,
  tensors: TensorMap | null,
  use: (model: Model) => Promise<void>,
): Promise<void> {
  const before = tf.memory().numTensors
  const roberta = await madeUpBase(fixture.config, limits)
  const given = tensors ?? (await initialTensors(roberta, setup, new Map(), 1, () => []))
  const model = createModel(roberta, setup, given)
  await use(model)
  disposeModel(model)
  disposeRoberta(roberta)
  expect(tf.memory().numTensors).toBe(before)
}

async function madeUpBase(config: RobertaConfig, limits: DeviceReport['limits']): Promise<Roberta> {
  return (await loadRoberta(config, madeUpWeights(config), limits.maxStorageBufferBindingSize)).roberta
}

/** [B·S,H] as numbers, in evaluation mode. */
export async function lastHiddenState(fixture: MethodFixture, model: Model): Promise<Float32Array> {
  const batch = uploaded(fixture)
  try {
    const states = hiddenStates(model, batch)
    const last = await valuesOf(states.pop()!)
    tf.dispose(states)
    return last
  } finally {
    disposeBatch(batch)
  }
}

/** Forward within 1e-5; gradients within 1e-4 of their largest value, or 1e-7 where that is next to nothing. */
export async function checkCase(
  fixture: MethodFixture,
  device: DeviceReport,
  expected: MethodCase,
): Promise<void> {
  await withSetup(fixture, device, expected.setup, decodeAll(expected.tensors), async (model) => {
    const last = await lastHiddenState(fixture, model)
    expect(furthest(last, decode(expected.last_hidden_state).data), 'hidden').toBeLessThan(1e-5)
    const batch = uploaded(fixture)
    const { loss, gradient } = lossAndGradient(model, batch, null, 0)
    disposeBatch(batch)
    expect(Math.abs((await valuesOf(loss))[0]! - expected.loss), 'loss').toBeLessThan(1e-5)
    const ours = unflatten(model.layout, await valuesOf(gradient))
    for (const [key, stored] of Object.entries(expected.grads)) {
      const theirs = decode(stored).data
      const allowed = 1e-4 * Math.max(...theirs.map(Math.abs)) + 1e-7
      const found = ours.get(key)?.data ?? new Float32Array(theirs.length)
      expect(furthest(found, theirs), key).toBeLessThan(allowed)
    }
    expect([...ours.keys()].filter((key) => !(key in expected.grads))).toEqual([])
  })
}

/** Fresh adapters, fusions and heads from seed 42, to the last bits. */
export async function checkFresh(
  fixture: MethodFixture,
  { limits }: DeviceReport,
  expected: MethodFixture['fresh'][string],
): Promise<void> {
  const roberta = await madeUpBase(fixture.config, limits)
  const ours = await initialTensors(roberta, expected.setup, new Map(), 42, () => [])
  disposeRoberta(roberta)
  expect([...ours.keys()].sort()).toEqual(Object.keys(expected.tensors).sort())
  for (const [key, stored] of Object.entries(expected.tensors)) {
    expect(ours.get(key)!.shape, key).toEqual(stored.shape)
    const theirs = decode(stored).data
    const allowed = 1e-6 * Math.max(...theirs.map(Math.abs))
    expect(furthest(ours.get(key)!.data, theirs), key).toBeLessThanOrEqual(allowed)
  }
}

function decodeAll(stored: Record<string, Stored>): TensorMap {
  return new Map(Object.entries(stored).map(([key, one]) => [key, decode(one)]))
}
