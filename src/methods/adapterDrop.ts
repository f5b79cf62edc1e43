/** AdapterDrop (Rücklé et al. 2021): the lowest layers go without their adapters, always or by the step. */
import type { AdapterDrop } from '../config.ts'
import { TorchGenerator } from '../random.ts'

/** Keeps the draws of the schedule apart from those of data and dropout. */
const stream = 0x5eed

/** Why a schedule does not fit a model of `num_hidden_layers` layers, in a sentence; null when it does. */
export function dropProblem({ mode, layers }: AdapterDrop, num_hidden_layers: number): string | null {
  const most = num_hidden_layers - 1
  if (mode !== 'fixed' && mode !== 'random')
    return `AdapterDrop is “${String(mode)}”; it must be fixed or random.`
  if (Number.isInteger(layers) && layers >= 0 && layers <= most) return null
  return `AdapterDrop of ${layers} layers does not fit: it must be a whole number from 0 to ${most}, so that one layer keeps its adapter.`
}

/**
 * `skip_layers` of one optimiser step: layers 0 to n - 1. The same step of the same seed always drops the same, so a
 * run that was cut off goes on as it would have.
 */
export function skippedLayers({ mode, layers }: AdapterDrop, seed: number, step: number): number[] {
  const n = mode === 'fixed' ? layers : drawn(seed, step) % (layers + 1)
  return Array.from({ length: n }, (_, l) => l)
}

/** 32 bits for a step; the seed and the step are mixed so that neighbours share nothing. */
function drawn(seed: number, step: number): number {
  const mixed = Math.imul(seed ^ stream, 0x9e3779b1) ^ Math.imul(step + 1, 0x85ebca6b)
  return new TorchGenerator(mixed >>> 0).next32()
}
