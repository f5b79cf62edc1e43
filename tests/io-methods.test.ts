/** Every method, head and composition as files: the library's own texts and keys, and back with equal bits. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { AdapterBundle, TensorMap } from '../src/config.ts'
import { configJson, exportedConfig, readAdapterConfig } from '../src/io/adapterConfig.ts'
import { baseOf, checkBase, expectedFusion, expectedShapes } from '../src/io/adapterKeys.ts'
import { fromAdapterHub, toAdapterHub, type FileMap } from '../src/io/adapterhub.ts'
import { decoderKey, headJson, headShapes, readHeadConfig } from '../src/io/headConfig.ts'
import { pythonJson } from '../src/io/json.ts'
import { currentAdapter, currentHead } from '../src/io/oldRuns.ts'
import { peftProblem, toPeft } from '../src/io/peft.ts'
import { fromPeft } from '../src/io/peftRead.ts'
import { readSafetensors, writeSafetensors } from '../src/io/safetensors.ts'
import { readTorchBin, writeTorchBin } from '../src/io/torchBin.ts'
import { adapterPlus, seqBn } from '../src/methods/bottleneck.ts'
import { dynamicFusion } from '../src/methods/fusion.ts'
import { ia3, loraConfig } from '../src/methods/lora.ts'
import { prefixTuningConfig } from '../src/methods/prefixTuning.ts'
import { adapters, base, bitsOf, drawn, edited, formats, fromUtf8, makeBundle, sizes, sorted, utf8, without } from './io.bundles.ts' // prettier-ignore
import { headParameters } from '../src/model/heads/head.ts'
import { heads, labelsOf, methods } from './io.setups.ts'

interface Keys {
  count: number
  keys: Record<string, number[]>
}
interface Library {
  adapters: Record<string, Keys & { 'adapter_config.json': string; values: number }>
  heads: Record<string, { 'head_config.json': string; keys: Record<string, number[]> }>
  fusion: Keys
}
/** Texts and keys that the library writes on roberta-base's shapes; of the keys, layers 0 and 11 and those of no layer. */
const library: Library = JSON.parse(
  readFileSync(new URL('fixtures/keys/roberta-base.json', import.meta.url), 'utf8'),
)
const robertaBase = {
  hidden_size: 768,
  num_hidden_layers: 12,
  intermediate_size: 3072,
  vocab_size: 50265,
  max_position_embeddings: 514,
  type_vocab_size: 1,
}
const edges = (shapes: Map<string, number[]>) =>
  sorted(Object.fromEntries([...shapes].filter(([key]) => !/layer\.([1-9]|10)\./.test(key))))
describe('texts and keys of roberta-base', () => {
  test.each(Object.entries(library.adapters))(
    '%s',
    (_, { 'adapter_config.json': text, count, values, keys }) => {
      const file = JSON.parse(text)
      const notes: string[] = []
      const config = readAdapterConfig(file, notes)
      expect(notes).toEqual([])
      expect(pythonJson({ ...file, config: configJson(config) })).toBe(text)
      const shapes = expectedShapes(config, null, 'sst2', robertaBase)
      expect(edges(shapes)).toEqual(sorted(keys))
      const size = [...shapes.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)
      expect([shapes.size, size]).toEqual([count, values])
    },
  )

  test.each(Object.entries(library.heads))('head %s', (_, { 'head_config.json': text, keys }) => {
    const file = JSON.parse(text)
    const { head, id2label } = readHeadConfig(file, [])
    expect(pythonJson({ ...file, config: headJson(head, id2label) })).toBe(text)
    const shapes = headShapes(head, 'sst2', 768)
    // The decoder is the word table, which the library writes once more.
    if (head.head_type === 'masked_lm') shapes.set(decoderKey('sst2'), [50265, 768])
    expect(sorted(Object.fromEntries(shapes))).toEqual(sorted(keys))
  })

  test('fusion', () => {
    const shapes = expectedFusion(dynamicFusion, [seqBn, seqBn], 'sst2,mnli', robertaBase)
    expect([shapes.size, edges(shapes)]).toEqual([library.fusion.count, sorted(library.fusion.keys)])
  })
})

