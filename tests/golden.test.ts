/**
 * Against the project's independent set of numbers, `../shared/golden`, made apart from tests/parity with an older
 * `adapters`: every method with its gradients, and compositions of two bottlenecks. Skipped where that folder is not
 * beside the repository.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  classificationHead,
  type AdapterConfig,
  type AdapterSetup,
  type ModelSetup,
  type TensorMap,
} from '../src/config.ts'
import { openBackend, type DeviceReport } from '../src/kernels/backend.ts'
import { seqBn } from '../src/methods/bottleneck.ts'
import { dynamicFusion } from '../src/methods/fusion.ts'
import { disposeBatch, uploadBatch } from '../src/model/batch.ts'
import { loadRoberta, type WeightSource } from '../src/model/loadRoberta.ts'
import {
  createModel,
  disposeModel,
  hiddenStates,
  lossAndGradient,
  predict,
  singleSetup,
  type Model,
} from '../src/model/model.ts'
import { unflatten } from '../src/model/params.ts'
import { disposeRoberta, type Roberta } from '../src/model/roberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'

interface Golden {
  shape: number[]
  data: number[]
}

interface GoldenBase {
  model_config: object
  weights: Record<string, Golden>
  input_ids: number[][]
  attention_mask: number[][]
  last_hidden_state: Golden
}

interface GoldenMethod {
  adapter_config: Record<string, unknown>
  weights: Record<string, Golden>
  input_ids: number[][]
  attention_mask: number[][]
  labels: number[]
  last_hidden_state: Golden
  logits: Golden
  loss: number
  grads: Record<string, Golden>
}

const folder = new URL('../../shared/golden/', import.meta.url)
const present = existsSync(folder)
const read = <T>(name: string): T => JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8')) as T
const methods = (present ? readdirSync(folder) : [])
  .filter((file) => file.endsWith('.json') && file !== 'base.json' && !file.startsWith('comp_'))
  .map((file) => file.replace('.json', ''))

/** The six compositions, as golden/README.txt and the files' own `setup` describe them. */
const compositions: Record<string, AdapterSetup> = {
  comp_stack: { type: 'Stack', children: ['a', 'b'] },
  comp_fuse_dynamic: { type: 'Fuse', children: ['a', 'b'] },
  comp_average: { type: 'Average', children: ['a', 'b'], weights: [0.3, 0.7], normalize_weights: true },
  comp_parallel: { type: 'Parallel', children: ['a', 'b'] },
  comp_batch_split: { type: 'BatchSplit', children: ['a', 'b'], batch_sizes: [1, 1] },
  comp_split: { type: 'Split', children: ['a', 'b'], splits: [3, 4] },
}

function tensors(named: Record<string, Golden>): TensorMap {
  return new Map(
    Object.entries(named).map(([key, { shape, data }]) => [key, { shape, data: Float32Array.from(data) }]),
  )
}

function source(all: TensorMap): WeightSource {
  return {
    names: () => [...all.keys()],
    shape: (name) => all.get(name)!.shape,
    read: async (name) => all.get(name)!.data,
    async *readChunks(name) {
      yield all.get(name)!.data
    },
  }
}

function host(input_ids: number[][], attention_mask: number[][], labels: number[]) {
  return {
    B: input_ids.length,
    S: input_ids[0]!.length,
    input_ids: Int32Array.from(input_ids.flat()),
    attention_mask: Int32Array.from(attention_mask.flat()),
    labels: Int32Array.from(labels),
  }
}

function furthest(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  expect(ours.length).toBe(theirs.length)
  let worst = 0
  for (let i = 0; i < theirs.length; i++) worst = Math.max(worst, Math.abs(ours[i]! - theirs[i]!))
  return ours.length === 0 || Number.isNaN(ours[0]) ? NaN : worst
}

async function values(tensor: tf.Tensor): Promise<Float32Array> {
  const copy = Float32Array.from(await tensor.data())
  tensor.dispose()
  return copy
}

/** A configuration as files have it: a bottleneck's names no architecture there. */
function inMemory({ configs, ...own }: Record<string, unknown>): AdapterConfig {
  const children = configs as Record<string, unknown>[] | undefined
  return { architecture: null, ...own, ...(children && { configs: children.map(inMemory) }) } as AdapterConfig
}

