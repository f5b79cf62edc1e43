import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AdapterBundle } from '../src/config.ts'
import { readAdapterConfig } from '../src/io/adapterConfig.ts'
import { adapterName, checkBase, checkBundle, expectedShapes } from '../src/io/adapterKeys.ts'
import { fromAdapterHub, toAdapterHub, type FileMap } from '../src/io/adapterhub.ts'
import { PyFloat, pythonJson } from '../src/io/json.ts'
import { toPeft } from '../src/io/peft.ts'
import { fromPeft } from '../src/io/peftRead.ts'
import { readSafetensors, writeSafetensors } from '../src/io/safetensors.ts'
import { readTorchBin, writeTorchBin } from '../src/io/torchBin.ts'
import {
  adapters,
  base,
  bitsOf,
  edited,
  fromUtf8,
  lora,
  makeBundle,
  seqBn,
  sizes,
  sorted,
  utf8,
} from './io.bundles.ts'

const library: Record<string, string> = JSON.parse(
  readFileSync(new URL('fixtures/library-files.json', import.meta.url), 'utf8'),
)

/** The files of an AdapterHub folder with one of its JSON files changed. */
const hubWith = (bundle: AdapterBundle, name: string, edit: (json: any) => void): FileMap =>
  edited(toAdapterHub(bundle), name, edit)

describe('Python’s JSON', () => {
  test('numbers keep their kind', () => {
    const value = [
      1,
      new PyFloat(1),
      0.0001,
      0.00001,
      1.5e-7,
      1e16,
      new PyFloat(1e16),
      new PyFloat(-0),
      123456.789,
      1e22,
    ]
    expect(pythonJson(value)).toBe(
      `[\n  1,\n  1.0,\n  0.0001,\n  1e-05,\n  1.5e-07,\n  10000000000000000,\n  1e+16,\n  -0.0,\n  123456.789,\n  1e+22\n]`,
    )
  })

  test('keys are in code point order, text is ASCII', () => {
    expect(pythonJson({ '🙂': 'é\u007f\n', '\uffee': [], b: {}, B: null })).toBe(
      '{\n  "B": null,\n  "b": {},\n  "\\uffee": [],\n  "\\ud83d\\ude42": "\\u00e9\\u007f\\n"\n}',
    )
  })

  test('any value comes back', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(JSON.parse(pythonJson(JSON.parse(text)))).toEqual(JSON.parse(text))
      }),
    )
  })
})

