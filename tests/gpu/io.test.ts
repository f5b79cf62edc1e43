/** What io/ does with the browser's own storage: IndexedDB and the private file system, in a real one. */
import { deleteDB, openDB } from 'idb'
import { cdp } from 'vitest/browser'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import * as db from '../../src/io/db.ts'
import { sha256Hex } from '../../src/io/digest.ts'
import { openFileStore } from '../../src/io/fileStore.ts'
import { deleteKeptModel, listKeptModels } from '../../src/io/hub.ts'
import { packSetup } from '../../src/io/setup.ts'
import { requestPersistence, storageEstimate } from '../../src/io/storage.ts'
import { adapters, bitsOf, makeBundle, makeRun, seqBn } from '../io.bundles.ts'
import { compositions, makeSetup } from '../io.setups.ts'

const bundle = makeBundle(seqBn)
const run = { ...makeRun(bundle), size: 0 }
const one = (value: number, size = 1) =>
  new Map([['p', { shape: [size], data: new Float32Array(size).fill(value) }]])

/** Limits what the browser lets this page write, by its developer protocol; null lifts the limit. */
async function setQuota(quotaSize: number | null): Promise<void> {
  const session = cdp() as unknown as { send(method: string, params: object): Promise<unknown> }
  await session.send('Storage.overrideQuotaForOrigin', {
    origin: location.origin,
    ...(quotaSize !== null && { quotaSize }),
  })
}

/** Chromium does not hold IndexedDB to a test's quota, so its error is thrown by the put itself here. */
async function withFullDisk(body: () => Promise<void>): Promise<void> {
  const { put } = IDBObjectStore.prototype
  IDBObjectStore.prototype.put = () => {
    throw new DOMException('full', 'QuotaExceededError')
  }
  try {
    await body()
  } finally {
    IDBObjectStore.prototype.put = put
  }
}

