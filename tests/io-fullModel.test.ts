/** The full-model export: folded weights against the library's logits, and the folder as transformers reads it. */
import { describe, expect, it } from 'vitest'
import { classificationHead, type AdapterBundle } from '../src/config.ts'
import { classifierConfig, fullModelFiles, fullModelProblem, tokenizerFiles } from '../src/io/fullModel.ts'
import { onnxModel } from '../src/io/onnxModel.ts'
import { openSafetensors, type SafetensorsFile } from '../src/io/safetensors.ts'
import { seqBn } from '../src/methods/bottleneck.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { baseModel, bundleOf, exportCases } from './io.exports.ts'
import { logitsOf } from './io.onnx.ts'
import { furthest } from './parity.engine.ts'

const limit = 1e-5

async function weightsOf(files: Awaited<ReturnType<typeof fullModelFiles>>): Promise<SafetensorsFile> {
  return openSafetensors(files.get('model.safetensors') as Blob)
}

/** The folder's own logits: its weights in a graph without any adapter, its classifier as the head. */
async function asBase(base: Awaited<ReturnType<typeof baseModel>>, bundle: AdapterBundle) {
  const weights = await weightsOf(await fullModelFiles(base, bundle))
  const alone = bundleOf(base.config, { architecture: 'head' }, bundle.head!)
  const places = { 1: 'dense', 4: 'out_proj' }
  for (const [index, name] of Object.entries(places))
    for (const part of ['weight', 'bias']) {
      const key = `classifier.${name}.${part}`
      const tensor = { shape: weights.shape(key), data: await weights.read(key) }
      alone.tensors.set(`heads.parity.${index}.${part}`, tensor)
    }
  return onnxModel({ ...base, weights }, alone)
}

describe('a standalone classifier', async () => {
  const methods = await exportCases('methods')
  const heads = await exportCases('task-heads')

  it('has the library’s logits for every method that folds', async ({ task }) => {
    const cases = [...methods, ...heads].filter(({ bundle }) => fullModelProblem(bundle) === null)
    const names = new Set(cases.map(({ name }) => name))
    for (const name of [
      'lora',
      'lora all',
      'lora alpha',
      'dora',
      'dora all',
      'ia3',
      'ia3 all',
      'lora leave_out 0',
    ])
      expect(names).toContain(name)
    for (const name of ['head alone', 'bias only', 'full']) expect(names).toContain(name)
    const found: [string, number][] = []
    for (const { name, model, bundle, batch, logits } of cases.filter(
      ({ model }) => model !== 'micro-roberta',
    )) {
      const file = await asBase(await baseModel(model), bundle)
      found.push([`${name} on ${model}`, furthest(await logitsOf(file, batch), logits)])
    }
    Object.assign(task.meta, { differences: found.map(([what, worst]) => ({ what, worst, limit })) })
    expect(found.filter(([, worst]) => !(worst < limit))).toEqual([])
  })

  it('has exactly the tensors of RobertaForSequenceClassification, float32', async () => {
    const { bundle } = methods.find(({ name, model }) => name === 'lora' && model === 'tiny-roberta')!
    const weights = await weightsOf(await fullModelFiles(await baseModel('tiny-roberta'), bundle))
    const names = weights.names()
    expect(names.length).toBe(5 + 16 * 2 + 4)
    expect(names.filter((name) => !name.startsWith('roberta.'))).toEqual([
      'classifier.dense.weight',
      'classifier.dense.bias',
      'classifier.out_proj.weight',
      'classifier.out_proj.bias',
    ])
    expect(names.some((name) => /lora|pooler|parity/.test(name))).toBe(false)
    expect(new Set(names.map((name) => weights.dtype(name)))).toEqual(new Set(['F32']))
    expect(weights.metadata).toEqual({ format: 'pt' })
  })

  it('is refused, with the reason, for what does not fold', () => {
    const refused = (name: string) => fullModelProblem(methods.find((one) => one.name === name)!.bundle)
    const refusedHead = (name: string) => {
      const { head } = heads.find((one) => one.name === name)!.bundle
      return fullModelProblem({ ...methods[0]!.bundle, adapter: { architecture: 'head' }, head })
    }
    expect(refused('seq_bn')).toContain('bottleneck adapter')
    expect(refused('prefix_tuning')).toContain('Prefix tuning')
    expect(refused('prompt_tuning')).toContain('Prompt tuning')
    expect(refused('loreft')).toContain('ReFT')
    expect(refused('lora gating')).toContain('gate')
    expect(refused('unipelt')).toContain('cannot be folded')
    expect(refusedHead('1 layer')).toContain('one layer')
    expect(refusedHead('2 layers gelu')).toContain('tanh')
    expect(refusedHead('pooler')).toContain('pooler')
    expect(refusedHead('mean')).toContain('mean')
    expect(refusedHead('without bias')).toContain('biases')
    expect(refusedHead('regression')).toBe(null)
    const { bundle } = methods.find(({ name }) => name === 'lora')!
    expect(fullModelProblem({ ...bundle, head: null })).toContain('no head')
  })

  it('is not written when a tensor is missing or no number', async () => {
    const base = await baseModel('tiny-roberta')
    const { bundle } = methods.find(({ name, model }) => name === 'lora' && model === 'tiny-roberta')!
    const key = 'roberta.encoder.layer.1.attention.self.value.loras.parity.lora_B'
    const tensors = new Map(bundle.tensors)
    tensors.delete(key)
    await expect(fullModelFiles(base, { ...bundle, tensors })).rejects.toThrow(`no tensor ${key}`)
    const { shape, data } = bundle.tensors.get(key)!
    tensors.set(key, { shape, data: data.map((value, i) => (i === 3 ? NaN : value)) })
    await expect(fullModelFiles(base, { ...bundle, tensors })).rejects.toThrow('no number')
    const bare = { ...base.weights, names: () => base.weights.names().slice(1) }
    await expect(fullModelFiles({ ...base, weights: bare }, bundle)).rejects.toThrow('no tensor roberta.')
  })

  it('leaves the base’s weights and the adapter’s as they were', async () => {
    const base = await baseModel('tiny-roberta')
    const { bundle } = methods.find(({ name, model }) => name === 'ia3 all' && model === 'tiny-roberta')!
    const key = 'roberta.encoder.layer.0.output.dense.weight'
    const before = [
      await base.weights.read(key),
      ...[...bundle.tensors.values()].map(({ data }) => data.slice()),
    ]
    await fullModelFiles(base, bundle)
    const after = [await base.weights.read(key), ...[...bundle.tensors.values()].map(({ data }) => data)]
    expect(after).toEqual(before)
  })
})