describe('the adapters library’s folder', () => {
  describe.each(['seq_bn', 'lora', 'lora_all'])('of %s', (name) => {
    const text = library[`${name}/adapter_config.json`]!
    const bundle = makeBundle(readAdapterConfig(JSON.parse(text), []), [
      'negative',
      'positive',
      'très “bien” 🙂',
    ])

    test('both configs are the library’s own text', () => {
      const files = toAdapterHub(bundle)
      expect(fromUtf8(files.get('adapter_config.json'))).toBe(text)
      expect(fromUtf8(files.get('head_config.json'))).toBe(library[`${name}/head_config.json`])
    })

    test('the expected keys are those the library saves', () => {
      const shapes: Record<string, number[]> = JSON.parse(library[`${name}/shapes`]!)
      const ours = expectedShapes(bundle.adapter, bundle.head, 'reviews', sizes)
      expect(sorted(Object.fromEntries(ours))).toEqual(sorted(shapes))
    })
  })

  test.each(Object.entries(adapters))('%s goes out and comes back', async (_, adapter) => {
    const bundle = makeBundle(adapter, ['b', 'a', '10', '2', 'É'])
    const files = toAdapterHub(bundle)
    const withoutBin = new Map([...files].filter(([name]) => !name.endsWith('.bin')))
    const withoutSafetensors = new Map([...files].filter(([name]) => !name.endsWith('.safetensors')))
    for (const folder of [files, withoutBin, withoutSafetensors]) {
      const { bundle: back, notes } = await fromAdapterHub(folder)
      expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
      expect({ ...back, tensors: null }).toEqual({
        ...bundle,
        tensors: null,
        base: null,
        hidden_size: 16,
        max_length: 128,
      })
      expect(notes).toEqual([])
    }
  })

  test('files without prefix, with old names, in fp16, with a name of its own', async () => {
    const bundle = makeBundle({ ...seqBn, dropout: 0 })
    const files = hubWith(bundle, 'adapter_config.json', (json) => {
      json.name = 'my adapter'
      json.config = { mh_adapter: false, output_adapter: true, reduction_factor: { default: 4 }, non_linearity: 'relu', original_ln_before: true, some_future_field: null } // prettier-ignore
      delete json.version
    })
    const old = readTorchBin(files.get('pytorch_adapter.bin')!)
    const renamed = [...old].map(([key, tensor]): [string, typeof tensor] => [
      key.replace('roberta.', '').replace('.adapters.reviews.', '.layer_text_task_adapters.my adapter.'),
      tensor,
    ])
    files.set('pytorch_adapter.bin', writeTorchBin(new Map(renamed)))
    const { bundle: back, notes } = await fromAdapterHub(files)
    expect(back.name).toBe('my-adapter')
    expect([...back.tensors.keys()][0]).toBe(
      'roberta.encoder.layer.0.output.adapters.my-adapter.adapter_down.0.weight',
    )
    expect(Object.values(bitsOf(back.tensors))).toEqual(Object.values(bitsOf(bundle.tensors)))
    expect(notes).toEqual([
      'The adapter “my adapter” is called “my-adapter” here.',
      'The unknown field some_future_field is off and was left out.',
    ])
  })

  test('a static HF head and a preset string', async () => {
    const bundle = makeBundle({ ...seqBn, reduction_factor: 16 })
    const files = hubWith(
      bundle,
      'adapter_config.json',
      (json) => (json.config = 'pfeiffer[reduction_factor=16]'),
    )
    const head = readTorchBin(files.get('pytorch_model_head.bin')!)
    const fixed = [...head].map(([key, tensor]): [string, typeof tensor] => [
      key.replace('heads.reviews.1', 'classifier.dense').replace('heads.reviews.4', 'classifier.out_proj'),
      tensor,
    ])
    files.set('pytorch_model_head.bin', writeTorchBin(new Map(fixed)))
    const config = { config: null, name: null, model_class: 'RobertaForSequenceClassification', num_labels: 2, label2id: { no: 0, yes: 1 } } // prettier-ignore
    files.set('head_config.json', utf8(JSON.stringify(config)))
    const { bundle: back } = await fromAdapterHub(files)
    expect(bitsOf(back.tensors)).toEqual(bitsOf(bundle.tensors))
    expect(back.id2label).toEqual(['no', 'yes'])
  })

  test('alpha of versions before 1.1 counts as r, as in the library', async () => {
    const old = await fromAdapterHub(
      hubWith(makeBundle(lora), 'adapter_config.json', (json) => (json.version = 'adapters.1.0.1')),
    )
    expect([old.bundle.adapter, old.notes.length]).toEqual([{ ...lora, alpha: 2 }, 1])
    const now = await fromAdapterHub(
      hubWith(makeBundle(lora), 'adapter_config.json', (json) => (json.version = 'adapters.1.10.0')),
    )
    expect(now.bundle.adapter).toEqual(lora)
  })

  test.each<[string, string, (json: any) => void, string]>([
    ['a field that nobody knows', 'adapter_config.json', (json) => (json.config.depth = 3), 'has the field depth, which the library does not know.'],
    ['a misspelt field', 'adapter_config.json', (json) => { json.config.reduction_facter = 4 }, 'reduction_facter, which the library does not know (did you mean “reduction_factor”?)'],
    ['a misspelt field that is off', 'adapter_config.json', (json) => { json.config.use_gatting = false }, 'did you mean “use_gating”?'],
    ['a text for a number', 'adapter_config.json', (json) => (json.config.reduction_factor = '4'), 'reduction_factor is "4"; it must be a number'],
    ['a number for a switch', 'adapter_config.json', (json) => (json.config.use_gating = 1), 'use_gating is 1; it must be true or false'],
    ['a share beyond 1', 'adapter_config.json', (json) => (json.config.dropout = 1.5), 'dropout'],
    ['GLOW', 'adapter_config.json', (json) => (json.config.inv_adapter = 'glow'), 'inv_adapter'],
    ['gates without their tensors', 'adapter_config.json', (json) => (json.config.use_gating = true), 'adapters.reviews.gate.weight, '],
    ['a learned scale without its tensors', 'adapter_config.json', (json) => (json.config.scaling = 'learned'), 'adapters.reviews.scaling, '],
    ['no non_linearity', 'adapter_config.json', (json) => delete json.config.non_linearity, 'lacks the field non_linearity'],
    ['another width', 'adapter_config.json', (json) => (json.config.reduction_factor = 2), 'is [4,16] instead of [8,16] (and'],
    ['another model', 'adapter_config.json', (json) => (json.hidden_size = 32), 'is [4,16] instead of [8,32] (and'],
    ['another layer list', 'adapter_config.json', (json) => (json.config.leave_out = [0]), 'encoder.layer.0.output.adapters.reviews.adapter_down.0.weight'],
    ['a layer list of texts', 'adapter_config.json', (json) => (json.config.leave_out = ['0']), 'leave_out is ["0"]; it must be a list'],
    ['a BERT adapter', 'adapter_config.json', (json) => (json.model_type = 'bert'), 'for a bert model'],
    ['an unknown method', 'adapter_config.json', (json) => (json.config = { architecture: 'prefix_tunning' }), 'method "prefix_tunning" is not supported (did you mean “prefix_tuning”?)'],
    ['an unknown string', 'adapter_config.json', (json) => (json.config = 'pfeifer'), 'pfeifer'],
    ['VeRA', 'adapter_config.json', (json) => (json.config = { architecture: 'lora', vera_d: 0.1, vera_b: 0.0 }), 'VeRA'],
    ['another dtype', 'adapter_config.json', (json) => (json.config = { architecture: 'lora', dtype: 'bfloat16' }), 'dtype'],
    ['DiReFT', 'adapter_config.json', (json) => (json.config = { architecture: 'reft', subtract_projection: false }), 'a DiReFT'],
    ['MTL-LoRA', 'adapter_config.json', (json) => (json.config = { architecture: 'mtl_lora' }), 'method "mtl_lora" is not supported'],
    ['a union in a union', 'adapter_config.json', (json) => (json.config = { architecture: 'union', configs: [{ architecture: 'union', configs: [] }] }), 'union'],
    ['two of a kind in a union', 'adapter_config.json', (json) => (json.config = { architecture: 'union', configs: [json.config, json.config] }), 'Two bottleneck configurations'],
    ['a version that is none', 'adapter_config.json', (json) => (json.version = 'adapters.new'), 'The version "adapters.new" in adapter_config.json is none'],
    ['no config', 'adapter_config.json', (json) => delete json.config, 'has no config'],
    ['a name that is a number', 'adapter_config.json', (json) => (json.name = 7), 'name in the configuration file is no text'],
    ['a tagging head', 'head_config.json', (json) => (json.config.head_type = 'tagging'), 'type "tagging"'],
    ['a head of another class', 'head_config.json', (json) => (json.model_class = 'RobertaForThings'), 'class RobertaForThings'],
    ['a static head for tokens', 'head_config.json', (json) => { json.config = null; json.model_class = 'RobertaForTokenClassification' }, 'RobertaForTokenClassification is not supported'],
    ['a head of another shape', 'head_config.json', (json) => (json.config.layers = 1), 'heads.reviews.4.weight, heads.reviews.4.bias are not expected'],
    ['a misspelt head field', 'head_config.json', (json) => (json.config.use_poller = true), 'did you mean “use_pooler”?'],
    ['a head without layers', 'head_config.json', (json) => (json.config.layers = 0), 'layers is 0'],
    ['a head with text for a number', 'head_config.json', (json) => (json.config.num_labels = '2'), 'The field num_labels of the prediction head is "2"; it must be a number.'],
    ['no classes', 'head_config.json', (json) => (json.config.num_labels = 0), 'num_labels is 0'],
    ['labels that repeat', 'head_config.json', (json) => (json.config.label2id = { a: 0, b: 0 }), 'does not name each of its 2 classes once'],
    ['labels beyond the head', 'head_config.json', (json) => (json.config.label2id = { a: 0, b: 7 }), 'does not name each'],
    ['another number of classes', 'head_config.json', (json) => { json.config.num_labels = 3; json.config.label2id = { a: 0, b: 1, c: 2 } }, 'heads.reviews.4.weight is [2,16] instead of [3,16]'],
  ])('%s: refused by one sentence', async (_, file, edit, message) => {
    const refusal = await fromAdapterHub(hubWith(makeBundle(seqBn), file, edit)).then(
      () => 'read',
      (error: Error) => error.message,
    )
    expect(refusal).toContain(message)
    expect(refusal).toMatch(/^[^.]{3,}.*\.$/)
  }) // prettier-ignore

  test('a missing file, a missing key and an unknown one are named', async () => {
    const files = toAdapterHub(makeBundle(seqBn))
    const without = (name: string) => new Map([...files].filter(([key]) => !key.startsWith(name)))
    const { bundle, notes } = await fromAdapterHub(without('head_'))
    expect([bundle.head, bundle.id2label, notes.length]).toEqual([null, [], 1])
    const config = new Map([...files].filter(([name]) => !name.endsWith('config.json')))
    await expect(fromAdapterHub(config)).rejects.toThrow('neither adapter_config.json nor head_config.json')
    const noWeights = new Map(
      [...without('pytorch_adapter')].filter(([name]) => name !== 'adapter.safetensors'),
    )
    await expect(fromAdapterHub(noWeights)).rejects.toThrow(
      'neither pytorch_adapter.bin nor adapter.safetensors',
    )
    const tensors = readTorchBin(files.get('pytorch_adapter.bin')!)
    const [key, tensor] = [...tensors][0]!
    tensors.delete(key)
    tensors.set('roberta.oops', tensor)
    files.set('pytorch_adapter.bin', writeTorchBin(tensors))
    await expect(fromAdapterHub(files)).rejects.toThrow(`${key} is missing; roberta.oops is not expected.`)
    tensors.delete('roberta.oops')
    tensors.set(key.replace('adapter_down', 'adapter_dwon'), tensor)
    files.set('pytorch_adapter.bin', writeTorchBin(tensors))
    await expect(fromAdapterHub(files)).rejects.toThrow(`is not expected (${key} misspelt?)`)
  })

  test('an adapter that is not whole is not written', () => {
    const bundle = makeBundle(seqBn)
    expect(() => toAdapterHub({ ...bundle, tensors: new Map([...bundle.tensors].slice(1)) })).toThrow(
      'is missing',
    )
    expect(() => toAdapterHub({ ...bundle, id2label: ['a', 'a'] })).toThrow('labels')
    expect(() => toAdapterHub({ ...bundle, name: 'a.b' })).toThrow('cannot be named "a.b"')
  })
})

