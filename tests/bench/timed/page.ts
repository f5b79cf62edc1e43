/**
 * The page that `npm run bench -- --timed` opens: small shapes, ours beside others', as ratios of times on whatever WebGPU
 * adapter the browser has. It leaves what it found where the script looks.
 */
import { defaultDevice, init, numpy as np } from '@jax-js/jax'
import * as tf from '@tensorflow/tfjs'
import { classificationHead } from '../../../src/config.ts'
import { onnxFiles } from '../../../src/io/onnxModel.ts'
import { openSafetensors } from '../../../src/io/safetensors.ts'
import { openBackend, openedDevice } from '../../../src/kernels/backend.ts'
import { seqBn } from '../../../src/methods/bottleneck.ts'
import { loadRoberta } from '../../../src/model/loadRoberta.ts'
import { createModel, setupParameters, singleSetup } from '../../../src/model/model.ts'
import { parseRobertaConfig } from '../../../src/model/robertaConfig.ts'
import { openOnnxPipeline, type PipelineDevice } from '../../../src/onnxPipeline.ts'
import { madeUpTensors } from '../../madeUp.ts'
import { compare, runs, type Ratio } from '../clock.ts'
import { forwardOf, timeTape } from '../device/times.ts'
import { nameOf, products, ways, type Product } from '../products.ts'
import { hostBatch, num_labels } from '../steps.ts'
import { timeAdapterDrop, timeHead } from './epochs.ts'

/** One comparison: how many times as long the other takes as ours. */
export interface Compared {
  name: string
  other: string
  ratio: Ratio
}

export interface TimedFound {
  adapter: string
  is_fallback: boolean
  compared: Compared[]
  /** What could not be compared, and why. */
  left_out: string[]
}

/** Two layers, a sixth of RoBERTa-base's width. */
const small = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 1000,
    hidden_size: 128,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 512,
    max_position_embeddings: 66,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

/** RoBERTa-base's products with every size over this. */
const scale = 4