describe('runs in IndexedDB', () => {
  beforeEach(async () => {
    await db.closeDatabase()
    await deleteDB('adaptab')
  })

  test('are put, listed newest first, renamed, and come back whole', async () => {
    await db.putRun(run)
    await db.putRun({ ...run, id: 'run-2', created: run.created + 1, name: 'later' })
    expect((await db.listRuns()).map(({ id }) => id)).toEqual(['run-2', 'run-1'])
    await db.renameRun('run-1', '  better ')
    expect(await db.getRun('run-1')).toEqual({ ...run, name: 'better' })
    await expect(db.renameRun('run-1', ' ')).rejects.toThrow('needs a name')
    await expect(db.getRun('none')).rejects.toThrow('no kept run none')
    await db.closeDatabase()
    expect((await db.listRuns()).length).toBe(2)
  })

  test('keep their adapter bit for bit, and its size', async () => {
    await db.putRun(run)
    expect(await db.getAdapter('run-1')).toBeNull()
    for (const adapter of Object.values(adapters)) {
      const kept = makeBundle(adapter, ['no', 'yes', '🙂'])
      await db.putAdapter('run-1', kept)
      const back = (await db.getAdapter('run-1'))!
      expect({ ...back, tensors: bitsOf(back.tensors) }).toEqual({ ...kept, tensors: bitsOf(kept.tensors) })
    }
    expect((await db.getRun('run-1')).size).toBeGreaterThan(1000)
  })

  test('keep a setup of adapters, in place of the one adapter', async () => {
    await db.putRun(run)
    await db.putAdapter('run-1', bundle)
    expect(await db.getSetup('run-1')).toBeNull()
    const setup = makeSetup(compositions['stack of a fusion']!)
    await db.putAdapter('run-1', setup)
    expect(await db.getAdapter('run-1')).toBeNull()
    const [back, kept] = [packSetup((await db.getSetup('run-1'))!), packSetup(setup)]
    expect([back.packed, bitsOf(back.tensors)]).toEqual([kept.packed, bitsOf(kept.tensors)])
  })

  test('of earlier versions of the page are read in the form of today', async () => {
    const old = { method: 'seq_bn', reduction_factor: 4, leave_out: [], dropout: 0 } as never
    await db.putRun({ ...run, adapter: old })
    const { pooling: _, ...head } = bundle.head as { pooling: string }
    await db.putAdapter('run-1', { ...bundle, adapter: old, head: head as never })
    expect((await db.getRun('run-1')).adapter).toEqual(seqBn)
    expect((await db.listRuns()).map(({ adapter }) => adapter)).toEqual([seqBn])
    const { adapter, head: now } = (await db.getAdapter('run-1'))!
    expect([adapter, now]).toEqual([seqBn, bundle.head])
  })

  test('keep two checkpoints, and use the older when the newer is damaged', async () => {
    expect([await db.getCheckpoint('run-1'), await db.checkpointStep('run-1')]).toEqual([null, null])
    for (let step = 1; step <= 5; step++)
      await db.putCheckpoint('run-1', { step, state: { best: step }, tensors: one(step) })
    await db.putCheckpoint('run-10', { step: 77, state: null, tensors: one(77) })
    const newest = (await db.getCheckpoint('run-1'))!
    expect([newest.step, newest.state, newest.tensors.get('p')!.data[0]]).toEqual([5, { best: 5 }, 5])
    expect(await db.checkpointStep('run-1')).toBe(5)
    await db.closeDatabase()
    const raw = await openDB('adaptab')
    const rows = await raw.getAll('checkpoints')
    expect(rows.map(({ runId, step }) => [runId, step]).sort()).toEqual([['run-1', 4], ['run-1', 5], ['run-10', 77]]) // prettier-ignore
    const spoil = async (step: number) => {
      const row = rows.find((item) => item.runId === 'run-1' && item.step === step)
      await raw.put('checkpoints', { ...row, bytes: row.bytes.slice(0, 20) })
    }
    await spoil(5)
    expect((await db.getCheckpoint('run-1'))!.step).toBe(4)
    await spoil(4)
    raw.close()
    await expect(db.getCheckpoint('run-1')).rejects.toThrow('Both checkpoints of this run are damaged')
    await db.deleteCheckpoints('run-1')
    expect(await db.getCheckpoint('run-1')).toBeNull()
    expect((await db.getCheckpoint('run-10'))!.step).toBe(77)
  })

  test('deleting can be undone, with adapter and checkpoints', async () => {
    await db.putRun(run)
    await db.putAdapter('run-1', bundle)
    await db.putCheckpoint('run-1', { step: 3, state: 1, tensors: one(3) })
    const deleted = await db.deleteRun('run-1')
    expect([await db.listRuns(), await db.getAdapter('run-1'), await db.getCheckpoint('run-1')]).toEqual([
      [],
      null,
      null,
    ])
    await expect(db.deleteRun('run-1')).rejects.toThrow('no kept run')
    await db.restoreRun(deleted)
    expect((await db.getRun('run-1')).name).toBe(run.name)
    expect(bitsOf((await db.getAdapter('run-1'))!.tensors)).toEqual(bitsOf(bundle.tensors))
    expect((await db.getCheckpoint('run-1'))!.step).toBe(3)
  })

  test('a full disk is said, and what was kept stays', async () => {
    await db.putRun(run)
    await db.putAdapter('run-1', bundle)
    await db.putCheckpoint('run-1', { step: 1, state: null, tensors: one(1) })
    const large = { step: 2, state: null, tensors: one(2) }
    const fails = async () => {
      await expect(db.putCheckpoint('run-1', large)).rejects.toThrow(
        /^Storage is full: the checkpoint at step 2 needs .* bytes and the browser gives no more room; delete runs/,
      )
      await expect(db.putAdapter('run-1', makeBundle(adapters.lora!))).rejects.toThrow(
        'Storage is full: the adapter',
      )
      await expect(db.putRun({ ...run, name: 'other' })).rejects.toThrow(
        'Storage is full: the record of “other”',
      )
    }
    await withFullDisk(fails)
    expect((await db.getRun('run-1')).name).toBe(run.name)
    expect((await db.getCheckpoint('run-1'))!.step).toBe(1)
    expect(bitsOf((await db.getAdapter('run-1'))!.tensors)).toEqual(bitsOf(bundle.tensors))
    await db.putCheckpoint('run-1', large)
    expect((await db.getCheckpoint('run-1'))!.step).toBe(2)
  })

  test('gives way to a newer version in another tab, and says so', async () => {
    await db.putRun(run)
    const newer = await openDB('adaptab', 99)
    await expect(db.listRuns()).rejects.toThrow('written by a newer version of this page; reload it')
    newer.close()
    await deleteDB('adaptab')
    expect(await db.listRuns()).toEqual([])
  })

  test('space is reported and persistence asked for', async () => {
    const estimate = (await storageEstimate())!
    expect(estimate.free).toBeGreaterThan(0)
    expect(typeof (await requestPersistence())).toBe('boolean')
  })
})

