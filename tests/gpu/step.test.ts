/**
 * Whole optimiser steps on WebGPU: our kernels beside their references on the same device over 30 steps, the same bits
 * in a second run, parameters written in place under a model that sees them, and layers that AdapterDrop passes by.
 */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { classificationHead, type AdapterConfig, type RobertaConfig } from '../../src/config.ts'
import { adamwState } from '../../src/kernels/adamw.ts'
import { openBackend } from '../../src/kernels/backend.ts'
import { kernelFamilies, replaceByReference } from '../../src/kernels/program.ts'
import { parsePreset } from '../../src/methods/registry.ts'
import type { HostBatch } from '../../src/model/batch.ts'
import { initialTensors } from '../../src/model/initialise.ts'
import { loadRoberta } from '../../src/model/loadRoberta.ts'
import { createModel, disposeModel, singleSetup, tensorsOf } from '../../src/model/model.ts'
import { gather, unflatten } from '../../src/model/params.ts'
import { disposeRoberta } from '../../src/model/roberta.ts'
import { parseRobertaConfig } from '../../src/model/robertaConfig.ts'
import { missing, type Missed } from '../../src/train/adamwByLayer.ts'
import { readVector } from '../../src/train/best.ts'
import { optimiserStep } from '../../src/train/step.ts'
import { trainingDefaults } from '../../src/trainingArguments.ts'
import { worstError } from '../kernels/truth.ts'
import { madeUpWeights } from '../madeUp.ts'

/** As wide as it takes for projections to lie side by side. */
const config: RobertaConfig = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 60,
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 64,
    max_position_embeddings: 40,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

const args = { ...trainingDefaults, max_grad_norm: 0.5, weight_decay: 0.1, adam_epsilon: 1e-6 }

/** Texts of 9 tokens, a few of them shorter. */
function texts(B: number, seed: number): HostBatch {
  const S = 9
  return {
    ...{ B, S },
    input_ids: Int32Array.from({ length: B * S }, (_, i) => (i % S === 0 ? 0 : 3 + ((i * seed) % 50))),
    attention_mask: Int32Array.from({ length: B * S }, (_, i) =>
      i % S < S - (Math.floor(i / S) % 5) ? 1 : 0,
    ),
    labels: Int32Array.from({ length: B }, (_, b) => (b + seed) % 2),
  }
}

/** The parameters after `steps` steps, and the losses on the way; `drops`: AdapterDrop passes layers by in turn. */
async function run(
  adapter: AdapterConfig,
  steps: number,
  { batches = 1, drops = false } = {},
): Promise<{ p: Float32Array; losses: number[] }> {
  const before = tf.memory().numTensors
  const { roberta } = await loadRoberta(config, madeUpWeights(config), null)
  const setup = singleSetup('a', adapter, classificationHead(2))
  const model = createModel(roberta, setup, await initialTensors(roberta, setup, new Map(), 1, () => []))
  let state = adamwState(tf.tidy(() => gather(model.layout, model.current.views, [], null)))
  let missed: Missed = new Map()
  const losses: number[] = []
  for (let step = 0; step < steps; step++) {
    const skip_layers = drops && step % 3 > 0 ? [(step % 3) - 1] : []
    model.setup = { ...setup, skip_layers }
    const some = Array.from({ length: batches }, (_, i) => texts(3, 7 + step * batches + i))
    const result = optimiserStep(model, state, some, args, 1e-3, step * batches, drops ? missed : null)
    missed = missing(missed, skip_layers)
    state = result.state
    losses.push((await result.loss.data())[0]!, (await result.grad_norm.data())[0]!)
    tf.dispose([result.loss, result.grad_norm])
    if (step > 2) continue
    const seen = await tensorsOf(model)
    for (const [key, { data }] of unflatten(model.layout, await readVector(state.p)))
      expect(seen.get(key)?.data, `${key} after step ${step}`).toEqual(data)
  }
  const p = await readVector(state.p)
  tf.dispose([state.p, state.m, state.v])
  disposeModel(model)
  disposeRoberta(roberta)
  expect(tf.memory().numTensors).toBe(before)
  return { p, losses }
}

/** How a run is made: few steps where a software adapter has to compile more than it runs. */
type Steps = readonly [steps: number, method: string, options: Parameters<typeof run>[2]]

const software: Steps[] = [
  [30, 'seq_bn[reduction_factor=4]', {}],
  [4, 'seq_bn[reduction_factor=4]', { drops: true }],
  [4, 'lora', { batches: 2 }],
  [8, 'unipelt', {}],
]
const gpu: Steps[] = [[3, 'seq_bn[reduction_factor=4]', {}]]

describe.each([
  ['software', software],
  ['gpu', gpu],
] as const)('optimiser steps, variants for %s', (variants, runs) => {
  beforeAll(async () => void (await openBackend('webgpu', { variants })))
  afterEach(() => replaceByReference([]))

  test.each(runs)(
    '%i steps of %s, %o, equal the references and repeat bit for bit',
    { timeout: 400_000 },
    async (steps, name, options) => {
      const adapter = parsePreset(name)
      const own = await run(adapter, steps, options)
      expect(await run(adapter, steps, options)).toEqual(own)
      replaceByReference(kernelFamilies)
      const reference = await run(adapter, steps, options)
      expect(worstError(own.losses, reference.losses)).toBeLessThan(1e-4)
      expect(worstError(own.p, reference.p)).toBeLessThan(1e-5)
    },
  )
})
