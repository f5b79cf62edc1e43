/** AdamW with clipping against double precision, step by step, on whatever backend is open. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { adamw, adamwState, type AdamWState, type Stretch } from '../../src/kernels/adamw.ts'
import { clipped } from '../../src/kernels/clip.ts'
import { l2Norm } from '../../src/kernels/sum.ts'
import { readVector } from '../../src/train/best.ts'
import { agree, random, vector } from './harness.ts'
import { adamwTruth, worstError, type AdamWTruth } from './truth.ts'

const rates = { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 }

/** Gradients of many sizes, small enough at some steps not to be clipped to 1. */
export function gradients(n: number, steps: number): Float32Array[] {
  return Array.from({ length: steps }, (_, t) =>
    random(n).map((value, i) => value * 10 ** ((i % 7) - (t % 3 === 2 ? 9 : 5))),
  )
}

/** One step with the gradient clipped to a norm of 1; disposes what it makes but the state. */
export function clippedStep(
  state: AdamWState,
  g: Float32Array,
  decayed: number,
  stretches?: Stretch[],
): AdamWState {
  const gradient = vector(g)
  const { state: next, grad_norm } = adamw(state, gradient, { ...rates, decayed, max_norm: 1 }, stretches)
  tf.dispose([gradient, grad_norm])
  return next
}

function clippedTruth(g: Float32Array): Float64Array {
  const norm = Math.sqrt(g.reduce((sum, value) => sum + value ** 2, 0))
  return Float64Array.from(g, (value) => value * Math.min(1, 1 / (norm + 1e-6)))
}

const start = (p: Float32Array): AdamWTruth => {
  const zeros = () => Array<number>(p.length).fill(0)
  return { p: [...p], m: zeros(), v: zeros() }
}

/** Expects p, m and v near the truth; reads them anew, whatever was read before. */
async function expectNear(state: AdamWState, truth: AdamWTruth): Promise<void> {
  for (const name of ['p', 'm', 'v'] as const)
    expect(worstError(await readVector(state[name]), truth[name])).toBeLessThan(2e-6)
}

export function declareOptimiser(): void {
  test('clipped clips long gradients and leaves short ones', async () => {
    const g = random(1000)
    const norm = Math.hypot(...g)
    for (const max_norm of [norm / 3, norm * 3]) {
      const factor = Math.min(1, max_norm / (norm + 1e-6))
      await agree(
        () => clipped(vector(g), l2Norm(vector(g)), max_norm),
        g.map((value) => value * factor),
      )
    }
  })

  test.each([
    [1, 0],
    [33, 5],
    [64, 64],
    [1003, 700],
  ])('30 steps of AdamW on %i elements, %i of them decayed, read after each', async (n, decayed) => {
    const p = random(n)
    const gs = gradients(n, 30)
    let truth = start(p)
    let state = adamwState(vector(p))
    for (const [i, g] of gs.entries()) {
      await expectNear(state, truth)
      state = clippedStep(state, g, decayed)
      truth = adamwTruth(truth, clippedTruth(g), i + 1, { ...rates, decayed })
    }
    await expectNear(state, truth)
    expect(state.step).toBe(30)
    tf.dispose([state.p, state.m, state.v])
  })

  test('steps that are not clipped give their norm all the same, and go on from the moments of earlier ones', async () => {
    const [n, decayed] = [70, 9]
    const p = random(n)
    const gs = gradients(n, 4)
    let truth = start(p)
    let state = adamwState(vector(p))
    for (const [i, g] of gs.entries()) {
      const gradient = vector(g)
      const next = adamw(state, gradient, { ...rates, decayed, max_norm: 0 })
      state = next.state
      expect(worstError(await next.grad_norm.data<'float32'>(), [Math.hypot(...g)])).toBeLessThan(2e-6)
      tf.dispose([gradient, next.grad_norm])
      truth = adamwTruth(truth, g, i + 1, { ...rates, decayed })
      if (i !== 1) continue
      const kept = [await readVector(state.p), await readVector(state.m), await readVector(state.v)] as const
      tf.dispose([state.p, state.m, state.v])
      state = adamwState(vector(kept[0]), { m: vector(kept[1]), v: vector(kept[2]), step: state.step })
    }
    await expectNear(state, truth)
    tf.dispose([state.p, state.m, state.v])
  })

  test('a step that moves nothing still counts and gives its norm', async () => {
    const p = random(300)
    const gradient = vector(random(300).fill(0.5))
    const { state, grad_norm } = adamw(
      adamwState(vector(p)),
      gradient,
      { ...rates, decayed: 9, max_norm: 1 },
      [{ size: 300, step: null }],
    )
    expect(state.step).toBe(1)
    expect(await readVector(state.p)).toEqual(p)
    expect((await grad_norm.data())[0]).toBeCloseTo(Math.sqrt(75), 5)
    tf.dispose([state.p, state.m, state.v, gradient, grad_norm])
  })

  test('stretches that are left alone at times keep their moments and their own count', async () => {
    const sizes = [50, 1, 77]
    const n = sizes.reduce((a, b) => a + b)
    const p = random(n)
    const decayed = 60
    const rests = (part: number, t: number) => part === 1 || (part === 2 && t % 3 === 1)
    const counts = sizes.map(() => 0)
    let truth = start(p)
    let state = adamwState(vector(p))
    for (const [t, g] of gradients(n, 10).entries()) {
      const stretches = sizes.map((size, i) => ({ size, step: rests(i, t) ? null : counts[i]! }))
      state = clippedStep(state, g, decayed, stretches)
      const whole = clippedTruth(g)
      const next = { p: [...truth.p], m: [...truth.m], v: [...truth.v] }
      sizes.forEach((size, i) => {
        if (rests(i, t)) return
        const moved = adamwTruth(truth, whole, ++counts[i]!, { ...rates, decayed })
        const first = sizes.slice(0, i).reduce((a, b) => a + b, 0)
        for (const name of ['p', 'm', 'v'] as const)
          next[name].splice(first, size, ...moved[name].slice(first, first + size))
      })
      truth = next
    }
    await expectNear(state, truth)
    tf.dispose([state.p, state.m, state.v])
  })
}
