/** The slow mode's memory estimate against the peak that a real pass and a real optimiser step reach on a small model. */
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { classificationHead, type AdapterConfig, type RobertaConfig } from '../src/config.ts'
import { trainingDefaults } from '../src/trainingArguments.ts'
import { openNodeBackend } from '../src/headless/node.ts'
import { adamwState } from '../src/kernels/adamw.ts'
import { bytesInWords, memoryEstimate, memoryProblem } from '../src/methods/memory.ts'
import type { Preset } from '../src/methods/method.ts'
import { presets } from '../src/methods/registry.ts'
import type { HostBatch } from '../src/model/batch.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { initialTensors } from '../src/model/initialise.ts'
import { createModel, disposeModel, singleSetup } from '../src/model/model.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { disposeRoberta } from '../src/model/roberta.ts'
import { optimiserStep } from '../src/train/step.ts'
import { madeUpWeights } from './madeUp.ts'

const config: RobertaConfig = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 60,
    hidden_size: 96,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    intermediate_size: 384,
    max_position_embeddings: 80,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)
const batch = 6
const tokens = 40

beforeAll(() => openNodeBackend('wasm'))

function texts(): HostBatch {
  const input_ids = Int32Array.from({ length: batch * tokens }, (_, i) =>
    i % tokens === 0 ? 0 : 3 + (i % 50),
  )
  return {
    B: batch,
    S: tokens,
    input_ids,
    attention_mask: new Int32Array(batch * tokens).fill(1),
    labels: Int32Array.from({ length: batch }, (_, i) => i % 2),
  }
}

/** Compacter's width must be divisible by its phm_dim, which a small model's is not. */
function adapterOf({ config: adapter }: Preset): AdapterConfig {
  return adapter.architecture === null && adapter.phm_layer ? { ...adapter, reduction_factor: 8 } : adapter
}

/** Bytes that live at once in one optimiser step, the model's own weights among them. */
async function peakOf(adapter: AdapterConfig): Promise<number> {
  const before = tf.memory().numBytes
  const { roberta } = await loadRoberta(config, madeUpWeights(config), null)
  const setup = singleSetup('a', adapter, classificationHead(2))
  const model = createModel(roberta, setup, await initialTensors(roberta, setup, new Map(), 1, () => []))
  const flat = tf.zeros<tf.Rank.R1>([model.layout.size])
  const { peakBytes } = await tf.profile(() => {
    const args = { ...trainingDefaults, max_grad_norm: 1 }
    const { state, loss, grad_norm } = optimiserStep(model, adamwState(flat), [texts()], args, 1e-4, 1)
    tf.dispose([state.p, state.m, state.v, loss, grad_norm])
    return []
  })
  disposeModel(model)
  disposeRoberta(roberta)
  expect(tf.memory().numBytes).toBe(before)
  return peakBytes - before
}

describe('the memory estimate', () => {
  test.for(presets)('is within a quarter of the peak of $name', { timeout: 60_000 }, async (preset) => {
    const H = config.hidden_size
    const head_parameters = H * H + H + 2 * H + 2
    const adapter = adapterOf(preset)
    const estimate = memoryEstimate(config, adapter, {
      batch,
      tokens,
      head_parameters,
      base_dropout: true,
    })
    const ratio = estimate.total / (await peakOf(adapter))
    expect(ratio).toBeGreaterThan(0.75)
    expect(ratio).toBeLessThan(1.33)
  })

  test('tells full fine-tuning of roberta-base from an adapter', () => {
    const base = {
      ...config,
      hidden_size: 768,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      intermediate_size: 3072,
    }
    const roberta = { ...base, vocab_size: 50265, max_position_embeddings: 514 }
    const args = { batch: 16, tokens: 128, head_parameters: 592130, base_dropout: true }
    const full = memoryEstimate(roberta, { architecture: 'full' }, args)
    const adapter = memoryEstimate(roberta, presets[0]!.config, args)
    expect(full.total).toBeGreaterThan(4e9)
    expect(adapter.total).toBeLessThan(3e9)
    expect(memoryProblem(full)).toMatch(/needs about .* GB.*4\.0 GB/)
    expect(memoryProblem(adapter)).toBeNull()
    expect(bytesInWords(12e6)).toBe('12 MB')
  })
})
