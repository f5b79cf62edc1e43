/** Setups of adapters as folders: every composition block, fusions, heads, and what is refused. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { SetupBundle, TensorMap } from '../src/config.ts'
import type { FileMap } from '../src/io/adapterhub.ts'
import { exportZip } from '../src/io/export.ts'
import { readAdapterFiles, readFiles, type NamedBytes } from '../src/io/import.ts'
import { checkSetup, checkSetupBase, packSetup, plainSetup, setupBundle, toAdapterSetup, unpackSetup } from '../src/io/setup.ts' // prettier-ignore
import { readTorchBin, writeTorchBin } from '../src/io/torchBin.ts'
import { readZip } from '../src/io/zip.ts'
import { adapters, base, bitsOf, edited, formats, fromUtf8, makeBundle, makeRun, sorted, utf8, without } from './io.bundles.ts' // prettier-ignore
import { compositions, makeSetup } from './io.setups.ts'

/** The composition in adapter_setup.json as the library writes it, by kind of block. */
const { setups }: { setups: Record<string, string> } = JSON.parse(
  readFileSync(new URL('fixtures/keys/roberta-base.json', import.meta.url), 'utf8'),
)
const loose = (files: Map<string, Uint8Array<ArrayBuffer>>, folder = '') =>
  [...files].map(([name, bytes]): NamedBytes => ({ name: folder + name, bytes }))

