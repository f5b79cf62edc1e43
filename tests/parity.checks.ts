/**
 * What the engine must agree on with PyTorch's `transformers` and `adapters`, as a list made from the fixtures of
 * tests/parity. This file has no test of its own: tests/parity.test.ts (wasm, cpu) and tests/gpu/parity.test.ts (webgpu)
 * declare them.
 */
import { beforeAll, describe, expect, test } from 'vitest'
import { classificationHead, type ModelSetup } from '../src/config.ts'
import {
  openBackend,
  type BackendKind,
  type BackendOptions,
  type DeviceReport,
} from '../src/kernels/backend.ts'
import { disposeModel, singleSetup } from '../src/model/model.ts'
import type { Roberta } from '../src/model/roberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { decode, readFixture, readModel, setupOf, type Stored, type StoredBatch } from './fixtures.ts'
import { madeUpWeights } from './madeUp.ts'
import { tableChecks } from './parity.cases.ts'
import {
  absolute,
  compareCurve,
  furthest,
  hiddenStates,
  hostBatch,
  madeUpModel,
  predicted,
  withBase,
  withFolder,
  type Curve,
  type Difference,
} from './parity.engine.ts'

/** A named comparison on the backend that is open, which `device` describes. */
export interface Check {
  name: string
  /** The line of the printed table that it belongs to, if any. */
  row?: string
  run(device: DeviceReport): Promise<Difference[]>
}

async function baseChecks(): Promise<Check[]> {
  type Case = StoredBatch & { model: string; hidden_states: Stored[] }
  const { cases } = await readFixture<{ cases: Case[] }>('base')
  return cases.map(({ model, hidden_states, ...batch }) => ({
    name: `hidden states of ${model}, ${batch.input_ids.length} rows of ${batch.input_ids[0]!.length}`,
    run: (device) =>
      withFolder(device, `tests/fixtures/${model}`, async (roberta) => {
        const states = await hiddenStates(roberta, hostBatch(batch))
        return hidden_states.map((theirs, l) => ({
          what: l === 0 ? 'embeddings' : `layer ${l - 1}`,
          worst: furthest(states[l]!, decode(theirs).data),
          limit: absolute,
        }))
      }),
  }))
}

async function variantChecks(): Promise<Check[]> {
  const folder = 'variants'
  type Expected = StoredBatch & { last_hidden_state: Record<string, Stored> }
  const { last_hidden_state, ...batch } = await readFixture<Expected>(`${folder}/expected`)
  return Object.entries(last_hidden_state).map(([file, theirs]) => ({
    name: `weights file in the ${file} form`,
    run: async (device) => {
      const { config, weights } = await readModel(`tests/fixtures/${folder}`, `${file}.safetensors`)
      return withBase(device, config, weights, async (roberta) => {
        const ours = (await hiddenStates(roberta, hostBatch(batch))).at(-1)!
        return [{ what: 'hidden', worst: furthest(ours, decode(theirs).data), limit: absolute }]
      })
    },
  }))
}

async function trainingChecks(folder: string, path: string): Promise<Check[]> {
  type Fixture = {
    sha256?: string
    model: string
    batches: StoredBatch[]
    cases: Curve[]
  }
  const { sha256, model, batches, cases } = await readFixture<Fixture>(`training-${folder}`)
  return cases.map((stored) => ({
    name: `${stored.losses.length} steps of ${stored.name} on ${model}`,
    run: (device) =>
      withFolder(
        device,
        path,
        (roberta) =>
          compareCurve(madeUpModel(roberta, setupOf(stored.setup)), batches.map(hostBatch), stored),
        sha256,
      ),
  }))
}

function miniCheck(): Check {
  type Fixture = StoredBatch & {
    sha256: string
    setup: ModelSetup
    base_last_hidden_state: Stored
    last_hidden_state: Stored
    logits: Stored
  }
  return {
    name: 'mini-roberta and a seq_bn on it',
    run: async (device) => {
      const stored = await readFixture<Fixture>('mini-roberta')
      const compare = async (roberta: Roberta): Promise<Difference[]> => {
        const host = hostBatch(stored)
        const base = (await hiddenStates(roberta, host)).at(-1)!
        const model = madeUpModel(roberta, setupOf(stored.setup))
        const { logits, hidden } = await predicted(model, host)
        disposeModel(model)
        const distance = (ours: Float32Array, theirs: Stored) => furthest(ours, decode(theirs).data)
        return [
          { what: 'base hidden', worst: distance(base, stored.base_last_hidden_state), limit: absolute },
          { what: 'hidden', worst: distance(hidden, stored.last_hidden_state), limit: absolute },
          { what: 'logits', worst: distance(logits, stored.logits), limit: absolute },
        ]
      }
      return withFolder(device, 'public/models/mini-roberta', compare, stored.sha256)
    },
  }
}

/** Twelve layers of roberta-base's exact shapes, made up: 500 MB of weights on the device. */
export function robertaBaseCheck(): Check {
  type Fixture = StoredBatch & {
    logits: Stored
    first_token: Stored
    hidden_states: Stored[]
    config: unknown
  }
  return {
    name: 'twelve layers of roberta-base’s shapes',
    run: async (device) => {
      const stored = await readFixture<Fixture>('made-up')
      const config = parseRobertaConfig(JSON.stringify(stored.config))
      return withBase(device, config, madeUpWeights(config), async (roberta) => {
        const host = hostBatch(stored)
        const H = config.hidden_size
        const states = await hiddenStates(roberta, host)
        const model = madeUpModel(
          roberta,
          singleSetup('parity', { architecture: 'head' }, classificationHead(2)),
        )
        const { logits } = await predicted(model, host)
        disposeModel(model)
        const narrow = (state: Float32Array) => state.filter((_, i) => i % H < 8)
        const first = states.at(-1)!.filter((_, i) => i % (host.S * H) < H)
        const layers = stored.hidden_states.map((theirs, l) =>
          furthest(narrow(states[l]!), decode(theirs).data),
        )
        return [
          { what: 'hidden', worst: Math.max(...layers), limit: absolute },
          { what: 'first token', worst: furthest(first, decode(stored.first_token).data), limit: absolute },
          { what: 'logits', worst: furthest(logits, decode(stored.logits).data), limit: absolute },
        ]
      })
    },
  }
}

/** Every check on small models, in seconds on any backend. */
export async function parityChecks(): Promise<Check[]> {
  return [
    ...(await baseChecks()),
    ...(await variantChecks()),
    ...(await tableChecks()),
    ...(await trainingChecks('tiny-roberta', 'tests/fixtures/tiny-roberta')),
    ...(await trainingChecks('odd-roberta', 'tests/fixtures/odd-roberta')),
    miniCheck(),
    ...(await trainingChecks('mini-roberta', 'public/models/mini-roberta')),
  ]
}

/** Makes each check a test on `backend`; what it measured goes into the test's report for `npm run parity`. */
export function declareChecks(backend: BackendKind, checks: Check[], options: BackendOptions = {}): void {
  const title = options.variants ? `${backend}, variants for ${options.variants}` : backend
  describe(title, () => {
    const refused: string[] = []
    let device: DeviceReport
    beforeAll(async () => {
      device = await openBackend(backend, { ...options, onError: (message) => refused.push(message) })
    })
    for (const { name, row, run } of checks)
      test(name, async ({ task }) => {
        const differences = await run(device)
        Object.assign(task.meta, { row, differences })
        expect(refused.splice(0)).toEqual([])
        expect(differences.filter(({ worst, limit }) => !(worst <= limit))).toEqual([])
      })
  })
}