describe('the PEFT folder', () => {
  test('the portable config, and a pattern where a list would match too much', () => {
    expect(fromUtf8(toPeft(makeBundle({ ...lora, r: 8, alpha: 8 })).get('adapter_config.json'))).toBe(
      library['peft/adapter_config.json'],
    )
    const config = JSON.parse(
      fromUtf8(toPeft(makeBundle(adapters['lora everywhere']!)).get('adapter_config.json')),
    )
    const pattern = new RegExp(`^(?:${config.target_modules})$`)
    const matches = (path: string) => pattern.test(`base_model.model.roberta.encoder.layer.${path}`)
    expect(['1.attention.self.query', '2.attention.self.key', '1.intermediate.dense', '2.output.dense'].map(matches)).toEqual([true, true, true, true]) // prettier-ignore
    expect(['0.output.dense', '1.attention.output.dense', '11.output.dense', '1.output.LayerNorm'].map(matches)).toEqual([false, false, false, false]) // prettier-ignore
  })

  test.each(Object.entries(adapters).filter(([, { architecture }]) => architecture === 'lora'))(
    '%s goes out and comes back',
    async (_, adapter) => {
      const bundle = makeBundle(adapter)
      const files = toPeft(bundle)
      const { bundle: back } = await fromPeft(files, 'reviews', bundle.id2label)
      expect(sorted(bitsOf(back.tensors))).toEqual(sorted(bitsOf(bundle.tensors)))
      const unlabelled = await fromPeft(files, 'reviews', null)
      expect([unlabelled.bundle.id2label, unlabelled.notes.length]).toEqual([['LABEL_0', 'LABEL_1'], 1])
    },
  )

  test('rsLoRA becomes alpha·√r', async () => {
    const files = toPeft(makeBundle({ ...lora, r: 4, alpha: 8 }))
    const json = { ...JSON.parse(fromUtf8(files.get('adapter_config.json'))), use_rslora: true }
    const { bundle } = await fromPeft(files.set('adapter_config.json', utf8(JSON.stringify(json))), 'x', null)
    expect(bundle.adapter).toMatchObject({ r: 4, alpha: 16 })
  })

  test.each<[string, object, string]>([
    ['DoRA', { use_dora: true }, 'use_dora: true'],
    ['trained biases', { bias: 'all' }, 'bias: "all"'],
    ['prompts', { peft_type: 'PROMPT_TUNING' }, 'method "PROMPT_TUNING" has no equal here: it puts'],
    ['an unknown method', { peft_type: 'OFT' }, 'method "OFT" has no equal here; LORA'],
    ['alphas by layer', { alpha_pattern: { query: 4 } }, 'alpha_pattern'],
    ['token classification', { task_type: 'TOKEN_CLS' }, 'task "TOKEN_CLS"'],
    ['ranks by layer', { rank_pattern: { query: 4 } }, 'rank_pattern'],
  ])('%s: refused by one sentence', async (_, change, message) => {
    const files = toPeft(makeBundle(lora))
    const json = { ...JSON.parse(fromUtf8(files.get('adapter_config.json'))), ...change }
    await expect(
      fromPeft(files.set('adapter_config.json', utf8(JSON.stringify(json))), 'x', null),
    ).rejects.toThrow(message)
  })

  test('other targets and a missing classifier are refused', async () => {
    const files = toPeft(makeBundle(lora))
    const tensors = await readSafetensors(files.get('adapter_model.safetensors')!)
    const other = new Map(
      [...tensors].map(([key, tensor]) => [key.replace('self.query', 'output.dense'), tensor]),
    )
    await expect(fromPeft(new Map([...files, ['adapter_model.safetensors', writeSafetensors(other)]]), 'x', null)).rejects.toThrow('attention.output.dense') // prettier-ignore
    const bare = new Map([...tensors].filter(([key]) => !key.includes('classifier')))
    await expect(fromPeft(new Map([...files, ['adapter_model.safetensors', writeSafetensors(bare)]]), 'x', null)).rejects.toThrow('classifier.out_proj') // prettier-ignore
  })

  test('a bottleneck has no PEFT form', () => {
    expect(() => toPeft(makeBundle(seqBn))).toThrow(
      'There is no equivalent PEFT folder: PEFT has no bottleneck adapters.',
    )
  })
})