const title = present ? 'golden numbers' : 'golden numbers (skipped: ../shared/golden is not here)'
const nothing: ModelSetup = {
  adapters: {},
  fusions: {},
  heads: {},
  active: null,
  active_heads: [],
  train: { adapters: [], fusions: [], heads: [], base: 'none' },
  skip_layers: [],
}

// Not describe.for: behind skipIf it runs all the same.
for (const backend of ['wasm', 'cpu'] as const)
  describe.skipIf(!present)(`${title} on ${backend}`, () => {
    let device: DeviceReport
    let base: GoldenBase

    async function withModel<T>(
      setup: ModelSetup,
      weights: TensorMap,
      use: (model: Model, roberta: Roberta) => Promise<T>,
    ): Promise<T> {
      const before = tf.memory().numTensors
      const config = parseRobertaConfig(JSON.stringify({ model_type: 'roberta', ...base.model_config }))
      const all = source(tensors(base.weights))
      const { roberta } = await loadRoberta(config, all, device.limits.maxStorageBufferBindingSize)
      const model = createModel(roberta, setup, weights)
      const result = await use(model, roberta)
      disposeModel(model)
      disposeRoberta(roberta)
      expect(tf.memory().numTensors).toBe(before)
      return result
    }

    beforeAll(async () => {
      device = await openBackend(backend)
      base = read<GoldenBase>('base')
    })

    async function lastState(model: Model): Promise<Float32Array> {
      const { input_ids, attention_mask } = base
      const batch = uploadBatch(
        model.roberta.config,
        host(
          input_ids,
          attention_mask,
          input_ids.map(() => 0),
        ),
      )
      const states = hiddenStates(model, batch)
      disposeBatch(batch)
      const last = await values(states.pop()!)
      tf.dispose(states)
      return last
    }

    test('base', async () => {
      const last = await withModel(nothing, new Map(), lastState)
      expect(furthest(last, base.last_hidden_state.data)).toBeLessThanOrEqual(1e-5)
    })

    test.for(methods)('%s', async (name) => {
      const golden = read<GoldenMethod>(name)
      const adapter = inMemory(golden.adapter_config)
      const setup = singleSetup('g', adapter, classificationHead(golden.logits.shape[1]!))
      await withModel(setup, tensors(golden.weights), async (model) => {
        const batch = uploadBatch(
          model.roberta.config,
          host(golden.input_ids, golden.attention_mask, golden.labels),
        )
        const { logits } = predict(model, batch)
        const states = hiddenStates(model, batch)
        const { loss, gradient } = lossAndGradient(model, batch, null, 0)
        disposeBatch(batch)
        expect(furthest(await values(states.pop()!), golden.last_hidden_state.data), 'hidden').toBeLessThan(
          1e-5,
        )
        tf.dispose(states)
        expect(furthest(await values(logits), golden.logits.data), 'logits').toBeLessThan(1e-5)
        expect(Math.abs((await values(loss))[0]! - golden.loss), 'loss').toBeLessThan(1e-5)
        const ours = unflatten(model.layout, await values(gradient))
        for (const [key, { data }] of Object.entries(golden.grads)) {
          const most = Math.max(...data.map(Math.abs))
          // A parameter out of the path has no gradient here and zeros in the file.
          const found = ours.get(key)?.data ?? new Float32Array(data.length)
          expect(furthest(found, data) / (most || 1), key).toBeLessThan(1e-4)
        }
        expect([...ours.keys()].filter((key) => !(key in golden.grads))).toEqual([])
      })
    })

    test.for(Object.keys(compositions))('%s', async (name) => {
      const golden = read<{ setup: string; weights: Record<string, Golden>; last_hidden_state: Golden }>(name)
      const adapter = { ...seqBn, reduction_factor: 4 }
      const fused = name.includes('fuse')
      const setup: ModelSetup = {
        ...nothing,
        adapters: { a: adapter, b: adapter },
        fusions: fused ? { 'a,b': dynamicFusion } : {},
        active: compositions[name]!,
      }
      const last = await withModel(setup, tensors(golden.weights), lastState)
      expect(furthest(last, golden.last_hidden_state.data), golden.setup).toBeLessThanOrEqual(1e-5)
    })
  })
