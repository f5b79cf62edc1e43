/**
 * Counts of one forward and one optimiser step on the fake device, for this engine and for the plain tape, at any
 * model size.
 */
import * as tf from '@tensorflow/tfjs'
import {
  classificationHead,
  type AdapterConfig,
  type HostTensor,
  type RobertaConfig,
} from '../../src/config.ts'
import { openBackend } from '../../src/kernels/backend.ts'
import { positionIds, uploadBatch, type HostBatch } from '../../src/model/batch.ts'
import { baseShapes, loadRoberta, type Precision, type WeightSource } from '../../src/model/loadRoberta.ts'
import { createModel, predict, setupParameters, singleSetup, type Model } from '../../src/model/model.ts'
import { difference, FakeGpu, type Counts } from './fakeDevice.ts'
import { audit } from './flops.ts'
import { observe, type Seen } from './observe.ts'
import { hostBatch, num_labels, Stepper } from './steps.ts'
import { openPlain, TapeModel } from './tape.ts'

/**
 * What one piece of work costs once warm; bytes include weights. `pipelines` are those compiled by its first call,
 * `newPipelines` those that its second and third still compiled.
 */
export type Cost = Counts & {
  newPipelines: number
  peakBytes: number
  tensors: number
  /** Of matrix products, from the sizes of what was dispatched; see flops.ts. */
  flops: number
}

export interface Size {
  config: RobertaConfig
  B: number
  S: number
}

/** One piece of work measured: its cost, what it uploaded, and kernels that the audit of operations does not know. */
export interface Measured extends Cost {
  uploaded: string[]
  unknownKernels: string[]
}

/** Opens the engine's backend on a fresh fake device. */
async function openFake(): Promise<FakeGpu> {
  const gpu = new FakeGpu()
  await openBackend('webgpu', { gpu: gpu as unknown as GPU, variants: 'gpu' })
  return gpu
}

/** Runs `work` three times: pipelines of the first run, what the second costs, and what the last two still compile. */
export function measure(gpu: FakeGpu, work: () => void, known: [string, Int32Array][] = []): Measured {
  const start = { ...gpu.counts }
  work()
  const warm = { ...gpu.counts }
  const before = tf.memory().numTensors
  const log: Seen[] = []
  const uploaded: string[] = []
  gpu.resetPeak()
  gpu.onUpload = (bytes) => uploaded.push(nameOf(bytes, known))
  const stop = observe((seen) => log.push(seen))
  work()
  stop()
  gpu.onUpload = () => {}
  const second = difference(gpu.counts, warm)
  const { flops, dispatches, unknown } = audit(log)
  if (dispatches !== second.dispatches)
    throw new Error(`${second.dispatches - dispatches} dispatches came past the observer of programs.`)
  const peakBytes = gpu.peakBytes
  const tensors = tf.memory().numTensors - before
  work()
  return {
    ...second,
    pipelines: difference(warm, start).pipelines,
    newPipelines: gpu.counts.pipelines - warm.pipelines,
    peakBytes,
    tensors,
    flops,
    uploaded,
    unknownKernels: unknown,
  }
}

/**
 * What an upload holds: the arrays of the batch that are found in it, and how many bytes are something else. Zeros between
 * them, up to where the next may start, are not.
 */
function nameOf(bytes: Uint8Array, known: [string, Int32Array][]): string {
  const words = new Int32Array(bytes.slice(0, bytes.length & ~3).buffer)
  const found: string[] = []
  for (const [name, values] of known) {
    const at = placeOf(words, values)
    if (at < 0) continue
    found.push(name)
    words.fill(0, at, at + values.length)
  }
  const rest = words.reduce((sum, word) => sum + Number(word !== 0), 0) * 4
  if (rest > 0 || found.length === 0) found.push(`${rest || bytes.length} other bytes`)
  return found.join(' + ')
}

/** Where `values` begin in `words`; -1: nowhere. */
function placeOf(words: Int32Array, values: Int32Array): number {
  for (let at = 0; at + values.length <= words.length; at++) {
    let i = 0
    while (i < values.length && words[at + i] === values[i]) i++
    if (i === values.length) return at
  }
  return -1
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

/** The arrays that an upload of a batch may hold, longest first. */
function arraysOf(
  config: RobertaConfig,
  { B, S, input_ids, attention_mask, labels }: HostBatch,
): [string, Int32Array][] {
  return [
    ['input_ids', input_ids],
    ['position_ids', positionIds(input_ids, B, S, config.pad_token_id)],
    ['attention_mask', attention_mask],
    ['padding', new Int32Array(2 * B)],
    ['labels', labels],
  ]
}

export interface Engine {
  gpu: FakeGpu
  model: Model
}

/** The engine on a fresh fake device, with `adapter` and a classification head. */
export async function openEngine(
  config: RobertaConfig,
  adapter: AdapterConfig,
  precision: Precision = 'float32',
): Promise<Engine> {
  const gpu = await openFake()
  const { roberta } = await loadRoberta(config, zeroWeights(config), null, precision)
  const setup = singleSetup('bench', adapter, classificationHead(num_labels))
  const base = new Map(roberta.vars)
  const zeros = setupParameters(config, setup).map(({ key, shape }): [string, HostTensor] => [
    key,
    { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) },
  ])
  if (setup.train.base !== 'none') for (const [key] of zeros) base.delete(key)
  const model = createModel(roberta, setup, new Map(zeros))
  return { gpu, model }
}

/** This engine: prediction of one batch, a step without dropout, and a step with the base model's dropout. */
export async function measureEngine(
  { config, B, S }: Size,
  adapter: AdapterConfig,
): Promise<{ forward: Measured; step: Measured; dropoutStep: Measured }> {
  const { gpu, model } = await openEngine(config, adapter)
  const host = hostBatch(config, B, S)
  const known = arraysOf(config, host)
  const forward = measure(
    gpu,
    () => {
      tf.tidy(() => void predict(model, uploadBatch(config, host)))
    },
    known,
  )
  const stepper = new Stepper(model, host)
  const step = (dropout: boolean) => () => stepper.step(dropout).dispose()
  return {
    forward,
    step: measure(gpu, step(false), known),
    dropoutStep: measure(gpu, step(true), known),
  }
}

/** The plain tape: the same forward and step. */
export async function measureTape(
  { config, B, S }: Size,
  adapter: AdapterConfig,
): Promise<{ forward: Measured; step: Measured }> {
  const gpu = new FakeGpu()
  await openPlain(gpu as unknown as GPU)
  const model = new TapeModel(config, adapter, num_labels)
  const batch = { B, S, labels: num_labels }
  const forward = measure(gpu, () => model.forward(batch).dispose())
  return { forward, step: measure(gpu, () => model.step(batch).dispose()) }
}