describe('its config.json', async () => {
  const base = await baseModel('tiny-roberta')

  it('names the class, the labels and the problem, and is still the base’s', () => {
    const bundle = { ...bundleOf(base.config, seqBn, classificationHead(3)), id2label: ['bad', 'ok', '好'] }
    const text = classifierConfig(base, bundle)
    const fields = JSON.parse(text)
    expect(fields).toMatchObject({
      architectures: ['RobertaForSequenceClassification'],
      num_labels: 3,
      id2label: { 0: 'bad', 1: 'ok', 2: '好' },
      label2id: { bad: 0, ok: 1, 好: 2 },
      problem_type: 'single_label_classification',
      dtype: 'float32',
    })
    expect(text).toContain('"layer_norm_eps": 1e-05')
    expect(parseRobertaConfig(text)).toEqual(base.config)
  })

  it('tells several labels and a number from classes', () => {
    const several = { ...classificationHead(4), head_type: 'multilabel_classification' as const }
    const typeOf = (head: AdapterBundle['head']) =>
      JSON.parse(classifierConfig(base, bundleOf(base.config, loraConfig, head!))).problem_type
    expect(typeOf(several)).toBe('multi_label_classification')
    expect(typeOf(classificationHead(1))).toBe('regression')
  })

  it('keeps the head’s dropout, and the family of the base', () => {
    const head = { ...classificationHead(2), dropout_prob: 0 }
    const config = { ...base.config, model_type: 'xlm-roberta' }
    const text = classifierConfig({ ...base, config }, bundleOf(base.config, loraConfig, head))
    expect(text).toContain('"classifier_dropout": 0.0')
    expect(JSON.parse(text).architectures).toEqual(['XLMRobertaForSequenceClassification'])
  })

  it('has a tokenizer beside it that cuts where the run cut', () => {
    const given = { ...base, tokenizer_config: '{"model_max_length": 512, "pad_token": "[P]"}' }
    const [, [name, text]] = tokenizerFiles(given, { max_length: 40 }) as [unknown, [string, string]]
    expect(name).toBe('tokenizer_config.json')
    expect(JSON.parse(text)).toMatchObject({ model_max_length: 40, pad_token: '[P]', sep_token: '</s>' })
  })
})
