/**
 * Bottleneck adapters where tests/parity does not look: unlike ones in one composition, an odd model width, fusions with
 * parts switched off, fresh values in full (tests/parity/make_bottleneck.py), what happens while training,
 * counts and refusals.
 */
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import type { AdapterConfig, AdapterSetup, BnConfig, ModelSetup } from '../src/config.ts'
import { openBackend, type DeviceReport } from '../src/kernels/backend.ts'
import {
  adapterPlus,
  bottleneck,
  compacter,
  compacterPlusPlus,
  doubleSeqBn,
  doubleSeqBnInv,
  parBn,
  scaledParBn,
  seqBn,
  seqBnInv,
} from '../src/methods/bottleneck.ts'
import { initialiseBottleneck } from '../src/methods/bottleneckModules.ts'
import { floorDivide } from '../src/methods/floorDivide.ts'
import {
  dynamicFusion,
  fusionKey,
  fusionParameters,
  fusionProblems,
  isFusionValue,
  regularisesFusion,
  staticFusion,
} from '../src/methods/fusion.ts'
import type { Ending, Parameter, Walk } from '../src/methods/method.ts'
import { disposeBatch } from '../src/model/batch.ts'
import { lossAndGradient } from '../src/model/model.ts'
import { Ops, type Matrix, type NoiseSource } from '../src/model/ops.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { constant, Tape, type Var } from '../src/model/tape.ts'
import { TorchGenerator } from '../src/random.ts'
import {
  checkCase,
  checkFresh,
  furthest,
  lastHiddenState,
  readMethodFixture,
  uploaded,
  valuesOf,
  withSetup,
} from './methodCases.ts'

const forgets = { records: false, halves: false, inHalf: false }

/** h and u as they meet at the end of a sub-layer. */
const ending = (ops: Ops, h: Matrix, u: Matrix): Ending => ({ u, h: () => h, sum: () => ops.add(h, u) })

const fixture = readMethodFixture('bottleneck')
const base = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    max_position_embeddings: 514,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

function setupOf(adapters: Record<string, AdapterConfig>, active: AdapterSetup): ModelSetup {
  return {
    adapters,
    fusions: {},
    heads: {},
    active,
    active_heads: [],
    train: { adapters: [], fusions: [], heads: [], base: 'none' },
    skip_layers: [],
  }
}

const count = (parameters: Parameter[]) =>
  parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)

describe('against the library', () => {
  let device: DeviceReport
  beforeAll(async () => {
    device = await openBackend('wasm')
  })

  test.for(Object.keys(fixture.cases))('%s', (name) => checkCase(fixture, device, fixture.cases[name]!))
  test.for(Object.keys(fixture.fresh))('fresh %s, and the head drawn after it', (name) =>
    checkFresh(fixture, device, fixture.fresh[name]!),
  )

  test.for([
    ['Split', { type: 'Split', children: ['a', 'b'], splits: [3, 4] }, /3 \+ 4 tokens.*the 11 tokens/],
    ['BatchSplit', { type: 'BatchSplit', children: ['a', 'b'], batch_sizes: [1, 2] }, /1 \+ 2 rows.*5 rows/],
    [
      'a gap in an Average',
      { type: 'Average', children: ['a', 'late'], weights: null, normalize_weights: true },
      /“late” has no bottleneck in layer 0 \(output\), which Average needs/,
    ],
    ['a gap at the end of a Fuse', { type: 'Fuse', children: ['a', 'late'] }, /“late”.*which Fuse needs/],
    ['an unloaded fusion', { type: 'Fuse', children: ['a', 'b'] }, /a,b.*never loaded/],
  ] as [string, AdapterSetup, RegExp][])('%s that does not fit is refused', async ([, active, sentence]) => {
    const adapters = { a: seqBn, b: parBn, late: { ...seqBn, leave_out: [0] } }
    const setup = setupOf(adapters, active)
    await withSetup(fixture, device, setup, null, async (model) => {
      await expect(lastHiddenState(fixture, model)).rejects.toThrow(sentence)
    })
  })

  test('stochastic depth and dropout act in training alone, and differ from pass to pass', async () => {
    const adapters = {
      a: { ...adapterPlus, dropout: 0.5, stochastic_depth: 0.5 },
      calm: { ...adapterPlus, stochastic_depth: 0 },
    }
    const head = fixture.cases['nice on an odd width']!.setup.heads.parity!
    const losses = async (name: 'a' | 'calm', calls: (number | null)[]) => {
      const found: number[] = []
      const setup: ModelSetup = {
        ...setupOf({ [name]: adapters[name] }, name),
        heads: { parity: head },
        active_heads: ['parity'],
        train: { adapters: [name], fusions: [], heads: [], base: 'none' },
      }
      await withSetup(fixture, device, setup, null, async (model) => {
        const batch = uploaded(fixture)
        for (const call of calls) {
          const noise = call === null ? null : { seed: 3, call, base: false }
          const { loss, gradient } = lossAndGradient(model, batch, noise, 0)
          gradient.dispose()
          found.push((await valuesOf(loss))[0]!)
        }
        disposeBatch(batch)
      })
      return found
    }
    const [rest, one, again, two] = await losses('a', [null, 1, 1, 2])
    expect(one).toBe(again)
    expect(one).not.toBe(two)
    expect(one).not.toBe(rest)
  })
})

