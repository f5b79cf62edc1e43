/**
 * The kept runs as the page shows them. Reads and renames them in the browser's own storage; the worker writes them.
 * A deleted run is held in memory, whole, so that deleting can be undone until the page closes.
 */
import { checkpointStep, deleteRun, listRuns, renameRun, restoreRun } from '../io/db.ts'
import type { DeletedRun, RunRecord } from '../io/db.ts'
import { requestPersistence, storageEstimate } from '../io/storage.ts'
import type { StorageEstimate } from '../io/storage.ts'
import type { Metrics } from '../protocol.ts'
import { History } from './history.ts'

export type { DeletedRun, RunRecord }

export class Library {
  runs = $state.raw<RunRecord[]>([])
  storage = $state.raw<StorageEstimate | null>(null)
  /** Step of the last checkpoint of each run that was cut off, by run id. */
  resumable = $state.raw(new Map<string, number>())
  deleted = $state.raw<DeletedRun[]>([])
  #report: (message: string) => void

  /** `report` gets a sentence when the storage fails. */
  constructor(report: (message: string) => void) {
    this.#report = report
  }

  /** The newest run that was cut off and can go on. */
  get unfinished(): { run: RunRecord; step: number } | null {
    for (const run of this.runs) {
      const step = this.resumable.get(run.id)
      if (step !== undefined) return { run, step }
    }
    return null
  }

  /** Reads everything again; cheap enough to call after every change. */
  async refresh(): Promise<void> {
    await this.#guard(async () => {
      this.runs = await listRuns()
      this.storage = await storageEstimate()
      const steps = new Map<string, number>()
      for (const { id, status } of this.runs) {
        const step = status === 'running' ? await checkpointStep(id) : null
        if (step !== null) steps.set(id, step)
      }
      this.resumable = steps
    })
  }

  async rename(id: string, name: string): Promise<void> {
    await this.#guard(() => renameRun(id, name))
    await this.refresh()
  }

  async delete(id: string): Promise<void> {
    await this.#guard(async () => {
      const gone = await deleteRun(id)
      this.deleted = [...this.deleted, gone]
    })
    await this.refresh()
  }

  async undo(gone: DeletedRun): Promise<void> {
    await this.#guard(async () => {
      await restoreRun(gone)
      this.deleted = this.deleted.filter((other) => other !== gone)
    })
    await this.refresh()
  }

  /** Asks the browser not to clear the runs by itself; a refusal is said when the user asked. */
  async persist(asked: boolean): Promise<void> {
    const kept = await requestPersistence()
    if (!kept && asked)
      this.#report(
        'The browser did not promise to keep the runs. They stay until it needs room; export what must not be lost.',
      )
    await this.refresh()
  }

  async #guard(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      this.#report(error instanceof Error ? error.message : String(error))
    }
  }
}

/** A record holds what any metric needs; an older or foreign one may lack the classes. */
export function isWhole(metrics: object | null | undefined): metrics is Metrics {
  return metrics != null && 'per_class' in metrics && 'confusion' in metrics
}

/** The curves of a kept run, as they were drawn while it ran. */
export function historyOf(record: RunRecord): History {
  const history = new History(record.id2label.length)
  for (const point of record.history.step) history.addStep(point)
  for (const { step, epoch, split, metrics } of record.history.evaluation) {
    if (split !== 'validation') continue
    const f1_per_class = isWhole(metrics) ? metrics.per_class.map(({ f1 }) => f1) : []
    history.addEvaluation({ step, epoch, ...metrics, f1_per_class }, step === record.best_step)
  }
  return history
}