describe('files in the private file system', () => {
  afterEach(() => setQuota(null))

  test('are appended to, read, listed and removed', async () => {
    const store = await openFileStore()
    expect(store.persistent).toBe(true)
    await store.remove('test')
    expect([await store.read('test/a/b'), await store.list('test')]).toEqual([null, []])
    for (const [keep, text] of [[false, 'one '], [true, 'two '], [true, 'three']] as const) {
      const writer = await store.append('test/a/b', keep)
      await writer.write(new TextEncoder().encode(text))
      await writer.close()
    } // prettier-ignore
    expect(await (await store.read('test/a/b'))!.text()).toBe('one two three')
    const again = await store.append('test/a/b', false)
    await again.close()
    expect((await store.read('test/a/b'))!.size).toBe(0)
    await store.write('test/c', 'text')
    expect((await store.list('test')).sort()).toEqual(['a', 'c'])
    expect(await store.read('test/a')).toBeNull()
    await store.remove('test')
    expect(await store.read('test/c')).toBeNull()
  })

  test('a full disk is said by its own name, and what was written stays', async () => {
    const store = await openFileStore()
    await store.remove('test')
    const first = await store.append('test/full', false)
    await first.write(new Uint8Array(100_000))
    await first.close()
    await setQuota(1_000_000)
    const full = await store.append('test/full', true)
    await expect(full.write(new Uint8Array(5_000_000))).rejects.toThrow(
      expect.objectContaining({ name: 'QuotaExceededError' }),
    )
    await full.close()
    await setQuota(null)
    expect((await store.read('test/full'))!.size).toBeGreaterThanOrEqual(100_000)
    await store.remove('test')
  })

  test('a download survives the death of its worker and goes on where it stopped', async () => {
    const endpoint = `${location.origin}/models`
    await deleteKeptModel({ repo: 'mini-roberta', revision: 'main', endpoint })
    const truth = await (await fetch('/models/mini-roberta/model.safetensors')).blob()
    const stalled = startWorker(endpoint, 4_000_000)
    await stalled.until((message) => message.type === 'stalled')
    await new Promise((resolve) => setTimeout(resolve, 300))
    stalled.worker.terminate()
    expect(await listKeptModels()).toEqual([])
    const next = startWorker(endpoint, null)
    const done = await next.until((message) => message.type === 'done' || message.type === 'failed')
    expect(done).toMatchObject({ type: 'done', size: truth.size, sha256: await sha256Hex(truth) })
    const ranges = next.messages
      .flatMap((message) => (message.type === 'request' ? [message.range] : []))
      .filter(Boolean)
    expect(ranges).toEqual([expect.stringMatching(/^bytes=[1-9]\d{5,6}-$/)])
    next.worker.terminate()
    const offline = startWorker(endpoint, null)
    await offline.until((message) => message.type === 'done')
    expect(offline.messages.filter(({ type }) => type === 'request')).toEqual([])
    offline.worker.terminate()
    expect((await listKeptModels()).map(({ repo, bytes }) => [repo, bytes])).toEqual([
      ['mini-roberta', truth.size],
    ])
    await deleteKeptModel({ repo: 'mini-roberta', revision: 'main', endpoint })
  })
})

type Message =
  | { type: 'request'; path: string; range: string | null }
  | { type: 'stalled' }
  | { type: 'progress'; event: { bytes: number } }
  | { type: 'done'; sha256: string; size: number; notes: string[] }
  | { type: 'failed'; message: string }

function startWorker(endpoint: string, stallAfter: number | null) {
  const worker = new Worker(new URL('./io.worker.ts', import.meta.url), { type: 'module' })
  const messages: Message[] = []
  let notify = () => {}
  worker.onmessage = ({ data }: MessageEvent<Message>) => {
    messages.push(data)
    notify()
  }
  worker.onerror = ({ message }) => {
    messages.push({ type: 'failed', message })
    notify()
  }
  worker.postMessage({ endpoint, stallAfter })
  const until = async (wanted: (message: Message) => boolean): Promise<Message> => {
    for (;;) {
      const found = messages.find(wanted)
      if (found) return found
      const failed = messages.find(({ type }) => type === 'failed')
      if (failed) throw new Error(JSON.stringify(failed))
      await new Promise<void>((resolve) => (notify = resolve))
    }
  }
  return { worker, messages, until }
}
