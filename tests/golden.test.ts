/**
 * Against the project's independent set of numbers, `../shared/golden`, made apart from tests/parity with an older
 * `adapters`. Skipped where that folder is not beside the repository.
 */
import { existsSync, readFileSync } from 'node:fs'
import { beforeAll, describe, expect, test } from 'vitest'
import { classificationHead, type AdapterConfig, type LoRAMatrix, type TensorMap } from '../src/config.ts'
import { openBackend, type DeviceReport } from '../src/kernels/backend.ts'
import type { WeightSource } from '../src/model/loadRoberta.ts'
import { createModel } from '../src/model/model.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import type { StoredBatch } from './fixtures.ts'
import { compareEvaluated, furthest, hiddenStates, hostBatch, withBase } from './parity.engine.ts'

interface Golden {
  shape: number[]
  data: number[]
}

interface GoldenBase {
  model_config: object
  weights: Record<string, Golden>
  input_ids: number[][]
  attention_mask: number[][]
  last_hidden_state: Golden
}

interface GoldenMethod extends StoredBatch {
  adapter_config: Record<string, unknown>
  weights: Record<string, Golden>
  last_hidden_state: Golden
  logits: Golden
  loss: number
  grads: Record<string, Golden>
}

const folder = new URL('../../shared/golden/', import.meta.url)
const present = existsSync(folder)
const read = <T>(name: string): T => JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8')) as T

function tensors(named: Record<string, Golden>): TensorMap {
  return new Map(
    Object.entries(named).map(([key, { shape, data }]) => [key, { shape, data: Float32Array.from(data) }]),
  )
}

function source(all: TensorMap): WeightSource {
  return {
    names: () => [...all.keys()],
    shape: (name) => all.get(name)!.shape,
    read: async (name) => all.get(name)!.data,
    async *readChunks(name) {
      yield all.get(name)!.data
    },
  }
}

/** The library's config dict as ours. */
function adapterOf(config: Record<string, unknown>): AdapterConfig {
  const shared = { leave_out: config.leave_out as number[], dropout: config.dropout as number }
  if (config.architecture !== 'lora')
    return { method: 'seq_bn', reduction_factor: config.reduction_factor as number, ...shared }
  return {
    method: 'lora',
    r: config.r as number,
    alpha: config.alpha as number,
    attn_matrices: config.attn_matrices as LoRAMatrix[],
    selfattn_lora: config.selfattn_lora as boolean,
    intermediate_lora: config.intermediate_lora as boolean,
    output_lora: config.output_lora as boolean,
    ...shared,
  }
}

const title = present ? 'golden numbers' : 'golden numbers (skipped: ../shared/golden is not here)'

// Not describe.for: behind skipIf it runs all the same.
for (const backend of ['wasm', 'cpu'] as const)
  describe.skipIf(!present)(`${title} on ${backend}`, () => {
    let device: DeviceReport
    let base: GoldenBase
    const withGolden = <T>(use: Parameters<typeof withBase<T>>[3]) =>
      withBase(
        device,
        parseRobertaConfig(JSON.stringify({ model_type: 'roberta', ...base.model_config })),
        source(tensors(base.weights)),
        use,
      )

    beforeAll(async () => {
      device = await openBackend(backend)
      base = read<GoldenBase>('base')
    })

    test('base', async () => {
      const host = hostBatch({ ...base, labels: base.input_ids.map(() => 0) })
      const states = await withGolden((roberta) => hiddenStates(roberta, host))
      expect(furthest(states.at(-1)!, base.last_hidden_state.data)).toBeLessThanOrEqual(1e-5)
    })

    test.for(['seq_bn', 'lora', 'lora_all'])('%s', async (name) => {
      const golden = read<GoldenMethod>(name)
      const differences = await withGolden((roberta) => {
        const weights = tensors(golden.weights)
        const head = classificationHead(golden.logits.shape[1]!)
        const model = createModel(roberta, 'g', adapterOf(golden.adapter_config), head, weights)
        return compareEvaluated(model, hostBatch(golden), {
          logits: Float32Array.from(golden.logits.data),
          loss: golden.loss,
          last_hidden_state: Float32Array.from(golden.last_hidden_state.data),
          grads: tensors(golden.grads),
        })
      })
      expect(differences.filter(({ worst, limit }) => !(worst <= limit))).toEqual([])
    })
  })
