/** What saves memory in a training pass changes nothing, or no more than is stated, on whatever backend is open. */
import * as tf from '@tensorflow/tfjs-core'
import { expect } from 'vitest'
import { classificationHead, type AdapterConfig, type HeadConfig, type RobertaConfig } from '../src/config.ts'
import { openedDevice } from '../src/kernels/backend.ts'
import { adamwState } from '../src/kernels/adamw.ts'
import { fromHalf, toHalf } from '../src/kernels/half.ts'
import { presets } from '../src/methods/registry.ts'
import { maskedLMHead } from '../src/model/heads/maskedLM.ts'
import { disposeBatch, uploadBatch, type HostBatch } from '../src/model/batch.ts'
import { initialTensors } from '../src/model/initialise.ts'
import {
  loadRoberta,
  type LoadedRoberta,
  type Precision,
  type WeightSource,
} from '../src/model/loadRoberta.ts'
import {
  createModel,
  disposeModel,
  lossAndGradient,
  predict,
  singleSetup,
  type Model,
} from '../src/model/model.ts'
import { disposeRoberta, type Roberta } from '../src/model/roberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { keepsAll, type Saving } from '../src/model/walk.ts'
import { optimiserStep } from '../src/train/step.ts'
import { trainingDefaults } from '../src/trainingArguments.ts'
import { madeUpWeights, uniform } from './madeUp.ts'

/** Wide enough that a layer's activations are packed when they may be. */
export const config: RobertaConfig = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 90,
    hidden_size: 128,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    intermediate_size: 256,
    max_position_embeddings: 80,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

export const checkpointed = ['seq_bn', 'lora', 'prefix_tuning', 'unipelt', 'mam', 'full', 'prompt_tuning']

export function adapterOf(name: string): AdapterConfig {
  if (name === 'full' || name === 'bitfit' || name === 'head') return { architecture: name }
  return presets.find((preset) => preset.name === name)!.config
}

/** Five rows of up to 30 tokens, the last ones padded. */
export function rows(): HostBatch {
  const [B, S] = [5, 30]
  const length = (row: number) => S - 3 * row
  const at = Array.from({ length: B * S }, (_, i) => ({ row: Math.floor(i / S), t: i % S }))
  const id = ({ row, t }: { row: number; t: number }) => (t === 0 ? 0 : 4 + ((row * 31 + t * 7) % 80))
  return {
    B,
    S,
    input_ids: Int32Array.from(at, (one) => (one.t < length(one.row) ? id(one) : 1)),
    attention_mask: Int32Array.from(at, ({ row, t }) => Number(t < length(row))),
    labels: Int32Array.from({ length: B }, (_, row) => row % 2),
  }
}

export function loadBase(
  precision: Precision = 'float32',
  weights: WeightSource = madeUpWeights(config, true),
): Promise<LoadedRoberta> {
  const { backend, limits } = openedDevice()
  const most = backend === 'webgpu' ? limits.maxStorageBufferBindingSize : null
  return loadRoberta(config, weights, most, precision)
}

/** Made-up weights as a file of halves has them, those below 2^-14 among them; what `float32` names is held whole. */
export function halfWeights(float32: RegExp): WeightSource {
  const whole = madeUpWeights(config, true)
  const stored = (name: string, values: Float32Array) => {
    if (float32.test(name)) return values
    values.forEach((value, i) => (values[i] = i % 50 === 7 ? value * 1e-4 : value))
    return fromHalf(toHalf(values))
  }
  return {
    ...whole,
    dtype: (name) => (float32.test(name) ? 'F32' : 'F16'),
    read: async (name) => stored(name, await whole.read(name)),
    async *readChunks(name, maxElements) {
      const values = stored(name, await whole.read(name))
      for (let start = 0; start < values.length; start += maxElements)
        yield values.slice(start, start + maxElements)
    },
  }
}

/** A model whose adapters do something: their values are moved off where a fresh one starts. */
export async function modelOf(
  roberta: Roberta,
  name: string,
  head: HeadConfig = classificationHead(2),
): Promise<Model> {
  const setup = singleSetup('t', adapterOf(name), head)
  const tensors = await initialTensors(roberta, setup, new Map(), 5, () => [])
  for (const [key, { data }] of tensors) {
    if (key.startsWith('roberta.embeddings')) continue
    const moved = uniform(key, data.length)
    data.forEach((value, i) => (data[i] = value + 0.05 * moved[i]!))
  }
  return createModel(roberta, setup, tensors)
}

export interface Pass {
  loss: number
  gradient: Float32Array
}

/** One pass with dropout everywhere, whose masks are the same each time. */
export async function passOf(model: Model, saving: Saving, host = rows()): Promise<Pass> {
  const batch = uploadBatch(model.roberta.config, host)
  const { loss, gradient } = lossAndGradient(model, batch, { seed: 7, call: 3, base: true }, 0, saving)
  const pass = { loss: (await loss.data())[0]!, gradient: Float32Array.from(await gradient.data()) }
  tf.dispose([loss, gradient])
  disposeBatch(batch)
  return pass
}

/** ‖a - b‖ / ‖b‖ */
export function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [squares, whole] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    squares += (a[i]! - b[i]!) ** 2
    whole += b[i]! ** 2
  }
  return Math.sqrt(squares / whole)
}