/** All comparisons; one that breaks off costs its own lines only. */
export async function timeAll(pairs: number): Promise<TimedFound> {
  await openBackend('webgpu')
  const { vendor, architecture, description, is_fallback } = openedDevice()
  const found: TimedFound = {
    adapter: [vendor, architecture, description].filter(Boolean).join(' '),
    is_fallback,
    compared: [],
    left_out: [],
  }
  const sections: [string, () => Promise<Compared[]>][] = [
    ['the plain tape', () => tapes(pairs)],
    ['tfjs’s products', () => againstTfjs(pairs)],
    ['epochs on kept features', () => onKeptFeatures(pairs)],
    ['jax-js’s products', () => againstJax(pairs)],
    ['onnxruntime-web on WebAssembly', () => againstOnnx('wasm', pairs)],
    ['onnxruntime-web on WebGPU', () => againstOnnx('webgpu', pairs)],
  ]
  for (const [what, section] of sections) {
    try {
      found.compared.push(...(await section()))
    } catch (error) {
      found.left_out.push(`${what}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  return found
}

async function tapes(pairs: number): Promise<Compared[]> {
  const timed = await timeTape({ config: small, B: 8, S: 32 }, pairs)
  return timed.map(({ name, ratio }) => ({ name: `${name}, length 32`, other: 'plain tape', ratio }))
}

/** As many layers as RoBERTa-base has, since the share of them that is left out counts. */
async function onKeptFeatures(pairs: number): Promise<Compared[]> {
  const config = { ...small, num_hidden_layers: 12 }
  const other = 'ours without'
  const found: Compared[] = []
  for (const S of [32, 64]) {
    const ratio = await timeHead({ config, B: 8, S }, pairs)
    found.push({ name: `head alone, first epoch over a later one, length ${S}`, other, ratio })
  }
  const ratio = await timeAdapterDrop({ config, B: 8, S: 32 }, pairs)
  return [...found, { name: 'seq_bn over AdapterDrop 5 on kept features, an epoch', other, ratio }]
}

async function againstTfjs(pairs: number): Promise<Compared[]> {
  const found: Compared[] = []
  for (const product of products(scale)) {
    const { ours, theirs, dispose } = ways(product)
    found.push({
      name: nameOf(product),
      other: 'tfjs',
      ratio: await compare(runs(theirs), runs(ours), pairs),
    })
    dispose()
  }
  return found
}

/** np.matmul on a device of its own; its transposes are views that its own compiler reads through. */
async function againstJax(pairs: number): Promise<Compared[]> {
  if (!(await init('webgpu')).includes('webgpu')) throw new Error('it offers no WebGPU here')
  defaultDevice('webgpu')
  const found: Compared[] = []
  for (const product of products(scale)) {
    const { ours, dispose } = ways(product)
    const { run: theirs, free } = jaxProduct(product)
    found.push({ name: nameOf(product), other: 'jax-js', ratio: await compare(theirs, runs(ours), pairs) })
    dispose()
    free()
  }
  return found
}

function jaxProduct({ M, N, K, form }: Product): { run: () => Promise<unknown>; free: () => void } {
  const ramp = (n: number) => Float32Array.from({ length: n }, (_, i) => ((i * 37) % 101) / 101 - 0.5)
  const [transposeA, transposeB] = [form === 'TN', form === 'NT']
  const a = np.array(ramp(M * K)).reshape(transposeA ? [K, M] : [M, K])
  const b = np.array(ramp(K * N)).reshape(transposeB ? [N, K] : [K, N])
  const left = () => (transposeA ? a.ref.transpose() : a.ref)
  const right = () => (transposeB ? b.ref.transpose() : b.ref)
  return {
    run: async () => {
      const product = np.matmul(left(), right())
      // One element is read, as ours is.
      await product.slice(0, 0).data()
    },
    free: () => {
      a.dispose()
      b.dispose()
    },
  }
}

/** The bundled model with a seq_bn adapter: our forward, and the ONNX export of the same. */
async function againstOnnx(device: PipelineDevice, pairs: number): Promise<Compared[]> {
  const part = async (name: string) => {
    const response = await fetch(`/models/mini-roberta/${name}`)
    if (!response.ok) throw new Error(`the bundled model has no ${name}`)
    return response.blob()
  }
  const config_json = await (await part('config.json')).text()
  const tokenizer = await (await part('tokenizer.json')).text()
  const weights = await openSafetensors(await part('model.safetensors'))
  const config = parseRobertaConfig(config_json)
  const head = classificationHead(num_labels)
  const setup = singleSetup('m', seqBn, head)
  const tensors = madeUpTensors(
    setupParameters(config, setup).map(({ key, shape }): [string, number[]] => [key, shape]),
  )
  const bundle = {
    name: 'm',
    adapter: seqBn,
    head,
    id2label: ['a', 'b'],
    tensors,
    base: null,
    max_length: 256,
  }
  const base = { config, config_json, tokenizer, tokenizer_config: null, weights }
  const pipeline = await openOnnxPipeline(await onnxFiles(base, bundle), device)
  const { roberta } = await loadRoberta(config, weights, null)
  const model = createModel(roberta, setup, tensors)
  const [B, S] = [8, 64]
  const host = hostBatch(config, B, S)
  const rows = (values: Int32Array) =>
    Array.from({ length: B }, (_, b) => [...values.subarray(b * S, (b + 1) * S)])
  const [ids, mask] = [rows(host.input_ids), rows(host.attention_mask)]
  await assertEqual(
    (await pipeline.run(ids, mask)).flatMap((row) => [...row]),
    forwardOf(model, host)(),
  )
  const ratio = await compare(() => pipeline.run(ids, mask), runs(forwardOf(model, host)), pairs)
  await pipeline.dispose()
  return [
    { name: `mini-roberta forward, batch ${B}, length ${S}`, other: `onnxruntime-web, ${device}`, ratio },
  ]
}

async function assertEqual(wanted: number[], logits: tf.Tensor): Promise<void> {
  const found = await logits.data()
  logits.dispose()
  const worst = Math.max(...wanted.map((value, i) => Math.abs(value - found[i]!)))
  if (!(worst < 1e-3)) throw new Error(`its logits differ from ours by ${worst}`)
}

Object.assign(globalThis, { timeAll })
