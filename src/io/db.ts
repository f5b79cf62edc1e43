/**
 * Runs kept in IndexedDB: a small record per run, its adapter's tensors as one safetensors file, and the last two
 * checkpoints of a run that is going on. A write is one transaction, so the old state stands until the new one is
 * whole; of the two checkpoint slots only the older is ever written over.
 */
import { openDB, type DBSchema, type IDBPDatabase, type IDBPTransaction, type StoreNames } from 'idb'
import type {
  AdapterBundle,
  AdapterConfig,
  AdapterDrop,
  Assembly,
  BaseIdentity,
  HeadConfig,
  SetupBundle,
  TensorMap,
} from '../config.ts'
import type { MetricName, TrainingArguments } from '../trainingArguments.ts'
import { currentAdapter, currentArguments, currentHead } from './oldRuns.ts'
import { readSafetensors, writeSafetensors } from './safetensors.ts'
import { packSetup, unpackSetup, type PackedSetup } from './setup.ts'
import { isStorageFull, storageFullError } from './storage.ts'

/** What every evaluation has; train/ adds per-class values and the confusion matrix, which are kept with it. */
export type StoredMetrics = { [name in MetricName]: number }

export interface StepRecord {
  step: number
  epoch: number
  loss: number
  learning_rate: number
  grad_norm: number
  /** Tokens that were text, of all positions computed in the step's epoch; absent in records of before it was counted. */
  padding_efficiency?: number
}

export interface EvaluationRecord<M extends StoredMetrics = StoredMetrics> {
  step: number
  epoch: number
  split: 'train' | 'validation' | 'test'
  metrics: M
}

/** Where a run's rows came from: enough to open the same files again, never the rows themselves. */
export interface RunData<Mapping = unknown, SplitArguments = unknown, Role = unknown> {
  names: string[]
  mapping: Mapping
  split: SplitArguments
  roles: Role[]
}

/** A kept run, without tensors. `M` is train/metrics' type, which io/ does not import. */
export interface RunRecord<M extends StoredMetrics = StoredMetrics, D extends RunData = RunData> {
  id: string
  name: string
  /** Milliseconds since 1970. */
  created: number
  status: 'running' | 'finished' | 'stopped' | 'early' | 'diverged' | 'imported'
  adapter: AdapterConfig
  /** The run's own head; absent in records of before heads could be chosen: the plain one. */
  head?: HeadConfig | null
  /** Adapters that were put beside the run's own, and how they worked together; absent: none. */
  assembly?: Assembly
  adapter_drop?: AdapterDrop | null
  /** null for an imported adapter that does not say. */
  args: TrainingArguments | null
  base: BaseIdentity | null
  id2label: string[]
  /** Backend and adapter, as the device report describes them. */
  device: string
  self_test: 'passed' | 'failed' | 'not run'
  history: { step: StepRecord[]; evaluation: EvaluationRecord<M>[] }
  /** Metrics of the kept weights on the test split; null when there is none. */
  test: M | null
  best_step: number
  data: D | null
  /** Bytes of the kept adapter; set by putAdapter. */
  size: number
}

/** A point a cut-off run goes on from. */
export interface Checkpoint {
  step: number
  /** Everything but tensors: epoch, best metric, counters. Any structured-clonable value. */
  state: unknown
  /** Parameters, both AdamW moments, best weights so far. */
  tensors: TensorMap
}

/** A run's one adapter, or the setup of several. */
interface AdapterRow {
  runId: string
  bundle: Omit<AdapterBundle, 'tensors'> | PackedSetup
  bytes: Uint8Array<ArrayBuffer>
}

interface CheckpointRow {
  runId: string
  slot: 0 | 1
  step: number
  /** Counts the writes of one run; the larger of the two slots is the newer. */
  sequence: number
  state: unknown
  bytes: Uint8Array<ArrayBuffer>
}

/** Everything a deleted run held, for restoreRun. */
export interface DeletedRun {
  run: RunRecord
  adapter: AdapterRow | null
  checkpoints: CheckpointRow[]
}

interface Schema extends DBSchema {
  runs: { key: string; value: RunRecord }
  adapters: { key: string; value: AdapterRow }
  checkpoints: { key: [string, number]; value: CheckpointRow; indexes: { newest: [string, number, number] } }
}

type Db = IDBPDatabase<Schema>
type Upgrade = IDBPTransaction<Schema, StoreNames<Schema>[], 'versionchange'>

/**
 * One function per schema version, in order; a database of version n gets those from n on. Never change an old one:
 * add the next.
 */
const migrations: ((db: Db, tx: Upgrade) => void)[] = [
  (db) => {
    db.createObjectStore('runs', { keyPath: 'id' })
    db.createObjectStore('adapters', { keyPath: 'runId' })
    db.createObjectStore('checkpoints', { keyPath: ['runId', 'slot'] }).createIndex('newest', [
      'runId',
      'sequence',
      'step',
    ])
  },
]