/** A pass that computes layers twice is the pass that keeps them, and leaves nothing behind. */
export async function checkRecomputed(name: string): Promise<void> {
  const before = tf.memory().numTensors
  const { roberta } = await loadBase()
  const model = await modelOf(roberta, name)
  const kept = await passOf(model, keepsAll)
  const standing = tf.memory().numTensors
  const again = await passOf(model, { ...keepsAll, recompute: true })
  expect(tf.memory().numTensors).toBe(standing)
  expect(apart(kept.gradient, new Float32Array(kept.gradient.length).fill(1))).not.toBe(1)
  expect(again.loss).toBe(kept.loss)
  expect(apart(again.gradient, kept.gradient)).toBeLessThan(1e-6)
  disposeModel(model)
  disposeRoberta(roberta)
  expect(tf.memory().numTensors).toBe(before)
}

/** The loss is the same with packed activations, and each gradient as a whole within 3e-3 of what it was. */
export async function checkHalved(name: string): Promise<void> {
  const before = tf.memory().numTensors
  const { roberta } = await loadBase()
  const model = await modelOf(roberta, name)
  const kept = await passOf(model, keepsAll)
  for (const recompute of [false, true]) {
    const halved = await passOf(model, { ...keepsAll, recompute, halves: true })
    expect(halved.loss).toBe(kept.loss)
    expect(apart(halved.gradient, kept.gradient)).toBeGreaterThan(0)
    expect(apart(halved.gradient, kept.gradient)).toBeLessThan(3e-3)
  }
  disposeModel(model)
  disposeRoberta(roberta)
  expect(tf.memory().numTensors).toBe(before)
}

/** Losses of so many optimiser steps on one batch. */
export async function curveOf(
  name: string,
  saving: Saving,
  steps: number,
  base = loadBase(),
): Promise<number[]> {
  const { roberta } = await base
  const model = await modelOf(roberta, name)
  const { recompute: gradient_checkpointing, halves: half_precision_activations } = saving
  const args = { ...trainingDefaults, gradient_checkpointing, half_precision_activations }
  const start = new Float32Array(model.layout.size)
  for (const { key, offset } of model.layout.slots)
    start.set(await model.current.views.get(key)!.data<'float32'>(), offset)
  let state = adamwState(tf.tensor1d(start))
  const losses: number[] = []
  for (let step = 0; step < steps; step++) {
    const { state: next, loss, grad_norm } = optimiserStep(model, state, [rows()], args, 5e-3, step)
    state = next
    losses.push((await loss.data())[0]!)
    tf.dispose([loss, grad_norm])
  }
  tf.dispose([state.p, state.m, state.v])
  disposeModel(model)
  disposeRoberta(roberta)
  return losses
}

/** Logits of the batch in evaluation mode. */
async function logitsOf(model: Model): Promise<Float32Array> {
  const logits = tf.tidy(() => predict(model, uploadBatch(config, rows())).logits)
  const values = Float32Array.from(await logits.data())
  logits.dispose()
  return values
}

/**
 * On a base whose matrices lie in half precision, logits are within 5e-3 of the whole of what they are in float32, and
 * gradients within 2e-3; and it takes less memory.
 */
export async function checkHalfWeights(name: string): Promise<void> {
  const found: { logits: Float32Array; pass: Pass; bytes: number }[] = []
  for (const precision of ['float32', 'float16'] as const) {
    const before = tf.memory()
    const { roberta } = await loadBase(precision)
    const bytes = tf.memory().numBytes - before.numBytes
    const model = await modelOf(roberta, name)
    found.push({ logits: await logitsOf(model), pass: await passOf(model, keepsAll), bytes })
    disposeModel(model)
    disposeRoberta(roberta)
    expect(tf.memory().numTensors).toBe(before.numTensors)
  }
  const [whole, half] = [found[0]!, found[1]!]
  const [logits, gradient] = [
    apart(half.logits, whole.logits),
    apart(half.pass.gradient, whole.pass.gradient),
  ]
  expect(half.bytes).toBeLessThan(0.6 * whole.bytes)
  expect(logits).toBeGreaterThan(0)
  expect(logits).toBeLessThan(5e-3)
  expect(gradient).toBeLessThan(2e-3)
}

/** Words to be found at some places of the batch, for a masked-LM head. */
function hidden(): HostBatch {
  const positions = Int32Array.of(1, 5, 33, 70)
  const ids = Int32Array.of(9, 40, 77, 12)
  return { ...rows(), targets: { kind: 'masked_lm', positions, ids } }
}

/**
 * A file of halves that lies as it is on the GPU gives the very loss, logits and gradients that it gives in float32, for
 * adapters, biases, all weights and hidden words; and it takes less memory.
 */
export async function checkLossless(name: string, float32 = /LayerNorm/): Promise<void> {
  const found: { logits: Float32Array; passes: Pass[]; bytes: number }[] = []
  for (const precision of ['float32', 'auto'] as const) {
    const before = tf.memory()
    const { roberta, rounded } = await loadBase(precision, halfWeights(float32))
    expect(rounded).toBe(false)
    const bytes = tf.memory().numBytes - before.numBytes
    const model = await modelOf(roberta, name)
    const words = await modelOf(roberta, name, maskedLMHead(config))
    const passes = [await passOf(model, keepsAll), await passOf(words, keepsAll, hidden())]
    found.push({ logits: await logitsOf(model), passes, bytes })
    disposeModel(model)
    disposeModel(words)
    disposeRoberta(roberta)
    expect(tf.memory().numTensors).toBe(before.numTensors)
  }
  const [whole, half] = [found[0]!, found[1]!]
  expect(half.bytes).toBeLessThan(0.75 * whole.bytes)
  expect([...half.logits]).toEqual([...whole.logits])
  expect(half.passes).toEqual(whole.passes)
}
