/** Times at RoBERTa-base size on a real GPU, each section by itself: what one leaves behind cannot slow another. */
import * as tf from '@tensorflow/tfjs-core'
import { classificationHead, type RobertaConfig } from '../../../src/config.ts'
import { attention, attentionBackward } from '../../../src/kernels/attention.ts'
import { openedDevice, uploadTensor } from '../../../src/kernels/backend.ts'
import { uploadBatch } from '../../../src/model/batch.ts'
import { loadRoberta } from '../../../src/model/loadRoberta.ts'
import {
  createModel,
  disposeModel,
  predict,
  setupParameters,
  singleSetup,
  type Model,
} from '../../../src/model/model.ts'
import { flatten } from '../../../src/model/params.ts'
import { disposeRoberta, type Roberta } from '../../../src/model/roberta.ts'
import { madeUpTensors, madeUpWeights, uniform } from '../../madeUp.ts'
import { compare, runs, time, type Ratio, type Timing } from '../clock.ts'
import { configOf, measured, type MeasuredMethod } from '../methods.ts'
import { need } from '../need.ts'
import { flopsOf, nameOf, products, ways } from '../products.ts'
import { hostBatch, num_labels, Stepper } from '../steps.ts'
import { plainly, TapeModel } from '../tape.ts'

/** One line of a table: what was timed, and its arithmetic. */
export interface Timed {
  name: string
  timing: Timing
  flops: number
}

export interface Size {
  config: RobertaConfig
  B: number
  S: number
}

/** Products, ours and then how many times as long tfjs's take. */
export async function timeProducts(): Promise<(Timed & { tfjs: Ratio })[]> {
  const found: (Timed & { tfjs: Ratio })[] = []
  for (const product of products()) {
    const { ours, theirs, dispose } = ways(product)
    const timing = await time(ours)
    const tfjs = await compare(runs(theirs, 10), runs(ours, 10))
    found.push({ name: nameOf(product), timing, flops: flopsOf(product), tfjs })
    dispose()
  }
  return found
}

/** Attention alone, forward and backward, with 4,096 tokens whatever their length. */
export async function timeAttention(): Promise<Timed[]> {
  const found: Timed[] = []
  const [heads, H] = [12, 768]
  for (const S of [128, 256, 512]) {
    const B = 4096 / S
    const make = (name: string) =>
      uploadTensor<tf.Rank.R2>(Float32Array.from(uniform(name, B * S * H)), [B * S, H])
    const [q, k, v, dO] = [make('q'), make('k'), make('v'), make('dO')]
    const padding = uploadTensor<tf.Rank.R2>(new Int32Array(2 * B), [B, 2])
    const sizes = { B, N: heads, scale: 1 / 8 }
    const forward = () => {
      const { o, lse } = attention(q, k, v, padding, sizes, null)
      lse.dispose()
      return o
    }
    const { o, lse } = attention(q, k, v, padding, sizes, null)
    const backward = () => {
      const { dq, dk, dv } = attentionBackward(dO, q, k, v, o, lse, padding, sizes, null)
      tf.dispose([dk, dv])
      return dq
    }
    const product = 2 * B * S * S * H
    found.push({ name: `attention, S ${S}`, timing: await time(forward), flops: 2 * product })
    found.push({ name: `attention backward, S ${S}`, timing: await time(backward), flops: 5 * product })
    tf.dispose([q, k, v, dO, padding, o, lse])
  }
  return found
}

/** A forward pass and a step of every method, and of seq_bn a step with dropout. */
export async function timeSteps(size: Size): Promise<Timed[]> {
  const found: Timed[] = []
  const roberta = await madeUpBase(size.config)
  for (const method of measured) found.push(...(await timeMethod(roberta, size, method)))
  disposeRoberta(roberta)
  return found
}

/** A base with made-up weights, its table in blocks where the device binds less than the whole of it. */
async function madeUpBase(config: RobertaConfig): Promise<Roberta> {
  const { maxStorageBufferBindingSize } = openedDevice().limits
  return (await loadRoberta(config, madeUpWeights(config), maxStorageBufferBindingSize)).roberta
}

async function timeMethod(roberta: Roberta, size: Size, method: MeasuredMethod): Promise<Timed[]> {
  const { config, B, S } = size
  const { forward, backward } = need(size, configOf(method), num_labels)
  const { model, start } = standing(roberta, method)
  const host = hostBatch(config, B, S)
  const found: Timed[] = []
  if (method === 'seq_bn')
    found.push({ name: 'forward', timing: await time(forwardOf(model, host)), flops: forward })
  const stepper = new Stepper(model, host, start)
  const flops = forward + backward
  found.push({ name: `${method} step`, timing: await time(() => stepper.step(false)), flops })
  if (method === 'seq_bn')
    found.push({ name: `${method} step, dropout`, timing: await time(() => stepper.step(true)), flops })
  stepper.dispose()
  disposeModel(model)
  return found
}

/** A method with a head on a loaded base, made up. */
export function standing(roberta: Roberta, method: MeasuredMethod): { model: Model; start: Float32Array } {
  const setup = singleSetup('m', configOf(method), classificationHead(num_labels))
  const parameters = setupParameters(roberta.config, setup)
  const tensors = madeUpTensors(parameters.map(({ key, shape }): [string, number[]] => [key, shape]))
  const model = createModel(roberta, setup, tensors)
  return { model, start: flatten(model.layout, tensors) }
}

/** Logits of a batch, uploaded anew each time. */
export function forwardOf(model: Model, host: ReturnType<typeof hostBatch>): () => tf.Tensor {
  return () => tf.tidy(() => predict(model, uploadBatch(model.roberta.config, host)).logits)
}

/** How many times as long a seq_bn step and a forward take on the plain tape, interleaved with ours. */
export async function timeTape(size: Size, pairs: number): Promise<{ name: string; ratio: Ratio }[]> {
  const { config, B, S } = size
  const roberta = await madeUpBase(config)
  const { model, start } = standing(roberta, 'seq_bn')
  const host = hostBatch(config, B, S)
  const stepper = new Stepper(model, host, start)
  const tape = plainly(() => new TapeModel(config, configOf('seq_bn'), num_labels))
  const batch = { B, S, labels: num_labels }
  const step = await compare(
    runs(() => plainly(() => tape.step(batch))),
    runs(() => stepper.step(false)),
    pairs,
  )
  const forward = await compare(
    runs(() => plainly(() => tape.forward(batch))),
    runs(forwardOf(model, host)),
    pairs,
  )
  tape.dispose()
  stepper.dispose()
  disposeModel(model)
  disposeRoberta(roberta)
  return [
    { name: `seq_bn step, batch ${B}`, ratio: step },
    { name: `seq_bn forward, batch ${B}`, ratio: forward },
  ]
}