let opening: Promise<Db> | null = null

/** The open database; opened again when the browser or another tab closed it. */
function database(): Promise<Db> {
  opening ??= openDatabase().catch((error: unknown) => {
    opening = null
    throw error
  })
  return opening
}

function openDatabase(): Promise<Db> {
  if (!globalThis.indexedDB)
    return Promise.reject(
      new Error(
        'This browser keeps no data for this page (IndexedDB is off, as in some private windows), so runs cannot be kept.',
      ),
    )
  return new Promise((resolve, reject) => {
    let waiting = true
    const blocked = () => {
      waiting = false
      reject(
        new Error('Another tab holds an older version of the kept runs open; close it and reload this page.'),
      )
    }
    const blocking = (_current: number, _blocked: number | null, event: IDBVersionChangeEvent) => {
      if (event.target instanceof IDBDatabase) event.target.close()
      opening = null
    }
    const upgrade = (db: Db, oldVersion: number, _newVersion: number | null, tx: Upgrade) =>
      migrations.slice(oldVersion).forEach((migrate) => migrate(db, tx))
    const terminated = () => (opening = null)
    openDB<Schema>('adaptab', migrations.length, { upgrade, blocked, blocking, terminated }).then(
      (db) => (waiting ? resolve(db) : db.close()),
      (cause: Error) => reject(cause.name === 'VersionError' ? newerError(cause) : cause),
    )
  })
}

function newerError(cause: Error): Error {
  return new Error(
    'The kept runs were written by a newer version of this page; reload it to get that version.',
    { cause },
  )
}

/** Writes and waits until it is on disk. A full disk becomes a sentence, and nothing of the transaction remains. */
async function commit(
  tx: { done: Promise<void>; abort(): void },
  write: () => Promise<unknown>[],
  what: string,
  bytes: number,
): Promise<void> {
  const puts: Promise<unknown>[] = []
  try {
    puts.push(...write())
  } catch (error) {
    puts.push(Promise.reject(error))
    tx.abort()
  }
  const results = await Promise.allSettled([...puts, tx.done])
  const reasons = results.flatMap((result) =>
    result.status === 'rejected' ? [result.reason as unknown] : [],
  )
  if (reasons.length === 0) return
  const full = reasons.find(isStorageFull)
  throw full ? await storageFullError(what, bytes, full) : reasons[0]
}

/** All kept runs, newest first. */
export async function listRuns(): Promise<RunRecord[]> {
  const runs = await (await database()).getAll('runs')
  return runs.map(current).sort((a, b) => b.created - a.created)
}

/** Throws when there is no such run. */
export async function getRun(id: string): Promise<RunRecord> {
  const run = await (await database()).get('runs', id)
  if (!run) throw new Error(`There is no kept run ${id}; it may have been deleted in another tab.`)
  return current(run)
}

/** The record with its adapter and arguments in today's form. */
function current(run: RunRecord): RunRecord {
  return { ...run, adapter: currentAdapter(run.adapter), args: currentArguments(run.args) }
}

/** Writes the record over the run's earlier one. */
export async function putRun(run: RunRecord): Promise<void> {
  const tx = (await database()).transaction('runs', 'readwrite')
  await commit(tx, () => [tx.store.put(run)], `the record of “${run.name}”`, JSON.stringify(run).length)
}

export async function renameRun(id: string, name: string): Promise<void> {
  if (name.trim() === '') throw new Error('A run needs a name.')
  const tx = (await database()).transaction('runs', 'readwrite')
  const run = await tx.store.get(id)
  if (!run) throw new Error(`There is no kept run ${id}; it may have been deleted in another tab.`)
  await commit(
    tx,
    () => [tx.store.put({ ...run, name: name.trim() })],
    `the name “${name.trim()}”`,
    name.length,
  )
}

/** Keeps the run's adapter, or its setup of adapters, in place of its earlier one, and the size in its record. */
export async function putAdapter(runId: string, kept: AdapterBundle | SetupBundle): Promise<void> {
  const { bundle, tensors } = 'adapter' in kept ? withoutTensors(kept) : packed(kept)
  const bytes = writeSafetensors(tensors)
  const tx = (await database()).transaction(['runs', 'adapters'], 'readwrite')
  const run = await tx.objectStore('runs').get(runId)
  const write = () => [
    tx.objectStore('adapters').put({ runId, bundle, bytes }),
    ...(run ? [tx.objectStore('runs').put({ ...run, size: bytes.length })] : []),
  ]
  await commit(tx, write, `the adapter “${bundle.name}”`, bytes.length)
}

function withoutTensors({ tensors, ...bundle }: AdapterBundle) {
  return { bundle, tensors }
}

