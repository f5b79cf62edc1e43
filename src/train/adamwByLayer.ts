/**
 * AdamW where some layers' adapters are passed by in a step (AdapterDrop): as in torch, a tensor without a gradient is
 * left alone, with its moments, and its own count of steps stands still.
 */
import * as tf from '@tensorflow/tfjs-core'
import { adamw, type AdamWArguments, type AdamWState } from '../kernels/adamw.ts'
import { layerPassedBy, type Layout } from '../model/params.ts'

/** Optimiser steps that the adapters of each layer have missed so far. */
export type Missed = ReadonlyMap<number, number>

/** One step over every tensor by itself. Disposes `state`'s tensors and returns new ones; keeps `g`. */
export function adamwByLayer(
  { p, m, v, step }: AdamWState,
  g: tf.Tensor1D,
  layout: Layout,
  args: Omit<AdamWArguments, 'decayed'>,
  skip_layers: number[],
  missed: Missed,
): AdamWState {
  const next = tf.tidy(() => {
    const parts = layout.slots.map(({ key, offset, size }) => {
      const cut = (whole: tf.Tensor1D) => tf.slice(whole, offset, size)
      const layer = layerPassedBy(key)
      const own = { p: cut(p), m: cut(m), v: cut(v) }
      if (layer !== null && skip_layers.includes(layer)) return own
      const taken = step - (layer === null ? 0 : (missed.get(layer) ?? 0))
      const decayed = offset < layout.decayed ? size : 0
      return adamw({ ...own, step: taken }, cut(g), { ...args, decayed })
    })
    const whole = (part: 'p' | 'm' | 'v') => tf.concat1d(parts.map((one) => one[part]))
    return { p: whole('p'), m: whole('m'), v: whole('v') }
  })
  tf.dispose([p, m, v])
  return { ...next, step: step + 1 }
}

/** `missed` after one more step that passed `skip_layers` by. */
export function missing(missed: Missed, skip_layers: number[]): Missed {
  const next = new Map(missed)
  for (const layer of skip_layers) next.set(layer, (next.get(layer) ?? 0) + 1)
  return next
}
