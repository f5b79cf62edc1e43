/**
 * LoRA, (IA)³, DoRA and ReFT where they meet one another or a composition block, against the real library
 * (tests/parity/make_lora_reft.py), their fresh values in full, counts and refusals.
 */
import { readFileSync } from 'node:fs'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import type {
  AdapterConfig,
  LoRAConfig,
  ModelSetup,
  ReftConfig,
  RobertaConfig,
  TensorMap,
} from '../src/config.ts'
import { openBackend, type DeviceReport } from '../src/kernels/backend.ts'
import { dora, ia3, lora, loraConfig } from '../src/methods/lora.ts'
import { loraRefusal } from '../src/methods/loraFields.ts'
import { countParameters, initialiseAdapter } from '../src/methods/registry.ts'
import { loreft, noreft, reft, trainingWarnings } from '../src/methods/reft.ts'
import { disposeBatch, uploadBatch } from '../src/model/batch.ts'
import { initialTensors } from '../src/model/initialise.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { createModel, disposeModel, hiddenStates, lossAndGradient, type Model } from '../src/model/model.ts'
import { unflatten } from '../src/model/params.ts'
import { disposeRoberta, type Roberta } from '../src/model/roberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { TorchGenerator } from '../src/random.ts'
import { madeUpWeights } from './madeUp.ts'

interface Stored {
  shape: number[]
  data: string
}

interface Fixture {
  config: object
  batch: { input_ids: number[][]; attention_mask: number[][]; labels: number[] }
  cases: Record<
    string,
    {
      setup: ModelSetup
      tensors: Record<string, Stored>
      last_hidden_state: Stored
      loss: number
      grads: Record<string, Stored>
    }
  >
  fresh: Record<string, { setup: ModelSetup; tensors: Record<string, Stored> }>
}

const path = new URL('./fixtures/methods/lora-reft.json', import.meta.url)
const fixture = JSON.parse(readFileSync(path, 'utf8')) as Fixture
const config = parseRobertaConfig(JSON.stringify(fixture.config))
const base = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    max_position_embeddings: 514,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

function decode({ data }: Stored): Float32Array {
  const bytes = Buffer.from(data, 'base64')
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
}

function decodeAll(stored: Record<string, Stored>): TensorMap {
  return new Map(Object.entries(stored).map(([key, one]) => [key, { shape: one.shape, data: decode(one) }]))
}

/** The configurations as the app holds them: bottlenecks have an architecture of null. */
function setupOf({ adapters, ...rest }: ModelSetup): ModelSetup {
  const whole = (adapter: object) => ({ architecture: null, ...adapter }) as AdapterConfig
  return {
    ...rest,
    adapters: Object.fromEntries(Object.entries(adapters).map(([name, one]) => [name, whole(one)])),
  }
}

function furthest(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  expect(ours.length).toBe(theirs.length)
  let worst = 0
  for (let i = 0; i < theirs.length; i++) {
    const apart = Math.abs(ours[i]! - theirs[i]!)
    if (!(apart <= worst)) worst = apart
  }
  return worst
}

async function values(tensor: tf.Tensor): Promise<Float32Array> {
  const copy = Float32Array.from(await tensor.data())
  tensor.dispose()
  return copy
}

function upload(of: RobertaConfig) {
  const { input_ids, attention_mask, labels } = fixture.batch
  return uploadBatch(of, {
    B: input_ids.length,
    S: input_ids[0]!.length,
    input_ids: Int32Array.from(input_ids.flat()),
    attention_mask: Int32Array.from(attention_mask.flat()),
    labels: Int32Array.from(labels),
  })
}

