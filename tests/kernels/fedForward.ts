/** A layer's second half in few programs against the same in plain operations: its value and every gradient. */
import * as tf from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { Ops, type Matrix, type Vector } from '../../src/model/ops.ts'
import { Tape, Var, type TapeKeeping } from '../../src/model/tape.ts'
import { matrix, random, vector } from './harness.ts'
import { worstError } from './truth.ts'

/** What is trained; all that are left out are frozen. */
type Trained = Partial<Record<(typeof names)[number], boolean>>
const names = ['x', 'residual', 'upWeight', 'upBias', 'downWeight', 'downBias'] as const

interface Case {
  sizes: [N: number, K: number, I: number]
  trained: Trained
  /** Where the residual comes from. */
  residual: 'x' | 'another' | 'none'
  rate: number
  /** x has another reader after this one, whose gradient comes first. */
  readAgain?: boolean
}

type Leaves = Record<(typeof names)[number], Var>

function leavesOf({ sizes: [N, K, I], trained }: Case): Leaves {
  const make = (name: keyof Trained, tensor: tf.Tensor) => new Var(tensor, trained[name] ?? false, true)
  return {
    x: make('x', matrix(random(N * K), K)),
    residual: make('residual', matrix(random(N * K), K)),
    upWeight: make('upWeight', matrix(random(I * K), K)),
    upBias: make('upBias', vector(random(I))),
    downWeight: make('downWeight', matrix(random(I * K), I)),
    downBias: make('downBias', vector(random(K))),
  }
}

/** y and the gradients of what is trained, in the order of `names`; freed but for those. */
function pass(given: Case, leaves: Leaves, fused: boolean, keeping: TapeKeeping): tf.Tensor[] {
  const tape = new Tape(keeping)
  const ops = new Ops(tape, { seed: 3, call: 1 })
  const x = leaves.x as Matrix
  const up = { weight: leaves.upWeight as Matrix, bias: leaves.upBias as Vector }
  const down = { weight: leaves.downWeight as Matrix, bias: leaves.downBias as Vector }
  const residual = { x, another: leaves.residual as Matrix, none: null }[given.residual]
  const { rate } = given
  const run = () => {
    if (fused) return ops.feedForward('gelu', x, { up, down }, { rate, residual })
    const h = ops.activation('gelu', ops.linear(x, up.weight, up.bias))
    const y = ops.dropout(ops.linear(h, down.weight, down.bias), rate)
    return residual ? ops.add(y, residual) : y
  }
  const y = tape.scope(() => (given.readAgain ? ops.add(run(), ops.scale(x, 0.5)) : run()))
  if (!keeping.records) return [y.tensor]
  const dy = tf.keep(tf.cos(y.tensor))
  const grads = tape.backward([[y, dy]])
  dy.dispose()
  const own = names.map((name) => leaves[name]).filter(({ trained }) => trained)
  return [y.tensor, ...own.map((leaf) => grads.get(leaf)!)]
}

const all: Trained = { x: true, upWeight: true, upBias: true, downWeight: true, downBias: true }
const cases: [string, Case][] = [
  ['adapters below', { sizes: [9, 12, 20], trained: { x: true }, residual: 'x', rate: 0.2 }],
  ['x read again', { sizes: [9, 12, 20], trained: { x: true }, residual: 'x', rate: 0, readAgain: true }],
  ['everything trained', { sizes: [9, 12, 20], trained: all, residual: 'x', rate: 0.2 }],
  ['odd sizes', { sizes: [7, 5, 11], trained: { ...all, residual: true }, residual: 'another', rate: 0 }],
  ['no residual', { sizes: [9, 12, 20], trained: all, residual: 'none', rate: 0.2 }],
  ['an x that is not trained', { sizes: [9, 12, 20], trained: { upBias: true }, residual: 'x', rate: 0 }],
  ['the second weight alone', { sizes: [9, 12, 20], trained: { downWeight: true }, residual: 'x', rate: 0 }],
  ['a large h', { sizes: [516, 4, 2064], trained: { downWeight: true }, residual: 'x', rate: 0.2 }],
  ['the second bias alone', { sizes: [9, 12, 20], trained: { downBias: true }, residual: 'x', rate: 0 }],
]

/** Declares them for the backend that is open. */
export function declareFedForward(): void {
  test.each(cases)('two products and the activation between them: %s', async (_, given) => {
    const leaves = leavesOf(given)
    const before = tf.memory().numTensors
    const [ours, plain] = [true, false].map((fused) =>
      pass(given, leaves, fused, { records: true, halves: false, inHalf: false }),
    )
    expect(ours!.length).toBe(1 + Object.keys(given.trained).length)
    expect(plain!.length).toBe(ours!.length)
    for (const [i, tensor] of ours!.entries())
      expect(worstError(await tensor.data(), await plain![i]!.data()), `result ${i}`).toBeLessThan(1e-5)
    const [evaluated] = pass(given, leaves, true, { records: false, halves: false, inHalf: false })
    expect(worstError(await evaluated!.data(), await plain![0]!.data())).toBeLessThan(1e-5)
    tf.dispose([ours!, plain!, evaluated!])
    expect(tf.memory().numTensors, 'tensors left over').toBe(before)
    tf.dispose(Object.values(leaves).map(({ tensor }) => tensor))
  })
}
