/** The bottleneck's references on the host backends; its programs are tested in gpu/bottleneck.test.ts. */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { openBackend } from '../src/kernels/backend.ts'
import {
  bottleneckDown,
  bottleneckDownBackward,
  bottleneckUpBackward,
  bottleneckWeightBackward,
} from '../src/kernels/bottleneck.ts'
import { aligned, viewOf } from '../src/kernels/views.ts'
import { FakeGpu } from './bench/fakeDevice.ts'
import { declareBottleneck } from './kernels/bottleneck.ts'

describe.each(['cpu', 'wasm'] as const)('bottleneck on %s', (kind) => {
  beforeAll(async () => void (await openBackend(kind)))
  let before = 0
  beforeEach(() => void (before = tf.memory().numTensors))
  afterEach(() => expect(tf.memory().numTensors, 'tensors left over').toBe(before))
  declareBottleneck()
})

test('dispatches of a bottleneck on a GPU', async () => {
  const gpu = new FakeGpu()
  await openBackend('webgpu', { gpu: gpu as unknown as GPU, variants: 'gpu' })
  const [N, H, R] = [4096, 768, 48]
  const norm = { weight: tf.zeros<tf.Rank.R1>([H]), bias: tf.zeros<tf.Rank.R1>([H]), eps: 1e-5 }
  const [x, down, up] = [
    [N, H],
    [R, H],
    [H, R],
  ].map((shape) => tf.zeros<tf.Rank.R2>(shape as [number, number]))
  const shapes = [[R, H], [R], [H, R], [H]]
  const sizes = shapes.map((shape) => aligned(tf.util.sizeFromShape(shape)))
  const flat = tf.zeros([sizes.reduce((sum, size) => sum + size)])
  const slots = shapes.map((shape, i) =>
    viewOf(
      flat,
      sizes.slice(0, i).reduce((sum, size) => sum + size, 0),
      shape,
    ),
  )
  const counted = <T>(f: () => T): [T, number] => {
    const before = gpu.counts.dispatches
    return [f(), gpu.counts.dispatches - before]
  }
  const [{ pre, a }, forward] = counted(() => bottleneckDown(x!, norm, down!, tf.zeros([R]), 'relu'))
  const [{ dt, dpre }, upward] = counted(() => bottleneckUpBackward(x!, x!, norm, up!, 'relu', pre, 2))
  const pass = { x: x!, norm, a, dpre, dt, factor: 2 }
  const [, weights] = counted(() => bottleneckWeightBackward(pass, slots))
  const [, downward] = counted(() => bottleneckDownBackward(dpre, down!, x!, norm, dt))
  expect({ forward, upward, weights, downward }).toEqual({ forward: 1, upward: 1, weights: 2, downward: 1 })
})
