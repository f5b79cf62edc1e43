/** Adapter folders as `adapters` and `peft` save them (tests/parity/saved.py), imported: the logits are the libraries'. */
import { beforeAll, expect, test } from 'vitest'
import { folderFiles } from '../src/headless/node.ts'
import { readAdapterFiles } from '../src/io/import.ts'
import { openBackend, type DeviceReport } from '../src/kernels/backend.ts'
import { createModel, disposeModel, singleSetup } from '../src/model/model.ts'
import { decode, readFixture, type Stored, type StoredBatch } from './fixtures.ts'
import { absolute, furthest, hostBatch, predicted, withFolder } from './parity.engine.ts'

type Fixture = StoredBatch & { model: string; id2label: string[]; logits: Record<string, Stored> }

const { model: base, id2label, logits, ...batch } = await readFixture<Fixture>('saved/expected')
let device: DeviceReport

beforeAll(async () => {
  device = await openBackend('wasm')
})

test.for(Object.keys(logits))('%s', async (folder) => {
  const { bundle } = await readAdapterFiles(await folderFiles(`tests/fixtures/saved/${folder}`))
  if (!folder.startsWith('peft')) expect(bundle.id2label).toEqual(id2label)
  const ours = await withFolder(device, `tests/fixtures/${base}`, async (roberta) => {
    const model = createModel(roberta, singleSetup(bundle.name, bundle.adapter, bundle.head!), bundle.tensors)
    const { logits } = await predicted(model, hostBatch(batch))
    disposeModel(model)
    return logits
  })
  expect(furthest(ours, decode(logits[folder]!).data)).toBeLessThanOrEqual(absolute)
})
