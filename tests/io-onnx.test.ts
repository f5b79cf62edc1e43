/**
 * The ONNX export: every method and head of the parity fixtures through onnxruntime, against the logits of the real
 * library; the file as a stranger reads it; and a page's way of running it.
 */
import * as ort from 'onnxruntime-web'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { classificationHead, type AdapterBundle } from '../src/config.ts'
import { onnxFiles, onnxModel } from '../src/io/onnxModel.ts'
import { MessageReader, MessageWriter } from '../src/io/onnx/protobuf.ts'
import { readOnnx } from '../src/io/onnx/readBack.ts'
import { seqBn } from '../src/methods/bottleneck.ts'
import { openOnnxPipeline } from '../src/onnxPipeline.ts'
import { baseModel, bundleOf, exportCases, type ExportCase } from './io.exports.ts'
import { logitsOf } from './io.onnx.ts'
import { furthest } from './parity.engine.ts'

const limit = 1e-5

/** How far the logits of each case are from the library's. */
async function worstOf(cases: ExportCase[]): Promise<[string, number][]> {
  const found: [string, number][] = []
  for (const { name, model, bundle, batch, logits } of cases) {
    const file = await onnxModel(await baseModel(model), bundle)
    found.push([`${name} on ${model}`, furthest(await logitsOf(file, batch), logits)])
  }
  return found
}

describe('logits of the ONNX file equal the library’s', async () => {
  const methods = await exportCases('methods')
  const heads = await exportCases('task-heads')

  it('for every method', async ({ task }) => {
    const found = await worstOf(methods.filter(({ model }) => model === 'odd-roberta'))
    expect(found.length).toBeGreaterThan(70)
    Object.assign(task.meta, { differences: found.map(([what, worst]) => ({ what, worst, limit })) })
    expect(found.filter(([, worst]) => !(worst < limit))).toEqual([])
  }, 300_000)

  it('for some methods on models of other shapes', async () => {
    const others = methods.filter(({ model }) => model !== 'odd-roberta')
    const found = await worstOf(others.filter((_, i) => i % 8 === 0))
    expect(found.length).toBeGreaterThan(15)
    expect(found.filter(([, worst]) => !(worst < limit))).toEqual([])
  })

  it('for every head, and for the whole model or its biases trained', async () => {
    const found = await worstOf(heads.filter(({ model }) => model !== 'odd-roberta'))
    expect(found.length).toBeGreaterThan(20)
    expect(found.filter(([, worst]) => !(worst < limit))).toEqual([])
  })

  it('and are those of the base with its head where a layer’s adapters are passed by', async () => {
    const { bundle, batch, logits, config } = methods.find(
      ({ name, model }) => name === 'seq_bn' && model === 'tiny-roberta',
    )!
    const base = await baseModel('tiny-roberta')
    const every = Array.from({ length: config.num_hidden_layers }, (_, l) => l)
    const dropped = await logitsOf(await onnxModel(base, bundle, every), batch)
    const alone = bundleOf(config, { architecture: 'head' }, bundle.head!)
    expect(furthest(dropped, await logitsOf(await onnxModel(base, alone), batch))).toBe(0)
    expect(furthest(dropped, logits)).toBeGreaterThan(1e-3)
  })
})