describe('against the library', () => {
  let device: DeviceReport
  beforeAll(async () => {
    device = await openBackend('wasm')
  })

  const load = async (): Promise<Roberta> =>
    (await loadRoberta(config, madeUpWeights(config), device.limits.maxStorageBufferBindingSize)).roberta

  async function lastState(model: Model): Promise<Float32Array> {
    const batch = upload(config)
    const states = hiddenStates(model, batch)
    disposeBatch(batch)
    const last = await values(states.pop()!)
    tf.dispose(states)
    return last
  }

  test.for(Object.keys(fixture.cases))('%s', async (name) => {
    const expected = fixture.cases[name]!
    const before = tf.memory().numTensors
    const roberta = await load()
    const model = createModel(roberta, setupOf(expected.setup), decodeAll(expected.tensors))
    expect(furthest(await lastState(model), decode(expected.last_hidden_state)), 'hidden').toBeLessThan(1e-5)
    const batch = upload(config)
    const { loss, gradient } = lossAndGradient(model, batch, null, 0)
    disposeBatch(batch)
    expect(Math.abs((await values(loss))[0]! - expected.loss), 'loss').toBeLessThan(1e-5)
    const ours = unflatten(model.layout, await values(gradient))
    for (const [key, stored] of Object.entries(expected.grads)) {
      const theirs = decode(stored)
      const found = ours.get(key)?.data ?? new Float32Array(theirs.length)
      const allowed = 1e-4 * Math.max(...theirs.map(Math.abs)) + 1e-8
      expect(furthest(found, theirs), key).toBeLessThan(allowed)
    }
    expect([...ours.keys()].filter((key) => !(key in expected.grads))).toEqual([])
    disposeModel(model)
    disposeRoberta(roberta)
    expect(tf.memory().numTensors).toBe(before)
  })

  test.for(Object.keys(fixture.fresh))('fresh %s, and the head drawn after it', async (name) => {
    const expected = fixture.fresh[name]!
    const roberta = await load()
    const ours = await initialTensors(roberta, setupOf(expected.setup), new Map(), 42, () => [])
    disposeRoberta(roberta)
    expect([...ours.keys()].sort()).toEqual(Object.keys(expected.tensors).sort())
    for (const [key, stored] of Object.entries(expected.tensors)) {
      expect(ours.get(key)!.shape, key).toEqual(stored.shape)
      const tolerance = key.endsWith('.base') ? 1e-5 : 2e-7 // torch's QR is in float32
      expect(furthest(ours.get(key)!.data, decode(stored)), key).toBeLessThan(tolerance)
    }
  })

  test.for([
    ['Fuse', { type: 'Fuse', children: ['a', 'b'] }, /Fuse is not possible with LoRA/],
    ['Split', { type: 'Split', children: ['a', 'b'], splits: [3, 6] }, /Split is not possible with LoRA/],
    [
      'a part without LoRA',
      { type: 'BatchSplit', children: ['a', 'c'], batch_sizes: [1, 2] },
      /BatchSplit needs a LoRA/,
    ],
    [
      'LoRA beside (IA)³',
      { type: 'BatchSplit', children: ['a', 'd'], batch_sizes: [1, 2] },
      /adds to a layer/,
    ],
    ['unlike widths', { type: 'Stack', children: ['b', 'a'] }, /stacked below gives 12/],
    ['Parallel of ReFT', { type: 'Parallel', children: ['r', 'long'] }, /Parallel is not possible with ReFT/],
    [
      'Average of ReFT',
      { type: 'Average', children: ['r', 'a'], weights: null, normalize_weights: true },
      /Average/,
    ],
    ['a long suffix', 'long', /fewer than suffix_positions, 6/],
  ] as const)('%s is refused', async ([, active, sentence]) => {
    const of: Record<string, AdapterConfig> = {
      a: { ...loraConfig, selfattn_lora: false, output_lora: true },
      b: { ...loraConfig, selfattn_lora: false, output_lora: true },
      c: { ...loraConfig, selfattn_lora: false, output_lora: true, leave_out: [0] },
      d: { ...ia3, selfattn_lora: false, intermediate_lora: false, output_lora: true },
      r: noreft,
      long: { ...noreft, suffix_positions: 6 },
    }
    const setup: ModelSetup = {
      adapters: of,
      fusions: {},
      heads: {},
      active: structuredClone(active) as ModelSetup['active'],
      active_heads: [],
      train: { adapters: [], fusions: [], heads: [], base: 'none' },
      skip_layers: [],
    }
    const roberta = await load()
    const model = createModel(roberta, setup, await initialTensors(roberta, setup, new Map(), 1, () => []))
    await expect(lastState(model)).rejects.toThrow(sentence)
    disposeModel(model)
    disposeRoberta(roberta)
  })
})

test('counts on the shapes of roberta-base', () => {
  const count = (adapter: AdapterConfig) => countParameters(base, adapter)
  expect(count(loraConfig)).toBe(294912)
  expect(
    count({ ...loraConfig, attn_matrices: ['q', 'k', 'v'], intermediate_lora: true, output_lora: true }),
  ).toBe(1179648)
  expect(count(ia3)).toBe(55296)
  expect(count(dora)).toBe(313344)
  expect(count(loreft)).toBe(36888)
  expect(count(noreft)).toBe(36888)
  const saved = reft
    .parameters(base, loreft, 'x')
    .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  expect(saved).toBe(14192664)
})

