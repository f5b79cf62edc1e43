/** What an epoch costs once features are kept: arithmetic and dispatches, counted on a device that executes nothing. */
import { describe, expect, it } from 'vitest'
import type { AdapterConfig } from '../src/config.ts'
import type { Encoded } from '../src/data/batches.ts'
import { seqBn } from '../src/methods/bottleneck.ts'
import { disposeModel } from '../src/model/model.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { memoryAlone, type RowRoom } from '../src/train/keptRows.ts'
import { train } from '../src/train/train.ts'
import { trainingDefaults } from '../src/trainingArguments.ts'
import { audit } from './bench/flops.ts'
import { openEngine } from './bench/measure.ts'
import { observe, type Seen } from './bench/observe.ts'

/** roberta-base's twelve layers, a sixth as wide: shares of the arithmetic are much the same. */
const config = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 300,
    hidden_size: 128,
    num_hidden_layers: 12,
    num_attention_heads: 4,
    intermediate_size: 512,
    max_position_embeddings: 130,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

const rows = 32
const tokens = 64

function texts(n: number, from: number): Encoded {
  const input_ids = Array.from({ length: n }, (_, row) =>
    Int32Array.from({ length: tokens }, (_, i) => 5 + ((from + row * 13 + i * 7) % 290)),
  )
  return { input_ids, labels: Int32Array.from({ length: n }, (_, i) => i % 2) }
}

interface Epoch {
  flops: number
  dispatches: number
  uploadBytes: number
}

/** The second epoch of a run, with `validation` its evaluation included. */
async function secondEpoch(adapter: AdapterConfig, room: RowRoom | null, validation: number): Promise<Epoch> {
  const { gpu, model } = await openEngine(config, adapter)
  const args = {
    ...trainingDefaults,
    per_device_train_batch_size: 8,
    num_train_epochs: 2,
    base_dropout: false,
    load_best_model_at_end: false,
  }
  const data = { train: texts(rows, 0), validation: texts(validation, 1) }
  const steps = rows / args.per_device_train_batch_size
  const log: Seen[] = []
  let uploaded = 0
  let stop = () => {}
  for await (const event of train(model, data, args, null, null, room)) {
    if (event.type !== 'tick' || event.step !== steps) continue
    uploaded = gpu.counts.uploadBytes
    stop = observe((seen) => log.push(seen))
  }
  stop()
  const uploadBytes = gpu.counts.uploadBytes - uploaded
  disposeModel(model)
  const { flops, dispatches } = audit(log)
  return { flops, dispatches, uploadBytes }
}

const dropped: AdapterConfig = { ...seqBn, leave_out: [0, 1, 2, 3, 4] }

describe('an epoch after the first', () => {
  it('of a head alone takes less than a hundredth of the arithmetic and a fraction of the dispatches', async () => {
    const live = await secondEpoch({ architecture: 'head' }, null, 8)
    const kept = await secondEpoch({ architecture: 'head' }, memoryAlone, 8)
    expect(live.flops / kept.flops).toBeGreaterThan(100)
    expect(live.dispatches / kept.dispatches).toBeGreaterThan(4)
    // One vector a text for each pass over it.
    expect(kept.uploadBytes).toBeLessThan(1.5 * 4 * config.hidden_size * (rows + 8))
  })

  it('with the lowest 5 of 12 layers left out takes 1.7 times less than with an adapter in each', async () => {
    const everywhere = await secondEpoch(seqBn, memoryAlone, 0)
    const live = await secondEpoch(dropped, null, 0)
    const kept = await secondEpoch(dropped, memoryAlone, 0)
    expect(everywhere.flops / kept.flops).toBeGreaterThan(1.7)
    expect(live.flops / kept.flops).toBeGreaterThan(1.3)
  })
})