test('files have the keys that the model takes', () => {
  for (const [name, head] of Object.entries(heads)) {
    const own = headParameters(baseOf({ ...sizes }), head, 'x').map(({ key, shape }) => [key, shape])
    expect([name, ...headShapes(head, 'x', sizes.hidden_size)]).toEqual([name, ...own])
  }
})

describe('an AdapterHub folder', () => {
  test.each(Object.entries(methods))('%s goes out and comes back', async (_, adapter) => {
    const bundle = makeBundle(adapter)
    const files = toAdapterHub(bundle)
    for (const format of formats) {
      const { bundle: back, notes } = await fromAdapterHub(without(files, format))
      expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
      expect([back.adapter, back.head, back.id2label]).toEqual([
        exportedConfig(adapter),
        bundle.head,
        bundle.id2label,
      ])
      expect([...back.tensors.keys()]).toEqual([...bundle.tensors.keys()])
      expect(notes).toEqual([])
      checkBase(back, { ...base, intermediate_size: 24 })
    }
  })

  test.each(Object.entries(methods))('%s without a head', async (_, adapter) => {
    const bundle = { ...makeBundle(adapter, [], 'reviews', null), base: null }
    const { bundle: back, notes } = await fromAdapterHub(toAdapterHub({ ...bundle, hidden_size: 16 }))
    expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
    expect([back.head, back.id2label, notes.length]).toEqual([null, [], 1])
    checkBase(back, { ...base, intermediate_size: 24 })
  })

  test.each(Object.entries(heads))('a head alone, and one left behind: %s', async (_, head) => {
    const bundle = makeBundle({ architecture: 'head' }, labelsOf(head), 'reviews', head)
    for (const format of formats) {
      const { bundle: back } = await fromAdapterHub(without(toAdapterHub(bundle), format))
      expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
      expect([back.head, back.id2label]).toEqual([head, bundle.id2label])
    }
    const both = makeBundle(adapters.seq_bn!, labelsOf(head), 'reviews', head)
    const { bundle: alone, notes } = await fromAdapterHub(toAdapterHub(both), { with_head: false })
    expect([alone.head, notes]).toEqual([null, []])
    expect([...alone.tensors.keys()].some((key) => key.startsWith('heads.'))).toBe(false)
  })

  test('scales and shares stay floats, widths stay whole', () => {
    const text = (files: FileMap, name: string) => fromUtf8(files.get(name))
    const config = text(toAdapterHub(makeBundle(methods.mam!)), 'adapter_config.json')
    expect(config).toContain('"scaling": 4.0')
    expect(config).toContain('"dropout": 0.0')
    expect(config).toContain('"reduction_factor": 2,')
    expect(config).not.toMatch(/"architecture": null/)
    const own = text(toAdapterHub(makeBundle(methods['bottleneck in one layer']!)), 'adapter_config.json')
    expect([own.includes('"scaling": 2.0'), own.includes('"reduction_factor": 0.5')]).toEqual([true, true])
    const head = makeBundle({ architecture: 'head' }, ['a', 'b', 'c'], 'x', { ...heads['two layers']!, dropout_prob: 0 } as never) // prettier-ignore
    expect(text(toAdapterHub(head), 'head_config.json')).toContain('"dropout_prob": 0.0')
  })

  test('stochastic depth stays at home, where Python would ask for torchvision', async () => {
    const bundle = makeBundle(adapterPlus)
    expect(adapterPlus.stochastic_depth).toBe(0.1)
    const { bundle: back } = await fromAdapterHub(toAdapterHub(bundle))
    expect(back.adapter).toEqual({ ...adapterPlus, stochastic_depth: 0 })
  })

  test('a prefix is written under the names of all layers, stored once, and read once', async () => {
    const bundle = makeBundle({ ...prefixTuningConfig, bottleneck_size: 6, leave_out: [1] })
    const files = toAdapterHub(bundle)
    const bin = files.get('pytorch_adapter.bin')!
    const stored = readTorchBin(bin)
    expect(stored.size).toBe(5 * 4)
    expect([...stored.keys()].filter((key) => key.endsWith('.wte.weight'))).toEqual([
      'roberta.prefix_tuning.prefix_tunings.reviews.self_prefix.wte.weight',
      ...[0, 1, 2].map((l) => `roberta.encoder.layer.${l}.attention.self.prefix_tuning.pool.prefix_tunings.reviews.self_prefix.wte.weight`), // prettier-ignore
    ])
    expect(new Set([...stored.values()].map(({ data }) => data)).size).toBe(5)
    expect(bin.length).toBeLessThan(files.get('adapter.safetensors')!.length + 20_000)
    expect((await readSafetensors(files.get('adapter.safetensors')!)).size).toBe(5)
    const inLayers = new Map([...stored].filter(([key]) => key.includes('.layer.2.')))
    const { bundle: back } = await fromAdapterHub(
      new Map(files).set('pytorch_adapter.bin', writeTorchBin(inLayers)),
    )
    expect([...back.tensors.keys()]).toEqual([...bundle.tensors.keys()])
    const [key, tensor] = [...stored].at(-1)!
    stored.set(key, { ...tensor, data: tensor.data.map((value) => value + 1) })
    await expect(fromAdapterHub(new Map(files).set('pytorch_adapter.bin', writeTorchBin(stored)))).rejects.toThrow('which are one tensor in the library, with different values') // prettier-ignore
  })

  test('the norm in front of a projection has two names', async () => {
    const bundle = makeBundle({ ...seqBn, reduction_factor: 4, ln_before: true })
    const files = toAdapterHub(bundle)
    const keys = [...readTorchBin(files.get('pytorch_adapter.bin')!).keys()]
    const path = 'roberta.encoder.layer.0.output.adapters.reviews'
    expect(keys).toContain(`${path}.adapter_norm_before.weight`)
    expect(keys).toContain(`${path}.adapter_down.0.weight`)
    expect(keys).toContain(`${path}.adapter_down.1.weight`)
    const { bundle: back } = await fromAdapterHub(files)
    expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
  })

  test('a decoder that is in the file stays with the head, and is written again', async () => {
    const bundle = makeBundle(adapters.seq_bn!, [], 'reviews', heads.masked_lm!)
    expect(bundle.tensors.has('heads.reviews.3.weight')).toBe(false)
    const decoder = drawn([['heads.reviews.3.weight', [100, 16]]], 3)
    const whole = { ...bundle, tensors: new Map([...bundle.tensors, ...decoder]) }
    const { bundle: back } = await fromAdapterHub(toAdapterHub(whole))
    expect(sorted(bitsOf(back.tensors))).toEqual(sorted(bitsOf(whole.tensors)))
    const wrong = drawn([['heads.reviews.3.weight', [99, 16]]], 3)
    expect(() => toAdapterHub({ ...whole, tensors: new Map([...bundle.tensors, ...wrong]) })).toThrow('heads.reviews.3.weight is [99,16] instead of [100,16]') // prettier-ignore
    expect(() => checkBase(back, { ...base, vocab_size: 50, intermediate_size: 24 })).toThrow('its vocabulary size is 100') // prettier-ignore
  })

  test('the masked-LM head of RobertaForMaskedLM', async () => {
    const bundle = makeBundle(adapters.seq_bn!, [], 'reviews', heads.masked_lm!)
    const files = toAdapterHub(bundle)
    const names = { 0: 'dense', 2: 'layer_norm', 3: 'decoder' }
    const renamed: TensorMap = new Map()
    for (const [key, tensor] of readTorchBin(files.get('pytorch_model_head.bin')!))
      renamed.set(
        key.replace(/heads\.reviews\.(\d)/, (_, i: '0') => `lm_head.${names[i]}`),
        tensor,
      )
    renamed.set('lm_head.bias', renamed.get('lm_head.decoder.bias')!)
    const config = { config: null, name: null, hidden_size: 16, model_class: 'RobertaForMaskedLM', model_type: 'roberta' } // prettier-ignore
    files
      .set('head_config.json', utf8(JSON.stringify(config)))
      .set('pytorch_model_head.bin', writeTorchBin(renamed))
    const { bundle: back } = await fromAdapterHub(files)
    expect(back.head).toEqual(bundle.head)
    expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
  })

  test('rules of old versions', async () => {
    const gelu = makeBundle({ ...seqBn, reduction_factor: 4, non_linearity: 'gelu' })
    const read = async (edit: (json: any) => void, bundle = gelu) => fromAdapterHub(edited(toAdapterHub(bundle), 'adapter_config.json', edit)) // prettier-ignore
    const old = await read((json) => delete json.version)
    expect([old.bundle.adapter, old.notes.length]).toEqual([
      { ...gelu.adapter, non_linearity: 'gelu_new' },
      1,
    ])
    const named = await read((json) => { delete json.version; json.config.non_linearity = 'gelu_orig' }) // prettier-ignore
    expect(named.bundle.adapter).toEqual(gelu.adapter)
    for (const version of ['adapters.1.0.0.dev0', 'adapters.1.3.0+local', '3.2.1'])
      expect((await read((json) => (json.version = version))).bundle.adapter).toEqual(gelu.adapter)
    const newer = await read((json) => (json.version = 'adapters.2.0.0rc1'))
    expect(newer.notes).toEqual([
      'Written by adapters 2.0.0rc1, which is newer than the 1.3 that this page follows.',
    ])
    const union = makeBundle({ architecture: 'union', configs: [{ ...seqBn, reduction_factor: 4, non_linearity: 'gelu' }] }) // prettier-ignore
    expect((await read((json) => delete json.version, union)).bundle.adapter).toEqual(union.adapter)
  })

  test('invertible layers as of before 2021, and of task adapters that never had them', async () => {
    const bundle = makeBundle(methods.seq_bn_inv!)
    const files = edited(toAdapterHub(bundle), 'adapter_config.json', (json) => {
      delete json.config.inv_adapter
      delete json.config.inv_adapter_reduction_factor
      json.config.invertible_adapter = { block_type: 'nice', non_linearity: 'relu', reduction_factor: 2 }
      json.config.leave_out = null
      json.type = 'text_task'
    })
    const tensors = readTorchBin(files.get('pytorch_adapter.bin')!)
    const older = [...tensors].map(([key, tensor]): [string, typeof tensor] => [key.replace('invertible_adapters', 'invertible_lang_adapters').replace('output.adapters', 'output.layer_text_lang_adapters'), tensor]) // prettier-ignore
    const { bundle: back } = await fromAdapterHub(new Map(files).set('pytorch_adapter.bin', writeTorchBin(new Map(older)))) // prettier-ignore
    expect([back.adapter, bitsOf(back.tensors)]).toEqual([bundle.adapter, bitsOf(bundle.tensors)])
    const none = new Map([...tensors].filter(([key]) => !key.includes('invertible')))
    const { bundle: task } = await fromAdapterHub(
      new Map(files).set('pytorch_adapter.bin', writeTorchBin(none)),
    )
    expect(task.adapter).toEqual({
      ...methods.seq_bn_inv,
      inv_adapter: null,
      inv_adapter_reduction_factor: null,
    })
  })

  test('a model of other sizes, another vocabulary, too few layers', () => {
    const flat = makeBundle({ ...prefixTuningConfig, flat: true }, [], 'x', null)
    const unknown: AdapterBundle = { ...flat, base: null, hidden_size: 16 }
    const open = { ...base, intermediate_size: 24 }
    expect(() => checkBase(unknown, { ...open, num_hidden_layers: 4 })).toThrow('control_trans is [2880] instead of [3840]') // prettier-ignore
    expect(() => checkBase(unknown, { ...open, hidden_size: 32 })).toThrow('its hidden size is 16')
    const whole = makeBundle({ architecture: 'head' }, [], 'x', heads.masked_lm!)
    expect(() => checkBase({ ...whole, base: null }, { ...open, vocab_size: 7 })).toThrow(
      'its vocabulary size is 100',
    )
  })
})

