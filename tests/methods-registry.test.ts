/** The registry of methods against the real library (tests/parity/make_registry.py). */
import { beforeAll, describe, expect, test } from 'vitest'
import type { AdapterConfig, RobertaConfig } from '../src/config.ts'
import { fullModelCount } from '../src/methods/comparison.ts'
import type { Start } from '../src/methods/method.ts'
import {
  architectureLabel,
  childConfigs,
  configProblems,
  countParameters,
  initialiseAdapter,
  methodOf,
  methods,
  parametersOf,
  parsePreset,
  presetOf,
  presets,
} from '../src/methods/registry.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { TorchGenerator } from '../src/random.ts'
import { expectClose, read, readRegistry, tensors, type Fixture } from './registry.fixture.ts'

const robertaBase: RobertaConfig = {
  ...parseRobertaConfig(
    JSON.stringify({
      model_type: 'roberta',
      vocab_size: 50265,
      hidden_size: 768,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      intermediate_size: 3072,
      max_position_embeddings: 514,
      type_vocab_size: 1,
      layer_norm_eps: 1e-5,
    }),
  ),
}

let fixture: Fixture
let base: RobertaConfig
beforeAll(async () => {
  ;({ fixture, base } = await readRegistry())
})

function start(seed: number): Start {
  return {
    generator: new TorchGenerator(seed),
    base,
    weight: () => Promise.reject(new Error('No weight is needed here.')),
    tokens: (text) => [...text].map((c) => c.charCodeAt(0) % base.vocab_size),
  }
}

describe('parameter counts on roberta-base', () => {
  const counts: [string, number][] = [
    ['seq_bn', 894528],
    ['double_seq_bn', 1789056],
    ['par_bn[reduction_factor=6]', 2370048],
    ['par_bn', 7091712],
    ['scaled_par_bn', 7091724],
    ['seq_bn_inv', 1190592],
    ['double_seq_bn_inv', 2085120],
    ['prefix_tuning', 9872384],
    ['prefix_tuning_flat', 552960],
    ['lora', 294912],
    ['lora[attn_matrices=["q","k","v"],intermediate_lora=True,output_lora=True]', 1179648],
    ['ia3', 55296],
    ['dora', 313344],
    ['compacter', 57088],
    ['compacter++', 28576],
    ['adapterplus', 165984],
    ['prompt_tuning', 7680],
    ['loreft', 36888],
    ['noreft', 36888],
    ['mam', 22493984],
    ['unipelt', 11083376],
    ['head', 0],
    ['full', 124055040],
  ]
  test.each(counts)('%s has %d', (text, count) => {
    expect(countParameters(robertaBase, parsePreset(text))).toBe(count)
  })

  test('the full model is RobertaModel with its pooler', () => {
    expect(fullModelCount(robertaBase)).toBe(124645632)
  })

  test('BitFit trains every bias, those of the norms included, and nothing else', () => {
    const keys = parametersOf(robertaBase, { architecture: 'bitfit' }, 'x').map(({ key }) => key)
    expect(keys).toHaveLength(1 + 12 * 8)
    expect(keys.every((key) => key.endsWith('.bias'))).toBe(true)
  })
})

describe('strings', () => {
  test('mean what they mean in the library', () => {
    for (const { text, config } of fixture.strings) expect(parsePreset(text), text).toEqual(read(config))
  })

  test('options of a union go to every part', () => {
    const mam = parsePreset('mam[leave_out=[0]]')
    expect(childConfigs(mam).map((child) => 'leave_out' in child && child.leave_out)).toEqual([[0], [0]])
  })

  test.each([
    ['nothing', /nothing.*seq_bn/],
    ['lora[rank=4]', /rank/],
    ['lora[r=four]', /four/],
    ['lora[r="4"]', /r is "4".*whole number/],
    ['lora[r=4', /lora\[r=4/],
    ['seq_bn[mh_adapter=1]', /mh_adapter is 1.*true or false/],
    ['seq_bn[non_linearity="wavy"]', /wavy/],
    ['seq_bn|par_bn', /same place/],
    ['lora|lora', /same place/],
    ['mam|lora', /union/],
    ['lora|full', /union cannot hold/],
    ['direft', /DiReFT/],
    ['vera[r=4]|seq_bn', /VeRA/],
    ['mtl_lora', /MTL/],
  ])('%s is refused in words', (text, message) => {
    expect(() => parsePreset(text)).toThrow(message)
  })
})

describe('the registry', () => {
  test('knows the preset of each configuration, and of its variations', () => {
    for (const preset of presets) expect(presetOf(structuredClone(preset.config))?.name).toBe(preset.name)
    expect(presetOf(parsePreset('par_bn[reduction_factor=6,scaling=1.0]'))?.name).toBe('par_bn')
    expect(presetOf(parsePreset('lora[r=4,output_lora=True,use_gating=True]'))?.name).toBe('lora')
    expect(presetOf(parsePreset('prefix_tuning[bottleneck_size=7]|par_bn[reduction_factor=9]'))?.name).toBe(
      'mam',
    )
    expect(presetOf(parsePreset('lora|prefix_tuning'))).toBeNull()
  })

  test('finds a method for every preset and refuses an unknown architecture', () => {
    for (const { config } of presets) expect(methods).toContain(methodOf(config))
    expect(() => methodOf({ architecture: 'vera' } as unknown as AdapterConfig)).toThrow(/vera/)
    expect(architectureLabel(parsePreset('seq_bn'))).toBe('bottleneck')
    expect(architectureLabel(parsePreset('ia3'))).toBe('lora')
    expect(architectureLabel(parsePreset('mam'))).toBe('union')
  })

  test('no preset has a problem on roberta-base', () => {
    for (const { config } of presets) expect(configProblems(config, robertaBase)).toEqual([])
  })

  test('bottlenecks of a union may keep apart by sub-layer or by layer, and by nothing else', () => {
    const apart = 'seq_bn[leave_out=[0]]|par_bn[leave_out=[1]]'
    expect(configProblems(parsePreset(apart), { ...base, num_hidden_layers: 2 })).toEqual([])
    expect(configProblems(parsePreset(apart), robertaBase)).toHaveLength(1)
    const sites = 'seq_bn|par_bn[mh_adapter=True,output_adapter=False]'
    expect(configProblems(parsePreset(sites), robertaBase)).toEqual([])
  })
})

describe('fresh adapters', () => {
  test('of a union are drawn in the library’s order, and leave the generator where it does', async () => {
    for (const { config, tensors: expected, next } of fixture.draws) {
      const from = start(7)
      const found = await initialiseAdapter(from, read(config), 'a')
      expectClose(found, tensors(expected), 2e-6)
      const lora = parsePreset("lora[r=1,init_weights='bert']")
      expectClose(await initialiseAdapter(from, lora, 'b'), tensors(next), 2e-6)
    }
  })

  test('prompts start from a text with its <s> and </s>, again and again', async () => {
    const config = parsePreset(
      "prompt_tuning[prompt_init='from_string',prompt_init_text='ab',prompt_length=6]",
    )
    const H = base.hidden_size
    const words = Float32Array.from({ length: base.vocab_size * H }, (_, i) => Math.floor(i / H))
    const from: Start = { ...start(1), weight: () => Promise.resolve(words), tokens: () => [5, 6] }
    const found = await initialiseAdapter(from, config, 'a')
    const [prompt] = [...found.values()]
    expect(Array.from({ length: 6 }, (_, i) => prompt!.data[i * H])).toEqual([0, 5, 6, 2, 0, 5])
  })
})
