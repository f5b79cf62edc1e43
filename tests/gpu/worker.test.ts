/** The real worker on WebGPU, driven by nothing but messages: the whole job of the tab, on a tiny model. */
import { afterEach, describe, expect, it } from 'vitest'
import { trainingDefaults, type TrainingArguments } from '../../src/trainingArguments.ts'
import { seqBn } from '../../src/methods/bottleneck.ts'
import { loraConfig } from '../../src/methods/lora.ts'
import { getRun } from '../../src/io/db.ts'
import type { Command, Precision, RunEvent } from '../../src/protocol.ts'
import { readBytes } from '../fixtures.ts'

type Of<T extends RunEvent['type']> = Extract<RunEvent, { type: T }>

/** A worker, and every event it has posted. */
class Tab {
  readonly events: RunEvent[] = []
  readonly #worker = new Worker(new URL('../../src/worker.ts', import.meta.url), { type: 'module' })
  #listeners: (() => void)[] = []

  constructor() {
    this.#worker.onmessage = ({ data }: MessageEvent<RunEvent>) => {
      this.events.push(data)
      for (const listener of this.#listeners) listener()
    }
  }

  send(command: Command): void {
    this.#worker.postMessage(command)
  }

  /** The next event of a type, from `after` on; an error event of the worker fails the test. */
  async next<T extends RunEvent['type']>(type: T, after = 0): Promise<Of<T>> {
    for (;;) {
      const fresh = this.events.slice(after)
      const found = fresh.find((event): event is Of<T> => event.type === type)
      if (found) return found
      const error = fresh.find((event) => event.type === 'error')
      if (error) throw new Error(error.message)
      await new Promise<void>((resolve) => (this.#listeners = [resolve]))
    }
  }

  /** Sends and waits for what it brings. */
  ask<T extends RunEvent['type']>(command: Command, type: T): Promise<Of<T>> {
    const after = this.events.length
    this.send(command)
    return this.next(type, after)
  }

  close(): void {
    this.#worker.terminate()
  }
}

let tab: Tab
afterEach(() => tab.close())

const args: TrainingArguments = {
  ...trainingDefaults,
  learning_rate: 5e-3,
  num_train_epochs: 2,
  per_device_train_batch_size: 8,
  logging_steps: 2,
  max_length: 32,
}

/** 48 reviews that no sample holds; the second word tells the label. */
function reviewsCsv(): File {
  const rows = Array.from(
    { length: 48 },
    (_, i) => `"it was ${i % 2 ? 'good' : 'bad'}, visit ${i}",${i % 2 ? 'up' : 'down'}`,
  )
  return new File([`review,sentiment\n${rows.join('\n')}\n`], 'visits.csv', { type: 'text/csv' })
}

async function openTiny(precision: Precision = 'float32'): Promise<Tab> {
  const opened = new Tab()
  opened.send({ type: 'openDevice', backend: 'webgpu', powerPreference: 'high-performance', wasmUrl: '' })
  const names = ['config.json', 'tokenizer.json', 'model.safetensors']
  const files = names.map(
    async (name) => new File([await readBytes(`tests/fixtures/tiny-roberta/${name}`)], name),
  )
  const source = { kind: 'files' as const, name: 'tiny', files: await Promise.all(files) }
  await opened.ask({ type: 'openModel', source, precision }, 'model')
  return opened
}

async function mapVisits(): Promise<void> {
  const { tables, mapping, roles } = await tab.ask(
    { type: 'openData', source: { kind: 'files', files: [reviewsCsv()] } },
    'tables',
  )
  expect(tables[0]).toMatchObject({ columns: ['review', 'sentiment'], row_count: 48 })
  expect(mapping).toMatchObject({ text: 'review', label: 'sentiment' })
  const split = { validation: 0.25, test: 0.25, fraction: 1, sampling: 'stratified' as const, seed: 1 }
  const { summary } = await tab.ask(
    { type: 'mapData', mapping: mapping!, split, roles, max_length: 32 },
    'dataset',
  )
  expect(summary.id2label).toEqual(['down', 'up'])
}

describe('the worker', () => {
  it('tests the device, trains, pauses, steps, resumes, keeps, predicts, exports and takes the export back', async () => {
    tab = await openTiny()
    const { report } = await tab.next('selfTest')
    expect(report.checks.filter(({ ok }) => !ok)).toEqual([])
    await mapVisits()

    const runId = `run-${performance.now()}`
    const adapter = { ...seqBn, reduction_factor: 4 }
    tab.send({ type: 'train', runId, name: 'visits.one', adapter, args })
    expect((await tab.next('started')).total_steps).toBe(6)
    await tab.ask({ type: 'pause' }, 'state')
    const paused = await quiet()
    tab.send({ type: 'step' })
    await quiet()
    tab.send({ type: 'step' })
    await quiet()
    expect((await getRun(runId)).status).toBe('running')
    expect(tab.events.slice(paused).filter(({ type }) => type === 'state')).toEqual([])
    tab.send({ type: 'resume' })
    const done = await tab.next('done')
    expect(done).toMatchObject({ runId, reason: 'finished', note: null })
    expect(done.test!.rows).toBe(12)
    expect(done.judged).toHaveLength(12)
    const steps = tab.events.filter((event): event is Of<'step'> => event.type === 'step')
    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6])
    expect(steps.every(({ loss, gpu_bytes }) => Number.isFinite(loss) && gpu_bytes > 0)).toBe(true)

    const texts = ['it was good, visit 99', 'it was bad, visit 98']
    const before = await tab.ask({ type: 'predict', id: 1, texts }, 'prediction')
    const zip = await tab.ask({ type: 'exportRun', runId }, 'file')
    expect(zip.mime).toBe('application/zip')

    tab.close()
    tab = await openTiny()
    await tab.ask({ type: 'openRun', runId }, 'opened')
    expect((await tab.ask({ type: 'predict', id: 2, texts }, 'prediction')).predictions).toEqual(
      before.predictions,
    )
    const file = new File([zip.bytes], zip.name)
    await tab.ask({ type: 'importAdapter', runId: `${runId}-back`, files: [file] }, 'imported')
    await tab.ask({ type: 'openRun', runId: `${runId}-back` }, 'opened')
    expect((await tab.ask({ type: 'predict', id: 3, texts }, 'prediction')).predictions).toEqual(
      before.predictions,
    )
    const csv = await tab.ask({ type: 'predictFile', file: reviewsCsv() }, 'file')
    expect(new TextDecoder().decode(csv.bytes).split('\r\n')[0]).toBe('review,label,score down,score up')
  })

  it('resumes in a new worker a run that was cut off, and ends where an uncut one ends', async () => {
    tab = await openTiny()
    await mapVisits()
    const runId = `cut-${performance.now()}`
    const adapter = { ...loraConfig, r: 4 }
    tab.send({ type: 'train', runId, name: 'cut', adapter, args })
    await tab.ask({ type: 'pause' }, 'state')
    await quiet()
    tab.close() // as a crash would

    tab = await openTiny()
    await mapVisits()
    const after = tab.events.length
    tab.send({ type: 'resumeRun', runId })
    const { step } = await tab.next('started', after)
    expect(step).toBeGreaterThan(0)
    const resumed = await tab.next('done', after)
    const whole = await tab.ask(
      { type: 'train', runId: `${runId}-whole`, name: 'cut', adapter, args },
      'done',
    )
    expect(resumed.best_step).toBe(whole.best_step)
    expect(Math.abs(resumed.test!.loss - whole.test!.loss)).toBeLessThan(1e-5)
  })

  it('stops when asked and can be used at once', async () => {
    tab = await openTiny()
    await mapVisits()
    const runId = `stop-${performance.now()}`
    tab.send({
      type: 'train',
      runId,
      name: 'stop',
      adapter: { architecture: 'head' },
      args: { ...args, num_train_epochs: 500 },
    })
    await tab.next('step')
    const { reason, note } = await tab.ask({ type: 'stop' }, 'done')
    expect(reason).toBe('stopped')
    expect(note).toMatch(/Stopped by hand after step \d+ of 1500/)
    const { predictions } = await tab.ask({ type: 'predict', id: 1, texts: ['it was good'] }, 'prediction')
    expect(predictions[0]!.map(({ label }) => label).sort()).toEqual(['down', 'up'])
  })

  it('trains an adapter on a frozen one, keeps both together, opens and exports them, and merges what can be', async () => {
    tab = await openTiny()
    await mapVisits()
    const stamp = performance.now()
    const [low, high] = [`low-${stamp}`, `high-${stamp}`]
    tab.send({ type: 'train', runId: low, name: 'low', adapter: { ...loraConfig, r: 2 }, args })
    await tab.next('done')
    const member = { name: 'low', runId: low, with_head: false, train: false, train_head: false }
    const active = { type: 'Stack' as const, children: ['low', 'high'] }
    const assembly = { members: [member], active, skip_layers: [], fusions: {} }
    const after = tab.events.length
    tab.send({
      type: 'train',
      runId: high,
      name: 'high',
      adapter: { ...seqBn, reduction_factor: 4 },
      args,
      assembly,
    })
    await tab.next('done', after)
    const texts = ['it was good, visit 99', 'it was bad, visit 98']
    const before = await tab.ask({ type: 'predict', id: 1, texts }, 'prediction')
    tab.close()

    tab = await openTiny()
    await tab.ask({ type: 'openRun', runId: high }, 'opened')
    const again = await tab.ask({ type: 'predict', id: 2, texts }, 'prediction')
    expect(again.predictions).toEqual(before.predictions)
    const zip = await tab.ask({ type: 'exportRun', runId: high }, 'file')
    const file = new File([zip.bytes], zip.name)
    await tab.ask({ type: 'importAdapter', runId: `${high}-back`, files: [file] }, 'imported')
    await tab.ask({ type: 'openRun', runId: `${high}-back` }, 'opened')
    expect((await tab.ask({ type: 'predict', id: 3, texts }, 'prediction')).predictions).toEqual(
      before.predictions,
    )

    const alone = { members: [{ ...member, with_head: true }], active: 'low', skip_layers: [], fusions: {} }
    await tab.ask({ type: 'assemble', assembly: alone }, 'assembled')
    const plain = (await tab.ask({ type: 'predict', id: 4, texts }, 'prediction')).predictions
    expect((await tab.ask({ type: 'mergeAdapter', name: 'low' }, 'assembled')).merged).toEqual(['low'])
    const merged = (await tab.ask({ type: 'predict', id: 5, texts }, 'prediction')).predictions
    merged.forEach((one, i) => expect(one[0]!.score).toBeCloseTo(plain[i]![0]!.score, 5))
    expect((await tab.ask({ type: 'resetAdapter', name: 'low' }, 'assembled')).merged).toEqual([])
    expect((await tab.ask({ type: 'predict', id: 6, texts }, 'prediction')).predictions).toEqual(plain)
  })

  it('says in one sentence what is missing', async () => {
    tab = new Tab()
    const failed = async (command: Command) => (await tab.ask(command, 'error')).message
    const train: Command = { type: 'train', runId: 'x', name: 'x', adapter: { architecture: 'head' }, args }
    expect(await failed(train)).toMatch(/No labelled data is open yet/)
    expect(await failed({ type: 'predict', id: 1, texts: ['x'] })).toMatch(/No adapter is in the model yet/)
    expect(await failed({ type: 'openRun', runId: 'nowhere' })).toMatch(/There is no kept run nowhere/)
  })
})