describe('PEFT', () => {
  const exact = Object.entries({ ...methods, ...adapters, 'ia3 with its alpha': { ...ia3, alpha: 3, output_lora: true, leave_out: [2] } }).filter(([, adapter]) => peftProblem({ adapter, head: null }) === null) // prettier-ignore

  test('has LoRA and (IA)³, and says why not the rest', () => {
    expect(exact.map(([name]) => name)).toEqual(['lora', 'ia3', 'lora everywhere', 'lora in the feed-forward block', 'ia3 with its alpha']) // prettier-ignore
    for (const [name, adapter] of Object.entries(methods)) {
      const problem = peftProblem({ adapter, head: null })
      if (['lora', 'ia3'].includes(name)) continue
      expect(problem).toMatch(/^There is no equivalent PEFT folder: .*\.$/)
      expect(() => toPeft(makeBundle(adapter))).toThrow(problem!)
    }
    for (const [name, head] of Object.entries(heads))
      if (!['two layers', 'many labels', 'regression'].includes(name))
        expect(() => toPeft(makeBundle(ia3, labelsOf(head), 'x', head))).toThrow('two-layer tanh head')
  })

  test.each(exact)('%s goes out and comes back', async (_, adapter) => {
    if (adapter.architecture !== 'lora') throw new Error('PEFT has no other')
    const three = { num_hidden_layers: 3 }
    for (const head of [heads['two layers']!, null]) {
      const bundle = makeBundle(adapter, head ? labelsOf(head) : [], 'reviews', head)
      const { bundle: back } = await fromPeft(toPeft(bundle), 'reviews', head ? bundle.id2label : null, three)
      const { alpha } = adapter
      const scaled = adapter.composition_mode === 'scale'
      const expected = new Map([...bundle.tensors].map(([key, { shape, data }]) => [key, { shape, data: scaled && key.endsWith('lora_B') ? data.map((value) => value * alpha) : data }])) // prettier-ignore
      expect(bitsOf(back.tensors)).toEqual(bitsOf(expected))
      expect([back.adapter, back.head]).toEqual([{ ...adapter, ...(scaled && { alpha: 1 }), ...(!adapter.selfattn_lora && { attn_matrices: [] }) }, head]) // prettier-ignore
    }
  })

  test('layers that have none are listed, beside names or in the pattern', () => {
    const json = (adapter: typeof loraConfig) => JSON.parse(fromUtf8(toPeft(makeBundle(adapter)).get('adapter_config.json'))) // prettier-ignore
    expect(json({ ...loraConfig, leave_out: [1] })).toMatchObject({ target_modules: ['query', 'value'], layers_to_transform: [0, 2] }) // prettier-ignore
    expect(json({ ...ia3, leave_out: [1] })).toMatchObject({ feedforward_modules: [], target_modules: '.*encoder\\.layer\\.(0|2)\\.(attention\\.self\\.key|attention\\.self\\.value|intermediate\\.dense)' }) // prettier-ignore
    expect(json(ia3)).toMatchObject({
      peft_type: 'IA3',
      target_modules: ['key', 'value', 'intermediate.dense'],
    })
  })

  test('(IA)³ on an input is refused', async () => {
    const files = toPeft(makeBundle(ia3))
    const tensors = await readSafetensors(files.get('adapter_model.safetensors')!)
    const [key, { shape, data }] = [...tensors].find(([name]) => name.includes('intermediate'))!
    tensors.set(key, { shape: [1, shape[0]!], data })
    await expect(fromPeft(new Map(files).set('adapter_model.safetensors', writeSafetensors(tensors)), 'x', null)).rejects.toThrow('scales the input of intermediate.dense (feedforward_modules)') // prettier-ignore
  })
})

test('runs of before are read as what they stood for', () => {
  const old = (value: object) => value as never
  expect(currentAdapter(old({ method: 'seq_bn', reduction_factor: 4, leave_out: [1], dropout: 0.1 }))).toEqual({ ...seqBn, reduction_factor: 4, leave_out: [1], dropout: 0.1 }) // prettier-ignore
  expect(currentAdapter(old({ method: 'lora', r: 4, alpha: 2 }))).toEqual({ ...loraConfig, r: 4, alpha: 2 })
  expect(currentAdapter(old({ method: 'head' }))).toEqual({ architecture: 'head' })
  expect(currentAdapter(ia3)).toBe(ia3)
  const { pooling: _, ...head } = heads['two layers'] as { pooling: string }
  expect(currentHead(old(head))).toEqual(heads['two layers'])
})