describe('the ONNX file', async () => {
  const [one] = (await exportCases('methods')).filter(({ model }) => model === 'tiny-roberta')
  const { bundle, batch, logits } = one!
  const base = await baseModel('tiny-roberta')
  const file = await onnxModel(base, bundle)

  it('has two inputs of any size, one output and the weights under their own names', async () => {
    const found = await readOnnx(file)
    expect(found.opset).toBe(17)
    const shape = ['batch_size', 'sequence_length']
    expect(found.inputs).toEqual([
      { name: 'input_ids', dtype: 7, shape },
      { name: 'attention_mask', dtype: 7, shape },
    ])
    expect(found.outputs).toEqual([{ name: 'logits', dtype: 1, shape: ['batch_size', 3] }])
    expect(found.weights.get('roberta.embeddings.word_embeddings.weight')!.shape).toEqual([400, 32])
    expect(found.weights.get('roberta.encoder.layer.1.output.dense.weight.T')!.shape).toEqual([64, 32])
    expect(found.weights.get('heads.parity.4.weight.T')!.shape).toEqual([32, 3])
    expect(found.operators.get('LayerNormalization')).toBe(1 + 2 * 2 + 2)
  })

  it('gives a row the same logits in any batch and with any padding', async () => {
    const [ids, mask] = [batch.input_ids[1]!, batch.attention_mask[1]!]
    const wide = { ...batch, input_ids: [[...ids, 1, 1, 1, 1]], attention_mask: [[...mask, 0, 0, 0, 0]] }
    expect(furthest(await logitsOf(file, wide), logits.slice(3, 6))).toBeLessThan(limit)
  })

  it('is refused when it is cut off, and when it is something else', async () => {
    await expect(readOnnx(file.slice(0, file.size - 100))).rejects.toThrow('longer than its message')
    await expect(readOnnx(new Blob(['{"a": 1}']))).rejects.toThrow('damaged')
    await expect(readOnnx(new Blob([]))).rejects.toThrow('no graph')
  })

  it('is not written without every tensor of the adapter, or with one of another size', async () => {
    const without = (change: (tensors: AdapterBundle['tensors']) => void): AdapterBundle => {
      const tensors = new Map(bundle.tensors)
      change(tensors)
      return { ...bundle, tensors }
    }
    const key = 'roberta.encoder.layer.1.output.adapters.parity.adapter_up.weight'
    await expect(
      onnxModel(
        base,
        without((tensors) => tensors.delete(key)),
      ),
    ).rejects.toThrow(`no tensor ${key}`)
    const head = 'heads.parity.4.bias'
    const short = without((tensors) => tensors.set(head, { shape: [2], data: new Float32Array(2) }))
    await expect(onnxModel(base, short)).rejects.toThrow(head)
  })

  it('is not written without a head that gives classes', async () => {
    await expect(onnxModel(base, { ...bundle, head: null })).rejects.toThrow('has no head')
  })

  it('is not written for an activation that it cannot express', async () => {
    const odd = { ...bundle, adapter: { ...seqBn, non_linearity: 'sinh' } }
    await expect(onnxModel(base, odd)).rejects.toThrow('“sinh”')
  })
})

describe('Transformers.js runs the exported folder from memory', async () => {
  const key = Symbol.for('onnxruntime')
  // In Node, Transformers.js takes another build of onnxruntime unless one is there already.
  beforeAll(() => void Reflect.set(globalThis, key, ort))
  afterAll(() => void Reflect.deleteProperty(globalThis, key))
  const base = await baseModel('tiny-roberta')
  const bundle = bundleOf(base.config, seqBn, classificationHead(3))

  it('with the same logits, labels and lengths', async () => {
    const files = await onnxFiles(base, bundle)
    expect([...files.keys()]).toEqual([
      'config.json',
      'tokenizer.json',
      'tokenizer_config.json',
      'onnx/model.onnx',
    ])
    const pipeline = await openOnnxPipeline(files)
    const [one] = (await exportCases('methods')).filter(({ model }) => model === 'tiny-roberta')
    const { input_ids, attention_mask } = one!.batch
    const direct = await logitsOf(await onnxModel(base, bundle), one!.batch)
    const rows = await pipeline.run(input_ids, attention_mask)
    expect(furthest(Float32Array.from(rows.flatMap((row) => [...row])), direct)).toBe(0)

    const texts = [
      'The film was great.',
      'It stopped working after two weeks, and nobody could mend it. '.repeat(5),
    ]
    const found = await pipeline.classify(texts)
    expect(found.map((labels) => labels.length)).toEqual([3, 3])
    const logits = await pipeline.logits(texts)
    found.forEach((labels, i) => {
      const total = [...logits[i]!].reduce((sum, value) => sum + Math.exp(value), 0)
      for (const { label, score } of labels)
        expect(score).toBeCloseTo(Math.exp(logits[i]![Number(label.at(-1))]!) / total, 5)
    })
    await pipeline.dispose()
  })

  it('and says which file is missing', async () => {
    const files = new Map(await onnxFiles(base, bundle))
    files.delete('tokenizer.json')
    await expect(openOnnxPipeline(files)).rejects.toThrow('no tokenizer.json')
  })
})

describe('protobuf numbers', () => {
  it.for([0, 1, 127, 128, 300, 2 ** 31, 2 ** 40 + 1, -1, -300])('%d reads back', async (value) => {
    const { parts } = new MessageWriter().integer(3, value).integers(4, [value, 5, value]).finish()
    const reader = new MessageReader(new Blob(parts))
    const found: number[][] = []
    for await (const field of reader.fields())
      found.push(field.field === 3 ? [field.value] : await reader.integers(field))
    expect(found).toEqual([[value], [value, 5, value]])
  })

  it('0.5 is no whole number', () => {
    expect(() => new MessageWriter().integer(1, 0.5)).toThrow('no whole number')
  })
})
