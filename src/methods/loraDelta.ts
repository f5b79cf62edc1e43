/**
 * What LoRA adapters hand to one another on one linear layer: an update of its output or factors for it, and how that
 * is cut, joined and averaged under composition blocks (`LoRAState` of `adapters`).
 */
import type { Tensor2D, Tensor3D } from '@tensorflow/tfjs-core'
import type { AdapterSetup } from '../config.ts'
import type { Matrix, Ops, Vector } from '../model/ops.ts'
import type { Var } from '../model/tape.ts'
import { namesIn } from './composition.ts'
import type { Gate } from './gate.ts'

/** Values for every output: of each token [B·S,out], alike for a row's tokens [B,out], or alike for all [out]. */
export type Part =
  { per: 'token'; value: Matrix } | { per: 'row'; value: Matrix } | { per: 'batch'; value: Vector }

export interface State {
  /** The layer's input [B·S,in]. */
  x: Matrix
  /** null before the first adapter. */
  part: Part | null
  /** The adapter that came last. */
  last: string | null
  /** What these rows were cut from. */
  whole?: State
}

/** Throws where some children of a block have an adapter at this place and others have none, as the library does. */
export function requireEveryPart(setup: AdapterSetup, has: (name: string) => boolean, where: string): void {
  if (typeof setup === 'string') return
  const here = setup.children.map((child) => namesIn(child).some(has))
  const cuts = setup.type === 'Parallel' || setup.type === 'BatchSplit' || setup.type === 'Average'
  if (cuts && here.includes(true) && here.includes(false)) {
    const without = namesIn(setup.children[here.indexOf(false)]!).join(', ')
    throw new Error(
      `${setup.type} needs a LoRA under each of its parts at ${where}, but ${without} has none there.`,
    )
  }
  for (const child of setup.children) requireEveryPart(child, has, where)
}

/** `count` rows of the batch from `start`. */
export function rowsOf(ops: Ops, state: State, start: number, count: number, S: number): State {
  const x = ops.slice(state.x, 0, start * S, count * S)
  const { part, last } = state
  if (part === null || part.per === 'batch') return { x, part, last, whole: state }
  const step = part.per === 'token' ? S : 1
  return {
    x,
    part: { ...part, value: ops.slice(part.value, 0, start * step, count * step) },
    last,
    whole: state,
  }
}

/** The inverse of `rowsOf`: what adapters made of all the rows, in order. */
export function joinRows(ops: Ops, states: State[], S: number): State {
  const { x, whole } = states[0]!.whole!
  const parts = alike(ops, states, S)
  const value = ops.concat(
    parts.map((part) => part.value),
    0,
  )
  return { x, part: parts[0] ? { per: parts[0].per, value } : null, last: states.at(-1)!.last, whole }
}

/** Σ weights[i]·parts[i] */
export function average(ops: Ops, states: State[], weights: number[], S: number): State {
  const [first, ...rest] = alike(ops, states, S)
  const sum = rest.reduce(
    (total, { value }, i) => ops.add(total, value, weights[i + 1]!),
    ops.scale(first!.value, weights[0]!),
  )
  return { ...states[0]!, part: { per: first!.per, value: sum }, last: states.at(-1)!.last }
}

/** The parts in one form. Throws when updates meet factors, which the library cannot put together either. */
function alike(ops: Ops, states: State[], S: number): Exclude<Part, { per: 'batch' }>[] {
  const parts = states.map(({ x, part }) => byRow(ops, part!, x.shape[0] / S))
  if (parts.some(({ per }) => per !== parts[0]!.per))
    throw new Error('LoRA and (IA)³ cannot be parts of one block: one adds to a layer, the other scales it.')
  return parts
}

/** What is alike for all of B rows, written out for each. */
export function byRow(ops: Ops, part: Part, B: number): Exclude<Part, { per: 'batch' }> {
  if (part.per !== 'batch') return part
  const [out] = part.value.shape
  const row = ops.reshape<Tensor2D>(part.value, [1, out])
  return { per: 'row', value: ops.concat(new Array<Matrix>(B).fill(row), 0) }
}

/** Each value times a factor [out]; without values the factors themselves. */
export function times(ops: Ops, part: Part | null, factors: Vector): Part {
  if (part === null) return { per: 'batch', value: factors }
  if (part.per === 'batch') return { per: 'batch', value: ops.mul(part.value, factors) }
  return { per: part.per, value: ops.mul(part.value, factors) }
}

/** Each value times its row's gate [B,1,1]. */
export function open(ops: Ops, part: Part, gate: Gate): Part {
  const [B] = gate.shape
  if (part.per === 'batch') {
    const row = ops.reshape<Tensor2D>(part.value, [1, part.value.shape[0]])
    return { per: 'row', value: ops.matmul(ops.reshape<Tensor2D>(gate, [B, 1]), row) }
  }
  return { per: part.per, value: ops.timesGate(part.value, gate) }
}

/** y [B·S,out] + the values. */
export function addTo(ops: Ops, y: Matrix, part: Part, S: number): Matrix {
  if (part.per === 'token') return ops.add(y, part.value)
  if (part.per === 'batch') return ops.addBroadcast(y, part.value)
  return byTokens(y, part.value, S, (wide, rows) => ops.addBroadcast(wide, rows), ops)
}

/** y [B·S,out] ⊙ the values. */
export function multiply(ops: Ops, y: Matrix, part: Part, S: number): Matrix {
  if (part.per !== 'row') return ops.mul(y, part.value)
  return byTokens(y, part.value, S, (wide, rows) => ops.mul(wide, rows), ops)
}

/** `f` of y as [B,S,out] and rows as [B,1,out], again as [B·S,out]. */
function byTokens(
  y: Matrix,
  rows: Matrix,
  S: number,
  f: (wide: Var<Tensor3D>, rows: Var<Tensor3D>) => Var<Tensor3D>,
  ops: Ops,
): Matrix {
  const [B, out] = rows.shape
  const wide = f(ops.reshape<Tensor3D>(y, [B, S, out]), ops.reshape<Tensor3D>(rows, [B, 1, out]))
  return ops.reshape<Tensor2D>(wide, y.shape)
}
