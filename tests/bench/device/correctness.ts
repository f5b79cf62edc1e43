/**
 * Whether a device computes what it should, before its times are believed: the self-test against Python's values, every
 * method's own kernels against plain tfjs operations on the same device, products against double precision, and a curve
 * of losses against the same steps on the processor.
 */
import * as tf from '@tensorflow/tfjs-core'
import { classificationHead, type RobertaConfig } from '../../../src/config.ts'
import { openBackend, type BackendOptions } from '../../../src/kernels/backend.ts'
import { kernelFamilies, replaceByReference } from '../../../src/kernels/program.ts'
import { disposeBatch, uploadBatch, type HostBatch } from '../../../src/model/batch.ts'
import { loadRoberta } from '../../../src/model/loadRoberta.ts'
import {
  createModel,
  disposeModel,
  lossAndGradient,
  predict,
  setupParameters,
  singleSetup,
  type Model,
} from '../../../src/model/model.ts'
import { flatten } from '../../../src/model/params.ts'
import { disposeRoberta } from '../../../src/model/roberta.ts'
import { parseRobertaConfig } from '../../../src/model/robertaConfig.ts'
import { selfTest } from '../../../src/model/selfTest.ts'
import { madeUpTensors, madeUpWeights } from '../../madeUp.ts'
import { configOf, measured, type MeasuredMethod } from '../methods.ts'
import { products, nameOf, ways } from '../products.ts'
import { num_labels, Stepper } from '../steps.ts'

export interface Check {
  name: string
  ok: boolean
  detail: string
}

/** Two layers, sizes that are no multiples of any tile. */
const odd = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 301,
    hidden_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    intermediate_size: 200,
    max_position_embeddings: 80,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

/** One layer of RoBERTa-base's widths: the variants that its steps run. */
const wide = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 1000,
    num_hidden_layers: 1,
    max_position_embeddings: 514,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

const limits = { reference: 2e-4, product: 1e-5, curve: 2e-3 }

/**
 * All checks, each told as it ends. `scale` divides the sizes of the products: software adapters are slow.
 */
export async function checkDevice(
  options: BackendOptions,
  scale: number,
  tell: (check: Check) => void,
): Promise<Check[]> {
  const found: Check[] = []
  for await (const check of checks(options, scale)) {
    tell(check)
    found.push(check)
  }
  return found
}

async function* checks(options: BackendOptions, scale: number): AsyncGenerator<Check> {
  await openBackend('webgpu', options)
  const own = await selfTest()
  yield* own.checks.map((check) => ({ ...check, name: `self-test: ${check.name}` }))
  for (const method of measured) yield await againstReference(odd, method, 5, 37)
  if (scale === 1) for (const method of measured) yield await againstReference(wide, method, 8, 128)
  for (const product of products(scale)) {
    const { error, dispose } = ways(product)
    yield check(`product ${nameOf(product)}`, await error(), limits.product)
    dispose()
  }
  yield await curve(options)
}

function check(name: string, difference: number, limit: number): Check {
  return {
    name,
    ok: difference <= limit,
    detail: `largest relative difference ${difference.toExponential(1)}`,
  }
}

/** Rows of unequal lengths. */
function raggedBatch({ vocab_size, pad_token_id }: RobertaConfig, B: number, S: number): HostBatch {
  const input_ids = new Int32Array(B * S).fill(pad_token_id)
  const attention_mask = new Int32Array(B * S)
  for (let b = 0; b < B; b++) {
    const length = b === 0 ? S : 3 + ((b * 11) % (S - 3))
    for (let i = 0; i < length; i++) {
      input_ids[b * S + i] = pad_token_id + 1 + ((b * 31 + i * 7) % (vocab_size - pad_token_id - 1))
      attention_mask[b * S + i] = 1
    }
  }
  return { B, S, input_ids, attention_mask, labels: Int32Array.from({ length: B }, (_, b) => b % num_labels) }
}

/** A made-up model with one method, and the values that it starts from. */
async function madeUpModel(
  config: RobertaConfig,
  method: MeasuredMethod,
): Promise<{ model: Model; start: Float32Array }> {
  const { roberta } = await loadRoberta(config, madeUpWeights(config), null)
  const setup = singleSetup('m', configOf(method), classificationHead(num_labels))
  const shapes = setupParameters(config, setup).map(({ key, shape }): [string, number[]] => [key, shape])
  const tensors = madeUpTensors(shapes)
  const model = createModel(roberta, setup, tensors)
  return { model, start: flatten(model.layout, tensors) }
}

/** Logits, loss and gradients with dropout, by our kernels and by plain tfjs operations; the largest difference. */
async function againstReference(
  config: RobertaConfig,
  method: MeasuredMethod,
  B: number,
  S: number,
): Promise<Check> {
  const { model } = await madeUpModel(config, method)
  const host = raggedBatch(config, B, S)
  const ours = await resultsOf(model, host)
  replaceByReference(kernelFamilies)
  const theirs = await resultsOf(model, host)
  replaceByReference([])
  const differences = ours.map((values, i) => difference(values, theirs[i]!))
  disposeModel(model)
  disposeRoberta(model.roberta)
  const name = `${method}, ${B}×${S}×${config.hidden_size}: kernels against plain operations`
  return check(name, Math.max(...differences), limits.reference)
}

async function resultsOf(model: Model, host: HostBatch): Promise<Float32Array[]> {
  const batch = uploadBatch(model.roberta.config, host)
  const { logits, others } = predict(model, batch)
  const { loss, gradient } = lossAndGradient(model, batch, { seed: 1, call: 3, base: true }, 0.1)
  const results = [logits, ...others, loss, gradient]
  const values = await Promise.all(results.map(async (one) => Float32Array.from(await one.data())))
  tf.dispose(results)
  disposeBatch(batch)
  return values
}

/** The largest difference over the largest value; NaN where anything is not a number. */
function difference(values: Float32Array, wanted: Float32Array): number {
  let [worst, largest] = [0, 1e-6]
  for (let i = 0; i < wanted.length; i++) {
    const off = Math.abs(values[i]! - wanted[i]!)
    if (!(off <= worst)) worst = off
    largest = Math.max(largest, Math.abs(wanted[i]!))
  }
  return worst / largest
}

/** Losses of twenty optimiser steps of seq_bn, on the device and on the processor. */
async function curve(options: BackendOptions): Promise<Check> {
  const onDevice = await losses()
  await openBackend('cpu')
  const onHost = await losses()
  await openBackend('webgpu', options)
  const falls = onHost.at(-1)! < 0.9 * onHost[0]!
  const found = check('losses of 20 steps against the processor', difference(onDevice, onHost), limits.curve)
  return falls ? found : { ...found, ok: false, detail: `the loss does not fall: ${onHost.join(' ')}` }
}

async function losses(): Promise<Float32Array> {
  const { model, start } = await madeUpModel(odd, 'seq_bn')
  const stepper = new Stepper(model, raggedBatch(odd, 4, 20), start)
  const found: number[] = []
  for (let i = 0; i < 20; i++) {
    const loss = stepper.step(false, 1e-3)
    found.push((await loss.data())[0]!)
    loss.dispose()
  }
  return Float32Array.from(found)
}
