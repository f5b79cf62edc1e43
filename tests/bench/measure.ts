/**
 * Counts of one forward and one optimiser step on the fake device, for this engine and for the plain tape, at any
 * model size; and how the buffer pool grows over a run whose batches change length.
 */
import * as tf from '@tensorflow/tfjs'
import {
  classificationHead,
  type AdapterConfig,
  type HostTensor,
  type RobertaConfig,
} from '../../src/config.ts'
import { trainingDefaults } from '../../src/trainingArguments.ts'
import { trainBatches } from '../../src/data/batches.ts'
import { adamwState } from '../../src/kernels/adamw.ts'
import { openBackend } from '../../src/kernels/backend.ts'
import { uploadBatch, type HostBatch } from '../../src/model/batch.ts'
import { baseShapes, loadRoberta, type WeightSource } from '../../src/model/loadRoberta.ts'
import { createModel, predict, setupParameters, singleSetup, type Model } from '../../src/model/model.ts'
import { optimiserStep } from '../../src/train/step.ts'
import { train } from '../../src/train/train.ts'
import { difference, FakeGpu, type Counts } from './fakeDevice.ts'
import { TapeModel } from './tape.ts'

/** What one piece of work costs once warm. `pipelines` are those compiled by its first call; bytes include weights. */
export type Cost = Counts & { peakBytes: number; tensors: number }

export interface Size {
  config: RobertaConfig
  B: number
  S: number
}

const num_labels = 2

/** Opens tfjs on a fresh fake device. `tuned` false: with tfjs's own flags instead of the engine's. */
async function openFake(tuned: boolean): Promise<FakeGpu> {
  const gpu = new FakeGpu()
  await openBackend('webgpu', { gpu: gpu as unknown as GPU })
  if (!tuned) {
    tf.env().set('WEBGPU_MATMUL_PROGRAM_TYPE', -1)
    tf.env().set('WEBGPU_CPU_FORWARD', true)
  }
  return gpu
}

/** Runs `work` twice: pipelines of the first run, everything else of the second. */
function cost(gpu: FakeGpu, work: () => void): Cost {
  const start = { ...gpu.counts }
  work()
  const warm = { ...gpu.counts }
  const before = tf.memory().numTensors
  gpu.resetPeak()
  work()
  return {
    ...difference(gpu.counts, warm),
    pipelines: difference(warm, start).pipelines,
    peakBytes: gpu.peakBytes,
    tensors: tf.memory().numTensors - before,
  }
}

/** Weights of the right shapes, all zero: on a device that executes nothing any values do. */
function zeroWeights(config: RobertaConfig): WeightSource {
  const shapes = new Map(baseShapes(config))
  const elements = (name: string) => shapes.get(name)!.reduce((a, b) => a * b, 1)
  return {
    names: () => [...shapes.keys()],
    shape: (name) => shapes.get(name)!,
    read: async (name) => new Float32Array(elements(name)),
    async *readChunks(name, maxElements) {
      for (let at = 0; at < elements(name); at += maxElements) {
        yield new Float32Array(Math.min(maxElements, elements(name) - at))
      }
    },
  }
}

function hostBatch(B: number, S: number): HostBatch {
  return {
    B,
    S,
    input_ids: new Int32Array(B * S).fill(5),
    attention_mask: new Int32Array(B * S).fill(1),
    labels: new Int32Array(B),
  }
}

async function openEngine(
  config: RobertaConfig,
  adapter: AdapterConfig,
): Promise<{ gpu: FakeGpu; model: Model }> {
  const gpu = await openFake(true)
  const { roberta } = await loadRoberta(config, zeroWeights(config), null)
  const setup = singleSetup('bench', adapter, classificationHead(num_labels))
  const zeros = setupParameters(config, setup).map(({ key, shape }): [string, HostTensor] => [
    key,
    { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) },
  ])
  const model = createModel(roberta, setup, new Map(zeros))
  return { gpu, model }
}