describe('on its own', () => {
  beforeAll(() => openBackend('cpu'))

  /** A walk at layer 0 with one adapter `a`, its tensors fresh and fifty times as large. */
  function walkOf(config: BnConfig, B: number, S: number, H: number, noise: NoiseSource | null): Walk {
    const small = { ...base, hidden_size: H, num_hidden_layers: 1 }
    const start = {
      generator: new TorchGenerator(1),
      base: small,
      weight: () => Promise.reject(new Error('A bottleneck starts from nothing of the base.')),
      tokens: () => [],
    }
    const vars = new Map<string, Var>()
    for (const [key, { shape, data }] of initialiseBottleneck(start, config, 'a'))
      vars.set(key, constant(tf.tensor(data.map((value) => value * 50), shape))) // prettier-ignore
    const walk: Partial<Walk> = {
      ops: new Ops(new Tape(forgets), noise),
      base: small,
      layer: 0,
      B,
      S,
      setup: 'a',
      config: (_method, _name, fits) => [config].find((one) => fits?.(one as never) ?? true) as never,
      parameter: (key) => vars.get(key) as never,
      constant: (values, shape) => constant(tf.tensor(Float32Array.from(values), shape)) as never,
    }
    return walk as Walk
  }

  test('stochastic depth drops whole texts, and makes up for it in the rest', async () => {
    const [B, S, H] = [200, 3, 8]
    const config: BnConfig = { ...adapterPlus, reduction_factor: 2, stochastic_depth: 0.25 }
    const matrix = (values: number[]) => constant(tf.tensor2d(values, [B * S, H]))
    const h = matrix(Array.from({ length: B * S * H }, (_, i) => Math.sin(i)))
    const u = matrix(Array.from({ length: B * S * H }, (_, i) => Math.cos(3 * i)))
    const norm = {
      weight: constant(tf.ones<tf.Rank.R1>([H])),
      bias: constant(tf.zeros<tf.Rank.R1>([H])),
      eps: 1e-5,
    }
    const none = new Ops(new Tape(forgets), null)
    const run = async (noise: NoiseSource | null) =>
      bottleneck.sublayer!(walkOf(config, B, S, H, noise), 'output', ending(none, h, u), norm).tensor.data()
    const x = await none.layerNorm(none.add(h, u), norm.weight, norm.bias, norm.eps).tensor.data()
    const whole = await run(null)
    const dropped = await run({ seed: 4, call: 1 })
    let kept = 0
    for (let row = 0; row < B; row++) {
      const at = [...Array(S * H).keys()].map((i) => row * S * H + i)
      const factor = at.every((i) => dropped[i] === x[i]) ? 0 : 1 / 0.75
      if (factor > 0) kept++
      for (const i of at) expect(dropped[i]).toBeCloseTo(x[i]! + factor * (whole[i]! - x[i]!), 3)
    }
    expect(kept).toBeGreaterThan(120)
    expect(kept).toBeLessThan(180)
  })

  test('the inverse of an invertible block gives back what went in', async () => {
    const walk = walkOf({ ...seqBnInv, non_linearity: 'gelu' }, 3, 1, 11, null)
    const x = Float32Array.from({ length: 33 }, (_, i) => Math.sin(i))
    const there = bottleneck.embeddings!(walk, constant(tf.tensor2d(x, [3, 11])))
    const back = bottleneck.beforeDecoder!(walk, there)
    expect(furthest(await there.tensor.data(), x)).toBeGreaterThan(0.1)
    expect(furthest(await back.tensor.data(), x)).toBeLessThan(1e-5)
  })

  test('a plain seq_bn asks for h + u once and is one operation', () => {
    const counted = { add: 0, layerNorm: 0, scale: 0, linear: 0, bottleneck: 0 }
    const walk = walkOf(seqBn, 2, 2, 8, null)
    const sums = { sum: 0, h: 0 }
    for (const name of ['add', 'layerNorm', 'scale', 'linear', 'bottleneck'] as const) {
      const real = walk.ops[name].bind(walk.ops) as (...given: unknown[]) => unknown
      Object.assign(walk.ops, { [name]: (...given: unknown[]) => (counted[name]++, real(...given)) })
    }
    const x = constant(tf.ones<tf.Rank.R2>([4, 8]))
    const norm = {
      weight: constant(tf.ones<tf.Rank.R1>([8])),
      bias: constant(tf.zeros<tf.Rank.R1>([8])),
      eps: 1e-5,
    }
    const own = { u: x, h: () => (sums.h++, x), sum: () => (sums.sum++, x) }
    bottleneck.sublayer!(walk, 'output', own, norm)
    expect(counted).toEqual({ add: 0, layerNorm: 0, scale: 0, linear: 0, bottleneck: 1 })
    expect(sums).toEqual({ sum: 1, h: 0 })
  })
})