function packed(setup: SetupBundle) {
  const { packed: bundle, tensors } = packSetup(setup)
  return { bundle, tensors }
}

/** The run's adapter, or null when it has none yet or a setup of several. */
export async function getAdapter(runId: string): Promise<AdapterBundle | null> {
  const row = await (await database()).get('adapters', runId)
  if (!row || !('adapter' in row.bundle)) return null
  const { adapter, head, ...rest } = row.bundle
  const tensors = await readSafetensors(row.bytes)
  return { ...rest, adapter: currentAdapter(adapter), head: currentHead(head), tensors }
}

/** The run's setup of adapters, or null when it has none. */
export async function getSetup(runId: string): Promise<SetupBundle | null> {
  const row = await (await database()).get('adapters', runId)
  if (!row || 'adapter' in row.bundle) return null
  return unpackSetup(row.bundle, await readSafetensors(row.bytes))
}

/** Writes over the older of the run's two slots; the newer one stays until this one is on disk. */
export async function putCheckpoint(runId: string, { step, state, tensors }: Checkpoint): Promise<void> {
  const bytes = writeSafetensors(tensors)
  const tx = (await database()).transaction('checkpoints', 'readwrite')
  const newest = await tx.store.index('newest').openKeyCursor(slotsOf(runId), 'prev')
  const slot = newest?.primaryKey[1] === 0 ? 1 : 0
  const sequence = newest ? newest.key[1] + 1 : 0
  const row = { runId, slot, step, sequence, state, bytes } as const
  await commit(tx, () => [tx.store.put(row)], `the checkpoint at step ${step}`, bytes.length)
}

/** The newest readable checkpoint of a run, or null; the older slot serves when the newer one is damaged. */
export async function getCheckpoint(runId: string): Promise<Checkpoint | null> {
  const rows = await (await database()).getAllFromIndex('checkpoints', 'newest', slotsOf(runId))
  let damage: unknown = null
  for (const { step, state, bytes } of rows.reverse()) {
    try {
      return { step, state, tensors: await readSafetensors(bytes) }
    } catch (error) {
      damage = error
    }
  }
  if (damage !== null)
    throw new Error('Both checkpoints of this run are damaged; train it again.', { cause: damage })
  return null
}

/** Step of the run's newest checkpoint, or null, without reading its tensors. */
export async function checkpointStep(runId: string): Promise<number | null> {
  const tx = (await database()).transaction('checkpoints')
  const newest = await tx.store.index('newest').openKeyCursor(slotsOf(runId), 'prev')
  return newest ? newest.key[2] : null
}

/** Forgets the checkpoints of a run that is over. */
export async function deleteCheckpoints(runId: string): Promise<void> {
  const tx = (await database()).transaction('checkpoints', 'readwrite')
  await commit(tx, () => [tx.store.delete(IDBKeyRange.bound([runId, 0], [runId, 1]))], 'deleting', 0)
}

/** Removes a run with all that belongs to it, and returns it for restoreRun. */
export async function deleteRun(id: string): Promise<DeletedRun> {
  const tx = (await database()).transaction(['runs', 'adapters', 'checkpoints'], 'readwrite')
  const [runs, adapters, checkpoints] = [
    tx.objectStore('runs'),
    tx.objectStore('adapters'),
    tx.objectStore('checkpoints'),
  ]
  const slots = IDBKeyRange.bound([id, 0], [id, 1])
  const [run, adapter, rows] = await Promise.all([runs.get(id), adapters.get(id), checkpoints.getAll(slots)])
  if (!run) throw new Error(`There is no kept run ${id}; it may have been deleted in another tab.`)
  await commit(tx, () => [runs.delete(id), adapters.delete(id), checkpoints.delete(slots)], 'deleting', 0)
  return { run, adapter: adapter ?? null, checkpoints: rows }
}

/** Puts a deleted run back as it was. */
export async function restoreRun({ run, adapter, checkpoints }: DeletedRun): Promise<void> {
  const tx = (await database()).transaction(['runs', 'adapters', 'checkpoints'], 'readwrite')
  const write = () => [
    tx.objectStore('runs').put(run),
    ...(adapter ? [tx.objectStore('adapters').put(adapter)] : []),
    ...checkpoints.map((row) => tx.objectStore('checkpoints').put(row)),
  ]
  const bytes = [adapter, ...checkpoints].reduce((sum, row) => sum + (row?.bytes.length ?? 0), 0)
  await commit(tx, write, `the run “${run.name}”`, bytes)
}

/** Closes the database, for a page that goes away; the next call opens it again. */
export async function closeDatabase(): Promise<void> {
  const db = opening
  opening = null
  if (db) (await db).close()
}

/** Index range of a run's checkpoints, oldest first. */
function slotsOf(runId: string): IDBKeyRange {
  return IDBKeyRange.bound([runId, -Infinity], [runId, Infinity])
}