/** This engine: prediction of one batch, a step without dropout, and a step with the base model's dropout. */
export async function measureEngine(
  { config, B, S }: Size,
  adapter: AdapterConfig,
): Promise<{ forward: Cost; step: Cost; dropoutStep: Cost }> {
  const { gpu, model } = await openEngine(config, adapter)
  const host = hostBatch(B, S)
  const forward = cost(gpu, () => {
    tf.tidy(() => void predict(model, uploadBatch(config, host)))
  })
  let state = adamwState(tf.zeros([model.layout.size]))
  let call = 0
  const step = (dropout: boolean) => () => {
    const next = optimiserStep(model, state, [host], trainingDefaults, 1e-4, dropout ? call++ : null)
    tf.dispose([next.loss, next.grad_norm])
    state = next.state
  }
  return { forward, step: cost(gpu, step(false)), dropoutStep: cost(gpu, step(true)) }
}

/** The plain tape: the same forward and step. */
export async function measureTape(
  { config, B, S }: Size,
  adapter: AdapterConfig,
): Promise<{ forward: Cost; step: Cost }> {
  const gpu = await openFake(false)
  const model = new TapeModel(config, adapter, num_labels)
  const batch = { B, S, labels: num_labels }
  const forward = cost(gpu, () => model.forward(batch).dispose())
  return { forward, step: cost(gpu, () => model.step(batch).dispose()) }
}

/** What is alive at one moment of a run, and the most bytes that were allocated in the half before it. */
export interface Held {
  bytes: number
  peakBytes: number
  tensors: number
  pipelines: number
}

/** A run whose batches change length from step to step: what is alive half-way, once warm, and at the end. */
export interface Growth {
  steps: number
  /** Padded lengths that occurred, and how often. */
  lengths: Record<number, number>
  half: Held
  end: Held
}

/** No tensor more, and no more memory in the second half than in the first. */
export function isFlat({ half, end }: Growth): boolean {
  return (
    end.tensors === half.tensors &&
    end.peakBytes <= half.peakBytes * 1.001 &&
    end.pipelines === half.pipelines
  )
}

/**
 * Trains `steps` steps (a multiple of 20) through the real loop, evaluating four times, on rows of the given lengths.
 * Both looks are taken at the same phase of logging and evaluation; the run goes on a little after the second.
 */
export async function measureGrowth(
  { config, B }: Size,
  adapter: AdapterConfig,
  steps: number,
  lengths: number[],
): Promise<Growth> {
  const { gpu, model } = await openEngine(config, adapter)
  const rows = (count: number) => ({
    input_ids: Array.from({ length: count }, (_, i) => new Int32Array(lengths[i % lengths.length]!).fill(5)),
    labels: Int32Array.from({ length: count }, (_, i) => i % num_labels),
  })
  const args = {
    ...trainingDefaults,
    max_steps: steps + trainingDefaults.logging_steps,
    per_device_train_batch_size: B,
    eval_strategy: 'steps' as const,
    eval_steps: steps / 4,
    max_length: Math.max(...lengths),
  }
  const held = (): Held => ({
    bytes: gpu.bytes,
    peakBytes: gpu.peakBytes,
    tensors: tf.memory().numTensors,
    pipelines: gpu.counts.pipelines,
  })
  const data = {
    train: rows((steps + trainingDefaults.logging_steps) * B),
    validation: rows(2 * lengths.length),
  }
  const seen: Record<number, number> = {}
  for (const { S } of trainBatches(data.train, {
    ...args,
    batch_size: B,
    epoch: 0,
    pad_token_id: config.pad_token_id,
  })) {
    seen[S] = (seen[S] ?? 0) + 1
  }
  let half = held()
  let end = half
  for await (const event of train(model, data, args)) {
    if (event.type !== 'tick') continue
    if (event.step === steps / 2) {
      half = held()
      gpu.resetPeak()
    }
    if (event.step === steps) end = held()
  }
  return { steps, lengths: seen, half, end }
}
