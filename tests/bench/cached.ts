/** What the cache of frozen features saves: operations of the epochs of one run through the real loop. */
import type { AdapterConfig } from '../../src/config.ts'
import { seqBn } from '../../src/methods/bottleneck.ts'
import { epochsOf, stepsPerEpoch } from './epochs.ts'
import { audit } from './flops.ts'
import { openEngine, type Size } from './measure.ts'
import { observe, type Seen } from './observe.ts'

export interface Cached {
  work: string
  /**
   * Operations and dispatches of one step: live, in the epoch that fills the cache (and in which the run looks once at what
   * its adapter does), and in every later one.
   */
  live: Step
  first: Step
  later: Step
  /** Operations of a live step over those of a later one. */
  ratio: number
}

interface Step {
  flops: number
  dispatches: number
}

/** The head alone, and AdapterDrop 5: seq_bn without adapters in the lowest five layers. */
export async function measureCached(size: Size): Promise<{ head: Cached; adapterDrop: Cached }> {
  const dropped = { ...seqBn, leave_out: [0, 1, 2, 3, 4] }
  return {
    head: await cached(size, 'head', { architecture: 'head' }),
    adapterDrop: await cached(size, 'seq_bn, AdapterDrop 5', dropped),
  }
}

async function cached(size: Size, work: string, adapter: AdapterConfig): Promise<Cached> {
  // With the base's dropout features differ from pass to pass, so that nothing is kept.
  const [, , live] = await stepsOf(size, adapter, true)
  const [first, , later] = await stepsOf(size, adapter, false)
  return { work, live: live!, first: first!, later: later!, ratio: live!.flops / later!.flops }
}

/** The mean step of every epoch. */
async function stepsOf(size: Size, adapter: AdapterConfig, base_dropout: boolean): Promise<Step[]> {
  const { model } = await openEngine(size.config, adapter)
  const log: Seen[] = []
  const found: Step[] = []
  const stop = observe((seen) => log.push(seen))
  try {
    for await (const _ of epochsOf(model, size, { num_train_epochs: 3, base_dropout })) {
      const { flops, dispatches } = audit(log.splice(0))
      found.push({ flops: flops / stepsPerEpoch, dispatches: dispatches / stepsPerEpoch })
    }
  } finally {
    stop()
  }
  return found
}