test('counts on the shapes of roberta-base', () => {
  const of = (config: BnConfig) => count(bottleneck.parameters(base, config, 'x'))
  expect(of(seqBn)).toBe(894528)
  expect(of(doubleSeqBn)).toBe(1789056)
  expect(of({ ...parBn, reduction_factor: 6 })).toBe(2370048)
  expect(of(parBn)).toBe(7091712)
  expect(of(scaledParBn)).toBe(7091724)
  expect(of(seqBnInv)).toBe(1190592)
  expect(of(doubleSeqBnInv)).toBe(2085120)
  expect(of(compacter)).toBe(57088)
  expect(of(compacterPlusPlus)).toBe(28576)
  expect(of(adapterPlus)).toBe(165984)
  expect(of({ ...seqBn, leave_out: [0, 3, 4] })).toBe((894528 / 12) * 9)
  expect(of({ ...seqBn, reduction_factor: { '0': 8, default: 16 } })).toBe(894528 + 48 * (2 * 768 + 1))
  expect(of({ ...seqBn, use_gating: true })).toBe(894528 + 12 * 769)
  const fused = (config: typeof dynamicFusion) => count(fusionParameters(base, [seqBn, seqBn], 'a,b', config))
  expect(fused(dynamicFusion)).toBe(21252096)
  expect(fused(staticFusion)).toBe(14174208)
})

