/** The disk fills up in mid-run: the run pauses with a sentence instead of ending, and goes on when there is room. */
import { afterEach, expect, it, vi } from 'vitest'
import { trainingDefaults } from '../../src/trainingArguments.ts'
import { seqBn } from '../../src/methods/bottleneck.ts'
import { getRun } from '../../src/io/db.ts'
import type { RunEvent } from '../../src/protocol.ts'
import { Workbench } from '../../src/workbench.ts'
import { readBytes } from '../fixtures.ts'

afterEach(() => vi.restoreAllMocks())

it('pauses, says so, and loses nothing', async () => {
  const events: RunEvent[] = []
  const bench = new Workbench((event) => events.push(event))
  await bench.openDevice({
    type: 'openDevice',
    backend: 'webgpu',
    powerPreference: 'high-performance',
    wasmUrl: '',
  })
  const names = ['config.json', 'tokenizer.json', 'model.safetensors']
  const files = names.map(
    async (name) => new File([await readBytes(`tests/fixtures/tiny-roberta/${name}`)], name),
  )
  await bench.openModel({
    type: 'openModel',
    source: { kind: 'files', name: 'tiny', files: await Promise.all(files) },
  })
  const rows = Array.from({ length: 24 }, (_, i) => `visit ${i} was ${i % 2 ? 'good,up' : 'bad,down'}`)
  const csv = new File([`text,label\n${rows.join('\n')}\n`], 'visits.csv')
  await bench.openData({ type: 'openData', source: { kind: 'files', files: [csv] } })
  const mapping = { text: 'text', text_pair: null, label: 'label', threshold: null }
  const split = { validation: 0.25, test: 0.25, fraction: 1, sampling: 'stratified' as const, seed: 1 }
  bench.mapData({ type: 'mapData', mapping, split, roles: ['all'], max_length: 32 })

  const put = IDBObjectStore.prototype.put
  vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementation(function (
    this: IDBObjectStore,
    value: unknown,
  ) {
    if (this.name === 'checkpoints') throw new DOMException('full', 'QuotaExceededError')
    return put.call(this, value)
  })
  const runId = `full-${performance.now()}`
  const args = {
    ...trainingDefaults,
    num_train_epochs: 2,
    per_device_train_batch_size: 6,
    logging_steps: 1,
    max_length: 32,
  }
  const adapter = { ...seqBn, reduction_factor: 8 }
  const trained = bench.train({ type: 'train', runId, name: 'full', adapter, args })
  await vi.waitFor(() => expect(events.some(({ type }) => type === 'error')).toBe(true), 60_000)
  expect(events.find((event) => event.type === 'error')).toMatchObject({
    fatal: false,
    message: /full|space/i,
  })
  expect(events.findLast((event) => event.type === 'state')).toMatchObject({ state: 'paused' })
  expect(events.some(({ type }) => type === 'done')).toBe(false)

  vi.restoreAllMocks()
  bench.resume()
  await trained
  expect(events.at(-1)).toMatchObject({ type: 'done', reason: 'finished' })
  expect((await getRun(runId)).status).toBe('finished')
})