/** Waits until the worker has been silent for a while; returns how many events it has posted. */
async function quiet(): Promise<number> {
  for (let seen = -1; seen !== tab.events.length;) {
    seen = tab.events.length
    await new Promise((resolve) => setTimeout(resolve, 1500))
  }
  return tab.events.length
}

describe('memory', () => {
  it('is measured before a run, on a base in half precision, on which adapters train and not all weights', async () => {
    tab = await openTiny('float16')
    expect((await tab.next('model')).notes.join()).toMatch(/half precision/)
    await mapVisits()
    const adapter = { ...seqBn, reduction_factor: 4 }
    const asked = { type: 'measure' as const, adapter, num_labels: 2, args }
    const { fit } = await tab.ask({ ...asked, available: null }, 'memory')
    expect(fit).toMatchObject({ problem: null, remedies: [] })
    const tight = await tab.ask({ ...asked, available: fit!.need.total - 1 }, 'memory')
    expect(tight.fit!.problem).toMatch(/needs about/)

    const runId = `half-${performance.now()}`
    const more = { ...args, gradient_checkpointing: true, half_precision_activations: true }
    tab.send({ type: 'train', runId, name: 'half', adapter, args: more })
    expect(await tab.next('done')).toMatchObject({ reason: 'finished', note: null })
    expect((await getRun(runId)).device).toMatch(/base in half precision/)
    const after = tab.events.length
    tab.send({ type: 'train', runId: `${runId}-full`, name: 'full', adapter: { architecture: 'full' }, args })
    await expect(tab.next('done', after)).rejects.toThrow(/with precision float32/)
  })
})