describe('an adapter and the open model', () => {
  const open = { ...base, intermediate_size: sizes.intermediate_size }

  test('fits its own base, and one of the same shape when it does not name one', () => {
    for (const adapter of Object.values(adapters)) {
      const bundle = makeBundle(adapter)
      checkBundle(bundle)
      checkBase(bundle, open)
      checkBase({ ...bundle, base: null }, { ...open, sha256: 'f'.repeat(64) })
    }
  })

  test.each<[string, Partial<typeof open>, string]>([
    [
      'other weights',
      { sha256: 'f'.repeat(64), name: 'other' },
      'with other weights than the open model “other”',
    ],
    [
      'another width',
      { hidden_size: 32 },
      'its hidden size is 16 and the open model “someone/tiny-roberta” has 32',
    ],
    ['another vocabulary', { vocab_size: 50 }, 'its vocabulary size is 100'],
    ['another depth', { num_hidden_layers: 12 }, 'its number of layers is 3'],
  ])('%s: refused by one sentence', (_, change, message) => {
    expect(() => checkBase(makeBundle(seqBn), { ...open, ...change })).toThrow(message)
  })

  test('without a base, sizes decide', () => {
    const bundle = { ...makeBundle(adapters['lora in the feed-forward block']!), base: null }
    expect(() => checkBase(bundle, { ...open, intermediate_size: 64 })).toThrow('its intermediate size is 24')
    expect(() => checkBase(bundle, { ...open, num_hidden_layers: 4 })).toThrow('layer.3')
    expect(() => checkBase(bundle, { ...open, num_hidden_layers: 2 })).toThrow(
      'has 3 layers and the open model only 2',
    )
  })
})

test('names are safe as key, file and Python name', () => {
  const names = [
    'My first run: “great”, 5/5',
    '../../etc/passwd',
    'a.b,c',
    '',
    '🙂',
    'Ünïcode',
    'ok_1-2',
  ].map(adapterName)
  expect(names).toEqual([
    'My-first-run-great-5-5',
    'etc-passwd',
    'a-b-c',
    'adapter',
    'adapter',
    'Unicode',
    'ok_1-2',
  ])
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(adapterName(text)).toMatch(/^[A-Za-z0-9_-]{1,64}$/)
    }),
  )
})