test('a fresh LoReFT base is orthogonal at the width of roberta-base', async () => {
  const start = {
    generator: new TorchGenerator(5),
    base: { ...base, num_hidden_layers: 1 },
    weight: () => Promise.reject(new Error('LoReFT starts from nothing of the base.')),
    tokens: () => [],
  }
  const tensors = await initialiseAdapter(start, { ...loreft, tied_weights: true, r: 3 }, 'x')
  const H = base.hidden_size
  const data = [...tensors].find(([key]) => key.endsWith('.base'))![1].data
  const dot = (a: number, b: number) => {
    let sum = 0
    for (let i = 0; i < H; i++) sum += data[i * H + a]! * data[i * H + b]!
    return sum
  }
  for (const [a, b] of [
    [0, 0],
    [0, 1],
    [2, 3],
    [3, 767],
    [766, 767],
    [767, 767],
    [100, 500],
  ] as const)
    expect(Math.abs(dot(a, b) - Number(a === b))).toBeLessThan(1e-6)
})

test('LoRA fields that cannot work are told in a sentence', () => {
  const problems = (changes: object) => lora.problems({ ...loraConfig, ...changes } as LoRAConfig, base)
  for (const good of [loraConfig, ia3, dora, { ...loraConfig, alpha: 2.5, leave_out: [0, 99] }])
    expect(lora.problems(good, base)).toEqual([])
  expect(problems({ r: 0 })).toEqual(['r is 0; it must be a whole number of at least 1.'])
  expect(problems({ dropout: 1 })).toEqual(['dropout is 1; it must be at least 0 and below 1.'])
  expect(problems({ alpha: NaN })).toEqual(['alpha is NaN; it must be a number.'])
  expect(problems({ attn_matrices: ['o'] })).toEqual(['attn_matrices names o; it may name q, k and v.'])
  expect(problems({ attn_matrices: [] })[0]).toMatch(/changes no matrix/)
  expect(problems({ leave_out: Array.from({ length: 12 }, (_, l) => l) })[0]).toMatch(/all 12 layers/)
  expect(problems({ init_weights: 'xavier' })[0]).toMatch(/lora, bert or ia3/)
  expect(problems({ composition_mode: 'scale' })[0]).toMatch(/needs r = 1, but r is 8/)
  expect(lora.problems({ ...ia3, dropout: 0.1 }, null)[0]).toMatch(/has no dropout/)
  expect(lora.problems({ ...ia3, use_dora: true }, null)[0]).toMatch(/do not go together/)
})

test('VeRA, DVoRA, MTL-LoRA and other number types are refused by field', () => {
  expect(loraRefusal({ ...loraConfig })).toBeNull()
  expect(loraRefusal({ ...loraConfig, dtype: 'float32' })).toBeNull()
  expect(loraRefusal({ ...loraConfig, vera_d: 0.1, vera_b: 0 })).toMatch(/^vera_d asks for VeRA/)
  expect(loraRefusal({ ...loraConfig, vera_b: 0 })).toMatch(/^vera_b asks for VeRA/)
  expect(loraRefusal({ ...loraConfig, init_weights: 'vera' })).toMatch(/^init_weights asks for VeRA/)
  expect(loraRefusal({ ...dora, vera_d: 0.1 })).toMatch(/DVoRA/)
  expect(loraRefusal({ ...loraConfig, architecture: 'mtl_lora' })).toMatch(/task id/)
  expect(loraRefusal({ ...loraConfig, dtype: 'bfloat16' })).toMatch(/dtype is bfloat16/)
  expect(lora.problems({ ...loraConfig, vera_d: 0.1 } as unknown as LoRAConfig, base)).toHaveLength(1)
})

test('ReFT fields that cannot work are told in a sentence, and weight decay on LoReFT is warned of', () => {
  const problems = (changes: object) => reft.problems({ ...loreft, ...changes } as ReftConfig, base)
  for (const good of [loreft, noreft, { ...noreft, non_linearity: 'relu', layers: [0, 5] }])
    expect(reft.problems(good, base)).toEqual([])
  expect(problems({ r: 768 })[0]).toMatch(/below the hidden size, 768/)
  expect(problems({ r: 768, orthogonality: false })).toEqual([])
  expect(problems({ prefix_positions: 0 })[0]).toMatch(/no token would change/)
  expect(problems({ suffix_positions: -1 })[0]).toMatch(/suffix_positions is -1/)
  expect(problems({ layers: [12] })[0]).toMatch(/no layer/)
  expect(problems({ layers: 'some' })[0]).toMatch(/“all” or list layers/)
  expect(problems({ non_linearity: 'prelu' })[0]).toMatch(/prelu/)
  expect(problems({ dtype: 'float16' })[0]).toMatch(/dtype is float16/)
  expect(trainingWarnings(loreft, { weight_decay: 0.01 })[0]).toMatch(/set weight_decay to 0/)
  expect(trainingWarnings(loreft, { weight_decay: 0 })).toEqual([])
  expect(trainingWarnings(noreft, { weight_decay: 0.01 })).toEqual([])
})
