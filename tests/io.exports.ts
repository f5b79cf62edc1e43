/** Bundles that the export tests share: every adapter and head of the parity fixtures, with the weights made up there. */
import type { AdapterBundle, AdapterConfig, HeadConfig, ModelSetup, RobertaConfig } from '../src/config.ts'
import type { BaseModel } from '../src/io/foldedWeights.ts'
import { parametersOf } from '../src/methods/registry.ts'
import { headParameters } from '../src/model/heads/head.ts'
import { baseShapes } from '../src/model/loadRoberta.ts'
import {
  decode,
  readFixture,
  readModel,
  readText,
  setupOf,
  type Stored,
  type StoredBatch,
} from './fixtures.ts'
import { madeUp, madeUpTensors } from './madeUp.ts'

/** A case of methods.json or task-heads.json: what stands on the base, and the library's logits on each model. */
interface StoredCase {
  name: string
  setup: ModelSetup
  results: Record<string, { logits: Stored | Stored[] }>
}

/** One adapter with its head on one model. */
export interface ExportCase {
  name: string
  model: string
  config: RobertaConfig
  bundle: AdapterBundle
  batch: StoredBatch
  logits: Float32Array
}

const sizes = ['tiny-roberta', 'odd-roberta', 'micro-roberta']

/** Every case of a fixture file that one adapter and its own classification head make. */
export async function exportCases(file: 'methods' | 'task-heads'): Promise<ExportCase[]> {
  const { batches, cases } = await readFixture<{
    batches: Record<string, StoredBatch>
    cases: StoredCase[]
  }>(file)
  const found: ExportCase[] = []
  for (const model of sizes) {
    const { config } = await readModel(`tests/fixtures/${model}`)
    for (const { name, setup: stored, results } of cases) {
      const setup = setupOf(stored)
      const head = setup.heads.parity
      const result = results[model]
      if (!result || !head || head.head_type === 'masked_lm') continue
      const adapter = setup.adapters.parity ?? comparison(setup.train.base)
      const [logits] = Array.isArray(result.logits) ? result.logits : [result.logits]
      const bundle = bundleOf(config, adapter, head)
      found.push({ name, model, config, bundle, batch: batches[model]!, logits: decode(logits!).data })
    }
  }
  return found
}

function comparison(base: ModelSetup['train']['base']): AdapterConfig {
  return { architecture: base === 'all' ? 'full' : base === 'bias' ? 'bitfit' : 'head' }
}

/** An adapter and head named `parity` with the fixtures' made-up weights. */
export function bundleOf(config: RobertaConfig, adapter: AdapterConfig, head: HeadConfig): AdapterBundle {
  const all = [...parametersOf(config, adapter, 'parity'), ...headParameters(config, head, 'parity')]
  const labels = head.head_type === 'masked_lm' ? 0 : head.num_labels
  return {
    name: 'parity',
    adapter,
    head,
    id2label: Array.from({ length: labels }, (_, i) => `label ${i}`),
    tensors: madeUpTensors(all.map(({ key, shape }) => [key, shape])),
    base: null,
    max_length: 32,
  }
}

const opened = new Map<string, Promise<BaseModel>>()

/** A fixture model as exports take it: its own folder, with a pooler beside it, and tiny-roberta's tokenizer. */
export function baseModel(model: string): Promise<BaseModel> {
  const known = opened.get(model) ?? openBase(model)
  opened.set(model, known)
  return known
}

async function openBase(model: string): Promise<BaseModel> {
  const { config, weights } = await readModel(`tests/fixtures/${model}`)
  const H = config.hidden_size
  const pooler = new Map([
    ['roberta.pooler.dense.weight', [H, H]],
    ['roberta.pooler.dense.bias', [H]],
  ])
  const own = new Set(baseShapes(config).map(([key]) => `roberta.${key}`))
  if (weights.names().some((name) => !own.has(name))) throw new Error(`${model} holds more than its base.`)
  return {
    config,
    config_json: await readText(`tests/fixtures/${model}/config.json`),
    tokenizer: await readText('tests/fixtures/tiny-roberta/tokenizer.json'),
    tokenizer_config: null,
    weights: {
      names: () => [...weights.names(), ...pooler.keys()],
      shape: (name) => pooler.get(name) ?? weights.shape(name),
      read: async (name) => {
        const shape = pooler.get(name)
        return shape ? madeUp(name, shape) : weights.read(name)
      },
    },
  }
}
