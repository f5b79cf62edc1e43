/** What a run is predicted to take, beside what the same run takes on a device that counts every buffer. */
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import type { AdapterConfig, RobertaConfig } from '../src/config.ts'
import { presets } from '../src/methods/registry.ts'
import type { Precision } from '../src/model/loadRoberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { needOf } from '../src/train/need.ts'
import { train } from '../src/train/train.ts'
import { trainingDefaults, type TrainingArguments } from '../src/trainingArguments.ts'
import { openEngine } from './bench/measure.ts'
import { robertaBase } from './bench/sizes.ts'

interface Case {
  config: RobertaConfig
  adapter: string
  B: number
  S: number
  args?: Partial<TrainingArguments>
  precision?: Precision
}

const comparisons = ['head', 'bitfit', 'full'] as const
const small = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 2000,
    hidden_size: 256,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    intermediate_size: 1024,
    max_position_embeddings: 514,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

function adapterOf(name: string): AdapterConfig {
  const comparison = comparisons.find((one) => one === name)
  return comparison ? { architecture: comparison } : presets.find((preset) => preset.name === name)!.config
}

/** Predicted bytes over the most that three real steps and an evaluation hold. */
async function ratioOf({ config, adapter, B, S, args, precision }: Case): Promise<number> {
  const { gpu, model } = await openEngine(config, adapterOf(adapter), precision)
  const run: TrainingArguments = {
    ...trainingDefaults,
    max_tokens_per_batch: 0,
    per_device_train_batch_size: B,
    per_device_eval_batch_size: B,
    max_length: S,
    max_steps: 3,
    eval_strategy: 'steps',
    ...args,
  }
  const before = tf.memory()
  const { need } = needOf(model.roberta, { setup: model.setup, args: run, lengths: [S], hidden: null })
  expect(tf.memory().numTensors).toBe(before.numTensors)
  expect(tf.memory().numBytes).toBe(before.numBytes)
  const rows = (count: number) => ({
    input_ids: Array.from({ length: count }, () => new Int32Array(S).fill(5)),
    labels: Int32Array.from({ length: count }, (_, i) => i % 2),
  })
  gpu.resetPeak()
  const data = { train: rows(3 * B * run.gradient_accumulation_steps), validation: rows(B) }
  for await (const { type } of train(model, data, run)) expect(type).not.toBe('')
  return need.total / gpu.peakBytes
}

/** The prediction must be within so much of the truth. */
async function check(one: Case): Promise<void> {
  const ratio = await ratioOf(one)
  expect(ratio).toBeGreaterThan(0.9)
  expect(ratio).toBeLessThan(1.1)
}

describe('the predicted memory is within a tenth of what the run takes', () => {
  const names = new Set([...presets.map(({ name }) => name), ...comparisons])
  it.for([...names])('of a small model, a small batch: %s', async (adapter) => {
    await check({ config: small, adapter, B: 4, S: 32 })
  })

  it.for(['seq_bn', 'unipelt', 'prefix_tuning', 'prompt_tuning', 'full', 'head'])(
    'of long texts: %s',
    async (adapter) => {
      await check({ config: small, adapter, B: 8, S: 400 })
    },
  )

  const switches: [string, Partial<TrainingArguments>, Precision?][] = [
    ['as it is', {}],
    ['without base dropout', { base_dropout: false }],
    ['gradient checkpointing', { gradient_checkpointing: true }],
    ['packed activations', { half_precision_activations: true }],
    ['weights in half precision', {}, 'float16'],
    ['all of them', { gradient_checkpointing: true, half_precision_activations: true }, 'float16'],
    ['in parts', { max_tokens_per_batch: 1024 }],
    ['accumulated', { gradient_accumulation_steps: 2 }],
    ['a large evaluation', { per_device_eval_batch_size: 64 }],
  ]
  it.for(switches)('of roberta-base, batch 32, length 128: %s', async ([, args, precision]) => {
    await check({
      config: robertaBase,
      adapter: 'seq_bn',
      B: 32,
      S: 128,
      args,
      ...(precision && { precision }),
    })
  })

  it.for([
    ['lora', 8, 512],
    ['mam', 16, 64],
    ['bitfit', 8, 512],
    ['full', 16, 64],
  ] as const)('of roberta-base: %s, batch %i, length %i', async ([adapter, B, S]) => {
    await check({ config: robertaBase, adapter, B, S })
  })
})
