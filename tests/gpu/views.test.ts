/** Views of one memory and the pool that reuses freed buffers before commands are submitted, on WebGPU. */
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { addScaled } from '../../src/kernels/addScaled.ts'
import { gpuBytes, openBackend, uploadTensor } from '../../src/kernels/backend.ts'
import { copyInto } from '../../src/kernels/copy.ts'
import { placesOf } from '../../src/kernels/places.ts'
import { sizeClass } from '../../src/kernels/pool.ts'
import { alignment, joined, uploadTogether, viewOf, whereOf } from '../../src/kernels/views.ts'
import { positionIds } from '../../src/model/batch.ts'

const errors: string[] = []
beforeAll(async () => void (await openBackend('webgpu', { onError: (message) => errors.push(message) })))

const numbers = (n: number, from = 0) => Float32Array.from({ length: n }, (_, i) => from + i)

describe('views', () => {
  test('a view is read, computed with and written into where it lies', async () => {
    const flat = uploadTensor<tf.Rank.R1>(numbers(256), [256])
    const view = viewOf<tf.Tensor2D>(flat, 64, [5, 7])
    expect(await view.data()).toEqual(numbers(35, 64))
    expect(await tf.tidy(() => tf.add(view, 1)).data()).toEqual(numbers(35, 65))
    expect(await tf.tidy(() => addScaled(view, view, 1)).data()).toEqual(numbers(35, 64).map((x) => 2 * x))
    copyInto(view, uploadTensor(new Float32Array(35), [35]))
    expect(await view.data()).toEqual(new Float32Array(35))
    const all = await tf.tidy(() => tf.mul(flat, 1)).data()
    expect([...all.slice(60, 64), ...all.slice(99, 102)]).toEqual([60, 61, 62, 63, 99, 100, 101])
  })

  test('a view outlives the tensor it lies in, and the memory goes with the last of them', async () => {
    await tf.backend().read(uploadTensor(numbers(4), [4]).dataId)
    const { numTensors, numDataBuffers } = tf.memory()
    const flat = uploadTensor<tf.Rank.R1>(numbers(640), [640])
    const [one, two] = [viewOf(flat, 0, [64]), viewOf(flat, 128, [64])]
    const inner = viewOf(two, 0, [32])
    expect(whereOf(inner)).toMatchObject({ offset: 128 })
    tf.dispose([flat, one, two])
    const noise = tf.tidy(() => tf.add(uploadTensor(numbers(640), [640]), 1))
    expect(await inner.data()).toEqual(numbers(32, 128))
    tf.dispose([inner, noise])
    expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers })
  })

  test('neighbours are found as one tensor; a gap, another memory or a plain tensor is not', async () => {
    const parts = [0, 1, 2].map((i) => ({ data: numbers(64, 100 * i), shape: [8, 8] }))
    const [a, b, c] = uploadTogether(parts) as [tf.Tensor, tf.Tensor, tf.Tensor]
    const whole = joined([a, b, c])!
    expect(await whole.data()).toEqual(
      Float32Array.from([0, 100, 200].flatMap((from) => [...numbers(64, from)])),
    )
    expect(await joined([b, c])!.data()).toHaveLength(128)
    expect(joined([a, c])).toBeNull()
    expect(joined([b, a])).toBeNull()
    expect(joined([a, uploadTensor(numbers(64), [64])])).toBeNull()
  })

  test('a view between two places or beyond the end is refused', () => {
    const flat = uploadTensor<tf.Rank.R1>(numbers(100), [100])
    expect(() => viewOf(flat, 10, [2])).toThrow('cannot start at 10 of 100')
    expect(() => viewOf(flat, alignment, [64])).toThrow('cannot start at 64 of 100')
  })
})

test('positions made on the device are those of the host, padded left or right', async () => {
  const [B, S, pad] = [4, 9, 1]
  const rows = [
    [5, 6, 7, 1, 1, 1, 1, 1, 1],
    [1, 1, 5, 6, 7, 8, 1, 1, 1],
    [1, 1, 1, 1, 1, 1, 1, 1, 9],
    [2, 3, 4, 5, 6, 7, 8, 9, 9],
  ]
  const isText = (id: number) => id !== pad
  const around = rows.flatMap((row) => [row.findIndex(isText), S - 1 - row.findLastIndex(isText)])
  const padding = uploadTensor<tf.Rank.R2>(Int32Array.from(around), [B, 2])
  const expected = positionIds(Int32Array.from(rows.flat()), B, S, pad)
  expect(await placesOf(padding, S, pad).data()).toEqual(expected)
})

describe('the pool', () => {
  test('a freed buffer serves the next program, and nothing is overtaken', async () => {
    const x = uploadTensor<tf.Rank.R1>(numbers(1 << 16), [1 << 16])
    await x.data()
    const before = gpuBytes()
    let y = tf.keep(addScaled(x, x, 1))
    for (let i = 0; i < 40; i++) {
      const next = tf.keep(addScaled(y, x, 1))
      y.dispose()
      y = next
      // An upload in between must not reach a buffer that an earlier command still reads.
      if (i % 7 === 0) uploadTensor(new Float32Array(1 << 16).fill(-1), [1 << 16]).dispose()
    }
    expect(gpuBytes() - before).toBeLessThanOrEqual(4 * (4 << 16))
    expect(await y.data()).toEqual(numbers(1 << 16).map((v) => 42 * v))
    expect(errors).toEqual([])
  })

  test('sizes come in sixteen classes between a size and its double', () => {
    const classes = new Set(Array.from({ length: 1 << 16 }, (_, i) => sizeClass((1 << 16) + 1 + i)))
    expect(classes.size).toBe(16)
    for (const size of [4, 5000, 12_582_912, 154_413_056]) {
      expect(sizeClass(size)).toBeGreaterThanOrEqual(size)
      expect(sizeClass(size)).toBeLessThanOrEqual(Math.max(256, size * 1.0625))
    }
  })
})
