/** Programs compiled ahead on paper are those that a run needs: its first step compiles none, and nothing else changes. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { gpuBytes, openBackend, webgpuBackend } from '../../src/kernels/backend.ts'
import { warmUp } from '../../src/kernels/warmUp.ts'
import { disposeModel } from '../../src/model/model.ts'
import { disposeRoberta } from '../../src/model/roberta.ts'
import { needOf } from '../../src/train/need.ts'
import { train } from '../../src/train/train.ts'
import { trainingDefaults, type TrainingArguments } from '../../src/trainingArguments.ts'
import { loadBase, modelOf } from '../savingChecks.ts'

const args: TrainingArguments = {
  ...trainingDefaults,
  per_device_train_batch_size: 3,
  max_length: 20,
  max_steps: 2,
  logging_steps: 1,
  eval_strategy: 'no',
}
const data = {
  train: {
    input_ids: Array.from({ length: 9 }, (_, i) =>
      Int32Array.from({ length: 8 + i }, (_, t) => 4 + ((i * 7 + t) % 80)),
    ),
    labels: Int32Array.from({ length: 9 }, (_, i) => i % 2),
  },
  validation: { input_ids: [], labels: new Int32Array(0) },
}

/** Losses of two steps, and the pipelines that were compiled while they ran. */
async function run(
  name: string,
  ahead: boolean,
): Promise<{ losses: number[]; compiled: number; warmed: number }> {
  await openBackend('webgpu')
  const before = tf.memory().numTensors
  const { roberta } = await loadBase()
  const model = await modelOf(roberta, name)
  let warmed = 0
  if (ahead) {
    // Shapes need not be the run's own.
    const planned = { ...args, per_device_train_batch_size: 2 }
    const standing = [tf.memory().numTensors, tf.memory().numBytes, gpuBytes()]
    const rest = { hidden: null, random: false, texts: null }
    const { programs } = needOf(roberta, { setup: model.setup, args: planned, lengths: [20], ...rest })
    const stopped = new AbortController()
    stopped.abort()
    expect(await warmUp(programs, stopped.signal)).toBe(0)
    warmed = await warmUp(programs, new AbortController().signal)
    expect([tf.memory().numTensors, tf.memory().numBytes, gpuBytes()]).toEqual(standing)
  }
  const { device } = webgpuBackend()
  let compiled = 0
  const compile = device.createComputePipeline.bind(device)
  device.createComputePipeline = (descriptor) => {
    compiled++
    return compile(descriptor)
  }
  const losses: number[] = []
  for await (const event of train(model, data, args)) if (event.type === 'step') losses.push(event.loss)
  disposeModel(model)
  disposeRoberta(roberta)
  expect(tf.memory().numTensors).toBe(before)
  return { losses, compiled, warmed }
}

test.for(['seq_bn', 'lora'])(
  'the first steps compile nothing, and their losses are the same: %s',
  async (name) => {
    const cold = await run(name, false)
    const warm = await run(name, true)
    expect(cold.compiled).toBeGreaterThan(10)
    expect(warm.warmed).toBeGreaterThan(10)
    expect(warm.compiled).toBe(0)
    expect(warm.losses).toEqual(cold.losses)
  },
)