describe('a setup', () => {
  test.each(Object.entries(setups))('%s: the library’s own text', (name, text) => {
    const files = toAdapterSetup({ ...makeSetup(compositions[name]!), active_heads: [] })
    const { adapter_setup, ...rest } = JSON.parse(fromUtf8(files.get('adapter_setup.json')))
    expect(fromUtf8(files.get('adapter_setup.json'))).toContain(text.slice(1, -2))
    expect([adapter_setup, rest]).toEqual([JSON.parse(text).adapter_setup, { head_setup: null, version: 'adapters.1.3.0' }]) // prettier-ignore
  })

  test.each(Object.entries(compositions))('%s goes out and comes back', async (_, active) => {
    const setup = makeSetup(active)
    const files = toAdapterSetup(setup)
    for (const format of formats) {
      const read = await readFiles(loose(without(files, format), 'some/my-setup/'))
      if (!('setup' in read)) throw new Error('read as one adapter')
      const [found, expected] = [packSetup(read.setup), packSetup(setup)]
      expect(sorted(bitsOf(found.tensors))).toEqual(sorted(bitsOf(expected.tensors)))
      expect(found.packed).toEqual({ ...expected.packed, active: plainSetup(active), base: null, hidden_size: 16, max_length: 128 }) // prettier-ignore
      checkSetupBase(read.setup, { ...base, intermediate_size: 24 })
      expect(() => checkSetupBase(read.setup, { ...base, num_hidden_layers: 4, intermediate_size: 24 })).toThrow('layer.3') // prettier-ignore
    }
  })

  test.each(Object.entries(compositions))('%s as a zip of ours', async (_, active) => {
    const setup = makeSetup(active)
    const run = makeRun(makeBundle(adapters.seq_bn!))
    const zip = await exportZip(setup, run, { tokenizer: '{}', tokenizer_config: null, examples: [] })
    const read = await readFiles([{ name: 'x.zip', bytes: zip }])
    if (!('setup' in read)) throw new Error('read as one adapter')
    expect([read.setup.name, read.setup.base, read.setup.max_length, read.notes]).toEqual([
      'my-setup',
      base,
      64,
      [],
    ])
    expect(fromUtf8(readZip(zip).get('predict.py'))).toContain('model.load_adapter_setup(str(here / "adapterhub"), set_active=True)') // prettier-ignore
    await expect(readAdapterFiles([{ name: 'x.zip', bytes: zip }])).rejects.toThrow(
      'a setup of several adapters',
    )
  })

  test('is kept as tensors and the rest, and comes from what stands in a model', () => {
    const setup = makeSetup(compositions['stack of a fusion']!)
    const { packed, tensors } = packSetup(setup)
    expect(unpackSetup(packed, tensors)).toEqual(setup)
    const configs = <T>(parts: Record<string, { config: T }>) => Object.fromEntries(Object.entries(parts).map(([name, { config }]) => [name, config])) // prettier-ignore
    const model = {
      adapters: configs(setup.adapters),
      fusions: configs(setup.fusions),
      heads: configs(setup.heads),
      active: setup.active,
      active_heads: setup.active_heads,
      train: { adapters: [], fusions: [], heads: [], base: 'none' as const },
      skip_layers: [],
    }
    const labels = Object.fromEntries(
      Object.entries(setup.heads).map(([name, { id2label }]) => [name, id2label]),
    )
    expect(setupBundle('my-setup', model, tensors, labels, base, 64)).toEqual(setup)
    tensors.delete([...tensors.keys()][0]!)
    expect(() => unpackSetup(packed, tensors)).toThrow('lacks the tensor')
  })

  test('a fusion of folders without a setup file, under a name of its own', async () => {
    const setup = makeSetup(compositions.fuse!)
    const files = toAdapterSetup(setup)
    files.delete('adapter_setup.json')
    const own = new Map<string, Uint8Array<ArrayBuffer>>()
    for (const [path, bytes] of files) {
      const moved = path.replace('lang,task_2/', 'both/')
      if (path.endsWith('adapter_fusion.bin')) {
        const tensors = [...readTorchBin(bytes)].map(([key, tensor]): [string, typeof tensor] => [key.replace('.lang,task_2.', '.both.'), tensor]) // prettier-ignore
        // The library also writes fusions whose names begin like this one's.
        own.set(moved, writeTorchBin(new Map([...tensors, [tensors[0]![0].replace('.both.', '.both2.'), tensors[0]![1]]]))) // prettier-ignore
      } else if (path.endsWith('fusion_config.json'))
        own.set(moved, utf8(fromUtf8(bytes).replace('"name": "lang,task_2"', '"name": "both"'))) // prettier-ignore
      else own.set(moved, bytes)
    }
    const read = await readFiles(loose(own, 'checkpoint/'))
    if (!('setup' in read)) throw new Error('read as one adapter')
    expect(read.setup.active).toEqual(compositions.fuse)
    expect(sorted(bitsOf(packSetup(read.setup).tensors))).toEqual(sorted(bitsOf(packSetup(setup).tensors)))
  })

  const fused = () => toAdapterSetup(makeSetup(compositions.fuse!))
  const drop = (files: FileMap, folder: string) =>
    new Map([...files].filter(([name]) => !name.startsWith(folder)))
  const inSetup = (edit: (json: any) => void) => edited(fused(), 'adapter_setup.json', edit)
  test.each<[string, () => FileMap, string]>([
    ['a member that is absent', () => drop(fused(), 'task_2/adapter'), 'names the adapter “task_2”, which is not among its adapters.'],
    ['a fusion that is absent', () => drop(fused(), 'lang,task_2/'), 'the fusion layers of lang,task_2 are absent.'],
    ['a fusion alone', () => new Map([...fused()].filter(([name]) => name.startsWith('lang,'))), 'The setup names the adapter “lang”, which is not among its adapters.'],
    ['a head that is absent', () => drop(drop(drop(fused(), 'task_2/head'), 'task_2/pytorch_model_head'), 'task_2/model_head'), 'names the head “task_2”'],
    ['two of one name', () => new Map([...fused(), ...[...fused()].filter(([name]) => name.startsWith('lang/')).map(([name, bytes]): [string, Uint8Array<ArrayBuffer>] => [`copy/${name.slice(5)}`, bytes])]), 'Two of the adapters are called “lang”'],
    ['two names that become one', () => edited(fused(), 'lang/adapter_config.json', (json) => (json.name = 'task 2')), 'names the adapter “lang”'],
    ['a block that nobody knows', () => inSetup((json) => (json.adapter_setup.type = 'MultiTask')), 'composition block "MultiTask" in adapter_setup.json is not supported'],
    ['a block that cannot stand there', () => inSetup((json) => (json.adapter_setup.children[0] = { type: 'Fuse', children: [...json.adapter_setup.children] })), 'Fuse cannot stand inside Fuse'],
    ['no block', () => inSetup((json) => (json.adapter_setup = 'lang')), 'adapter_setup.json has "lang" where a composition block must stand.'],
    ['a name that is none', () => inSetup((json) => (json.adapter_setup.children[0].children = [3])), 'has 3 where a name must stand'],
    ['no sizes', () => inSetup((json) => (json.adapter_setup.type = 'Split')), 'The splits in adapter_setup.json are null'],
    ['a misspelt fusion field', () => edited(fused(), 'lang,task_2/adapter_fusion_config.json', (json) => (json.config.valeu = true)), 'did you mean “value”?'],
    ['a fusion field that is missing', () => edited(fused(), 'lang,task_2/adapter_fusion_config.json', (json) => delete json.config.query), 'lacks the field query'],
    ['a fusion of another shape', () => edited(fused(), 'lang,task_2/adapter_fusion_config.json', (json) => (json.config.value = false)), 'The fusion “lang,task_2” does not fit its configuration'],
    ['no members', () => edited(drop(fused(), 'adapter_setup'), 'lang,task_2/adapter_fusion_config.json', (json) => (json.adapter_names = 7)), "The fusion's adapter_names are 7"],
  ])('%s: refused by one sentence', async (_, files, message) => {
    const refusal = await readFiles(loose(files(), 'x/')).then(() => 'read', (error: Error) => error.message)
    expect(refusal).toContain(message)
    expect(refusal).toMatch(/\.$/)
  }) // prettier-ignore

  test('names with dots, slashes and emoji become plain, one by one', async () => {
    const setup = makeSetup(compositions.stack!)
    const files = toAdapterSetup(setup)
    const renamed: FileMap = new Map()
    for (const [path, bytes] of files) {
      const json = path.endsWith('.json') ? utf8(fromUtf8(bytes).replaceAll('"lang"', '"my.lang/🙂"')) : bytes
      const key = (name: string) => name.replace('.adapters.lang.', '.adapters.my.lang/🙂.')
      const weights = (tensors: TensorMap): TensorMap =>
        new Map([...tensors].map(([name, tensor]) => [key(name), tensor]))
      if (path === 'lang/pytorch_adapter.bin') renamed.set(path, writeTorchBin(weights(readTorchBin(bytes))))
      else if (!path.endsWith('.safetensors')) renamed.set(path, json)
    }
    const read = await readFiles(loose(renamed, 'x/'))
    if (!('setup' in read)) throw new Error('read as one adapter')
    expect(Object.keys(read.setup.adapters)).toEqual(['my-lang', 'task_2'])
    expect(read.setup.active).toEqual({ type: 'Stack', children: ['my-lang', 'task_2'] })
    expect(read.notes).toContain('“my.lang/🙂” is called “my-lang” here.')
  })

  test('what is not whole is not written', () => {
    const setup = makeSetup(compositions.stack!)
    const refuse = (change: Partial<SetupBundle>, message: string) => expect(() => checkSetup({ ...setup, ...change })).toThrow(message) // prettier-ignore
    refuse({ adapters: {} }, 'names the adapter “lang”')
    refuse({ heads: {} }, 'names the head “task_2”')
    refuse(
      { active: { type: 'Fuse', children: ['lang', 'task_2'] } },
      'the fusion layers of lang,task_2 are absent',
    )
    refuse({ adapters: { ...setup.adapters, 'a.b': setup.adapters.lang! } }, 'cannot be named "a.b"')
    refuse({ adapters: { ...setup.adapters, lang: { ...setup.adapters.lang!, tensors: new Map() } } }, 'The adapter “lang” does not fit') // prettier-ignore
  })
})
