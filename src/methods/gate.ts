/** Gates of `adapters` (UniPELT, Mao et al. 2022): how much of an adapter's part a text lets through. */
import type { Tensor3D } from '@tensorflow/tfjs-core'
import type { Matrix, Ops, Vector } from '../model/ops.ts'
import type { Var } from '../model/tape.ts'

/** A gate for each row of the batch and, where there are several, for each of k parts. */
export type Gate = Var<Tensor3D> // [B,1,k]

/**
 * The mean over all S tokens of a row, padding too, of sigmoid(x·weightᵀ + bias).
 * x [B·S,in], weight [k,in], bias [k] -> [B,1,k]
 */
export function meanGate(ops: Ops, x: Matrix, weight: Matrix, bias: Vector, B: number): Gate {
  return ops.meanSigmoid(ops.linear(x, weight, bias), B)
}