test('a new norm before has a second name, and is counted once', () => {
  const parameters = bottleneck.parameters(
    { ...base, num_hidden_layers: 1 },
    { ...seqBn, ln_before: true },
    'x',
  )
  const path = 'roberta.encoder.layer.0.output.adapters.x'
  expect(parameters.filter(({ alias }) => alias)).toEqual([
    { key: `${path}.adapter_norm_before.weight`, shape: [768], alias: `${path}.adapter_down.0.weight` },
    { key: `${path}.adapter_norm_before.bias`, shape: [768], alias: `${path}.adapter_down.0.bias` },
  ])
  expect(parameters.map(({ key }) => key)).toContain(`${path}.adapter_down.1.weight`)
  expect(count(parameters)).toBe(894528 / 12 + 2 * 768)
})

test('widths are floored as Python does it', () => {
  // From Python: [a // b for ...]
  const pairs = [[768, 16, 48], [768, 7, 109], [768, 0.1, 7679], [768, 0.3, 2560], [32, 5, 6], [9, 0.7, 12]] as const // prettier-ignore
  for (const [a, b, quotient] of pairs) expect(floorDivide(a, b), `${a} // ${b}`).toBe(quotient)
})

test('fields that cannot work are told in a sentence', () => {
  const problems = (changes: object, on = base) =>
    bottleneck.problems({ ...seqBn, ...changes } as BnConfig, on)
  const presets = [seqBn, doubleSeqBn, parBn, scaledParBn, seqBnInv, doubleSeqBnInv, compacter, compacterPlusPlus, adapterPlus] // prettier-ignore
  for (const good of presets) {
    expect(bottleneck.problems(good, base)).toEqual([])
    expect(bottleneck.problems(good, null)).toEqual([])
    expect(Object.keys(good)).toEqual(Object.keys(bottleneck.defaults))
  }
  const told: [object, RegExp][] = [
    [{ output_adapter: false }, /both off/],
    [{ leave_out: Array.from({ length: 12 }, (_, l) => l) }, /all 12 layers/],
    [{ reduction_factor: 0 }, /reduction_factor is 0/],
    [{ reduction_factor: { '0': 4 } }, /says nothing about layer 1/],
    [{ reduction_factor: {} }, /is empty/],
    [{ non_linearity: 'prelu' }, /“prelu”, which is no activation/],
    [{ non_linearity: null }, /non_linearity is null/],
    [{ dropout: 1 }, /dropout is 1/],
    [{ stochastic_depth: -0.1 }, /stochastic_depth is -0.1/],
    [{ scaling: 'learnt' }, /“learnt”; it must be a number, “learned” or “channel”/],
    [{ init_weights: 'xavier' }, /“bert”, “mam_adapter” or “houlsby”/],
    [{ init_weights_seed: 1.5 }, /whole number/],
    [{ residual_before_ln: 'pre_add' }, /true, false or “post_add”/],
    [{ residual_before_ln: 'post_add', original_ln_before: false }, /needs original_ln_before/],
    [{ inv_adapter: 'glow', inv_adapter_reduction_factor: 2 }, /“glow” fails in the library/],
    [{ inv_adapter: 'real_nvp' }, /“real_nvp”; it must be “nice”/],
    [{ inv_adapter: 'nice' }, /needs an inv_adapter_reduction_factor/],
    [{ inv_adapter: 'nice', inv_adapter_reduction_factor: 500 }, /leaves nothing/],
    [{ phm_layer: true, init_weights: 'mam_adapter' }, /“mam_adapter” fails in the library with phm_layer/],
    [{ phm_layer: true, phm_dim: 5 }, /does not divide the model's width 768/],
    [{ phm_layer: true, reduction_factor: 128 }, /does not divide the bottleneck's width 6/],
    [{ phm_layer: true, phm_dim: 0 }, /phm_dim is 0/],
    [{ phm_layer: true, phm_rank: 1.5 }, /phm_rank is 1.5/],
    [{ phm_layer: true, phm_c_init: 'zeros' }, /phm_c_init/],
    [{ phm_layer: true, hypercomplex_nonlinearity: 'relu' }, /hypercomplex_nonlinearity is “relu”/],
    [{ phm_layer: true, shared_W_phm: true, factorized_phm_W: false }, /fails in the library without factorized_phm_W/],
    [{ phm_layer: true, shared_W_phm: true, reduction_factor: { default: 32 } }, /one whole reduction_factor/],
  ] // prettier-ignore
  for (const [changes, sentence] of told) {
    const found = problems(changes)
    expect(found, JSON.stringify(changes)).toHaveLength(1)
    expect(found[0]).toMatch(sentence)
    expect(found[0]).toMatch(/\.$/)
  }
  expect(problems({ residual_before_ln: 'post_add', original_ln_before: false, is_parallel: true })).toEqual(
    [],
  )
})

test('every field has words for the form', () => {
  const keys = bottleneck.fields.map(({ key }) => key).sort()
  const all = Object.keys(bottleneck.defaults).filter((key) => key !== 'architecture')
  expect(keys).toEqual(all.sort())
})

test('what cannot be fused is told in a sentence', () => {
  const member = (name: string, config?: AdapterConfig) => ({ name, config })
  const pair = [member('a', seqBn), member('b', parBn)]
  expect(fusionProblems(dynamicFusion, pair)).toEqual([])
  expect(fusionProblems(dynamicFusion, pair.slice(1))[0]).toMatch(/at least two/)
  expect(fusionProblems(dynamicFusion, [member('a', seqBn), member('c')])).toEqual([
    "The fusion's member “c” was never loaded.",
  ])
  const union: AdapterConfig = { architecture: 'union', configs: [seqBn] }
  expect(fusionProblems(staticFusion, [member('a', seqBn), member('u', union)])[0]).toMatch(
    /“u” is no bottleneck/,
  )
  expect(fusionProblems(staticFusion, [member('a', seqBn), member('d', doubleSeqBn)])[0]).toMatch(
    /same places/,
  )
  expect(fusionProblems({ ...dynamicFusion, temperature: true }, pair)[0]).toMatch(/not saved/)
  expect(fusionProblems({ ...dynamicFusion, dropout_prob: 1 }, pair)[0]).toMatch(/dropout_prob is 1/)
})

test('tensors of a fusion out of the path are idle', () => {
  const late = { ...seqBn, leave_out: [0] }
  const small = { ...base, num_hidden_layers: 2 }
  const roles = (members: AdapterConfig[], config = dynamicFusion) =>
    fusionParameters(small, members, 'a,b', config).map(({ role }) => role)
  expect(roles([late, late])).toEqual([
    ...Array<string>(5).fill('idle'),
    ...Array<undefined>(5).fill(undefined),
  ])
  expect(roles([late, seqBn])).toEqual(Array<undefined>(10).fill(undefined))
  expect(roles([seqBn, seqBn], { ...staticFusion, key: false, query: false })).toEqual(
    Array<string>(4).fill('idle'),
  )
})

test('the regularisation of a fusion pulls its values to the identity', () => {
  expect(isFusionValue('roberta.encoder.layer.0.output.adapter_fusion_layer.a,b.value.weight')).toBe(true)
  expect(isFusionValue('roberta.encoder.layer.0.output.adapter_fusion_layer.a,b.key.weight')).toBe(false)
  expect(isFusionValue('roberta.encoder.layer.0.attention.self.value.weight')).toBe(false)
  const fuse: AdapterSetup = { type: 'Fuse', children: ['a', { type: 'Stack', children: ['b', 'c'] }] }
  expect(fusionKey(fuse)).toBe('a,c')
  expect(regularisesFusion(fuse)).toBe(true)
  expect(regularisesFusion({ type: 'Stack', children: ['d', fuse] })).toBe(true)
  expect(regularisesFusion({ type: 'Stack', children: ['d'] })).toBe(false)
  expect(regularisesFusion(null)).toBe(false)
})
