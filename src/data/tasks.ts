/** Batches of several tasks that train heads of their own on one backbone. */
import type { Batch } from './batches.ts'

/** One task's batches of an epoch, and the head that they are for. */
export interface TaskBatches {
  head: string
  batches: Batch[]
}

/**
 * Together: the micro-batches of each optimiser step, one of every task, so that a step follows the mean of their
 * gradients. There are as many steps as the longest task has batches; shorter ones start over.
 */
export function togetherSteps(tasks: TaskBatches[]): Batch[][] {
  checkTasks(tasks)
  const steps = Math.max(...tasks.map(({ batches }) => batches.length))
  return Array.from({ length: steps }, (_, step) =>
    tasks.map(({ head, batches }) => ({ ...batches[step % batches.length]!, head })),
  )
}

function checkTasks(tasks: TaskBatches[]): void {
  const empty = tasks.find(({ batches }) => batches.length === 0)
  if (empty)
    throw new Error(`the task of the head “${empty.head}” has no rows to train on; leave it out or add rows`)
  if (new Set(tasks.map(({ head }) => head)).size < tasks.length)
    throw new Error('two tasks are for one head; give each a head of its own')
}
