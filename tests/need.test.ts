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
  /** Layers without an adapter. */
  leave_out?: number[]
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

/** How a run went on a device that counts every buffer. */
interface Ran {
  /** Predicted bytes over the most that its steps and an evaluation hold. */
  ratio: number
  /** What is predicted to be kept outside the device, and whether so much memory, less `short`, was too little. */
  features: number
  tooLittle: boolean
}

async function ran({ config, adapter, B, S, args, precision, leave_out }: Case, short = 0): Promise<Ran> {
  const own = { ...adapterOf(adapter), ...(leave_out && { leave_out }) }
  const { gpu, model } = await openEngine(config, own, precision)
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
  const rows = (count: number, word: number) => ({
    input_ids: Array.from({ length: count }, (_, i) => new Int32Array(S).fill(word + i)),
    labels: Int32Array.from({ length: count }, (_, i) => i % 2),
  })
  const learnt = rows(3 * B * run.gradient_accumulation_steps, 5)
  const data = { train: learnt, validation: rows(run.per_device_eval_batch_size, 1000) }
  const count = learnt.labels.length + data.validation.labels.length
  const texts = { count, tokens: count * S }
  const before = tf.memory()
  const sizes = { setup: model.setup, args: run, lengths: [S] as [number], hidden: null }
  const { need } = needOf(model.roberta, { ...sizes, random: false, texts })
  expect(tf.memory().numTensors).toBe(before.numTensors)
  expect(tf.memory().numBytes).toBe(before.numBytes)
  gpu.resetPeak()
  let tooLittle = false
  const openFile = async () => ((tooLittle = true), null)
  const room = { memoryBytes: need.features - short, openFile }
  for await (const { type } of train(model, data, run, null, null, room)) expect(type).not.toBe('')
  return { ratio: need.total / gpu.peakBytes, features: need.features, tooLittle }
}

/** The prediction must be within so much of the truth. */
async function check(one: Case): Promise<Ran> {
  const found = await ran(one)
  expect(found.ratio).toBeGreaterThan(0.9)
  expect(found.ratio).toBeLessThan(1.1)
  return found
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

  const kept: [string, Omit<Case, 'config'>][] = [
    ['a head alone', { adapter: 'head', B: 32, S: 128 }],
    ['in parts', { adapter: 'head', B: 64, S: 128, args: { max_tokens_per_batch: 1024 } }],
    ['seq_bn', { adapter: 'seq_bn', leave_out: [0, 1, 2, 3], B: 32, S: 128 }],
    [
      'in parts',
      { adapter: 'seq_bn', leave_out: [0, 1], B: 64, S: 128, args: { max_tokens_per_batch: 1024 } },
    ],
    [
      'lora, accumulated',
      { adapter: 'lora', leave_out: [0, 1, 2], B: 16, S: 128, args: { gradient_accumulation_steps: 6 } },
    ],
    [
      'a large evaluation',
      { adapter: 'seq_bn', leave_out: [0, 1], B: 8, S: 64, args: { per_device_eval_batch_size: 64 } },
    ],
  ]
  it.for(kept)('of a run that keeps features from pass to pass: %s', async ([, one]) => {
    const args = { ...one.args, base_dropout: false, num_train_epochs: 2, max_steps: -1 }
    expect(await check({ ...one, config: small, args })).toMatchObject({ tooLittle: false })
    const short = await ran({ ...one, config: small, args }, 4)
    expect(short.features).toBeGreaterThan(0)
    expect(short.tooLittle).toBe(true)
    if (!one.args) await check({ ...one, config: robertaBase, args })
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
