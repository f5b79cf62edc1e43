/**
 * AdamW where some layers' adapters are passed by in a step (AdapterDrop): as in torch, a tensor without a gradient is
 * left alone, with its moments, and its own count of steps stands still.
 */
import type { Stretch } from '../kernels/adamw.ts'
import { layerPassedBy, type Layout } from '../model/params.ts'

/** Optimiser steps that the adapters of each layer have missed so far. */
export type Missed = ReadonlyMap<number, number>

/**
 * The flat vector as stretches of tensors with one count of steps, null in a layer that is passed by now; `step`: steps
 * that the run has done.
 */
export function stretchesOf(layout: Layout, step: number, skip_layers: number[], missed: Missed): Stretch[] {
  const stretches: Stretch[] = []
  layout.slots.forEach(({ key, offset }, i) => {
    const layer = layerPassedBy(key)
    const size = (layout.slots[i + 1]?.offset ?? layout.size) - offset
    const passedBy = layer !== null && skip_layers.includes(layer)
    const taken = passedBy ? null : step - (layer === null ? 0 : (missed.get(layer) ?? 0))
    const last = stretches.at(-1)
    if (last?.step === taken) last.size += size
    else stretches.push({ size, step: taken })
  })
  return stretches
}

/** `missed` after one more step that passed `skip_layers` by. */
export function missing(missed: Missed, skip_layers: number[]): Missed {
  const next = new Map(missed)
  for (const layer of skip_layers) next.set(layer, (next.get(layer) ?? 0) + 1)
  return next
}
