/**
 * One walk through the model: its configuration, the batch, and the dropout that strikes on the way. Each dropout
 * site draws its mask from (seed, call, layer, site, element) alone, so the backward pass asks again instead of keeping
 * masks, and a run repeats from its seed on any device.
 */
import type * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../config.ts'
import { dropout } from '../kernels/dropout.ts'
import type { Batch } from './batch.ts'

export interface Pass {
  config: RobertaConfig
  batch: Batch
  /** null in evaluation. */
  noise: Noise | null
}

/** Dropout sites within one layer; the embeddings and the head count as layers of their own. */
export const sites = {
  embeddings: 0,
  probs: 0,
  attention: 1,
  output: 2,
  adapter: 3,
  query: 4,
  key: 5,
  value: 6,
  intermediate: 7,
  ffn: 8,
  headInput: 0,
  headHidden: 1,
} as const

const sitesPerLayer = 16
const sitesPerCall = 4096

/** Dropout of one layer in one forward and backward pass. */
export class Noise {
  /** `call` differs for every pass of a run; layer -1 is the embeddings. `base` false: only adapter and head drop. */
  constructor(
    readonly seed: number,
    readonly call: number,
    readonly base: boolean,
    readonly layer = -1,
  ) {}

  at(layer: number): Noise {
    return new Noise(this.seed, this.call, this.base, layer)
  }

  drop<T extends tf.Tensor>(x: T, rate: number, site: number): T {
    return dropout(
      x,
      rate,
      this.seed,
      Math.imul(this.call, sitesPerCall) + (this.layer + 1) * sitesPerLayer + site,
    )
  }
}

/** Dropout of something trained: `x` with probability `rate` dropped in training, `x` itself otherwise. */
export function drop<T extends tf.Tensor>(noise: Noise | null, x: T, rate: number, site: number): T {
  return noise && rate > 0 ? noise.drop(x, rate, site) : x
}

/** Dropout of the frozen model's own, which a run may switch off. */
export function dropBase<T extends tf.Tensor>(noise: Noise | null, x: T, rate: number, site: number): T {
  return noise?.base ? drop(noise, x, rate, site) : x
}

/** The same pass, seen from one layer. */
export function atLayer(pass: Pass, layer: number): Pass {
  return { ...pass, noise: pass.noise?.at(layer) ?? null }
}
