/** A run as the page draws it, and how the worker's events about it change that. */
import type { Judged, Metrics, RunEvent } from '../protocol.ts'
import { History } from './history.ts'

export type EventOf<T extends RunEvent['type']> = Extract<RunEvent, { type: T }>

/** Events that belong to one run. */
export type AboutRun = EventOf<'started' | 'state' | 'tick' | 'step' | 'inPath' | 'evaluation' | 'done'>

export interface Run {
  runId: string
  name: string
  total_steps: number
  id2label: string[]
  /** `kept`: opened from the library; `broken`: an error ended it; else how a run of this session ended. */
  state: 'running' | 'paused' | 'kept' | 'broken' | EventOf<'done'>['reason']
  note: string | null
  best_step: number
  test: Metrics | null
  judged: Judged[]
  history: History
  /** Its speeds say nothing about a GPU's. */
  slow: boolean
  /** Optimiser steps done, and the time left once it means something. */
  step: number
  seconds_left: number | null
  /** The newest step and evaluation; like `step`, changed in place, read together with `Session.frame`. */
  latest: EventOf<'step'> | null
  validation: Metrics | null
  /** The newest word on whether each trained adapter is in the path. */
  inPath: EventOf<'inPath'>[]
}

/** A run at its first event. `earlier` is what is shown now: a run that goes on keeps its curves up to that step. */
export function begin(event: EventOf<'started'>, slow: boolean, earlier: Run | null): Run {
  const again = earlier?.runId === event.runId ? earlier.history : null
  again?.truncateAfter(event.step)
  return {
    runId: event.runId,
    name: event.name,
    total_steps: event.total_steps,
    id2label: event.id2label,
    state: 'running',
    note: null,
    best_step: 0,
    test: null,
    judged: [],
    slow,
    step: event.step,
    seconds_left: null,
    history: again ?? new History(event.id2label.length),
    latest: null,
    validation: null,
    inPath: [],
  }
}

/** The run after an event; the same object where only its curves have grown. */
export function after(run: Run, event: Exclude<AboutRun, { type: 'started' }>): Run {
  switch (event.type) {
    case 'state':
      return { ...run, state: event.state }
    case 'tick':
      run.step = event.step
      run.seconds_left = event.seconds_left
      return run
    case 'step':
      run.history.addStep(event)
      run.latest = event
      return run
    case 'inPath':
      return { ...run, inPath: [...run.inPath.filter(({ name }) => name !== event.name), event] }
    case 'evaluation': {
      if (event.split !== 'validation') return run
      const { step, epoch, metrics, best } = event
      const f1_per_class = metrics.per_class.map(({ f1 }) => f1)
      run.history.addEvaluation({ ...metrics, step, epoch, f1_per_class }, best)
      run.validation = metrics
      return run
    }
    case 'done': {
      const { reason, note, best_step, test, judged } = event
      run.history.best = best_step
      return { ...run, state: reason, note, best_step, test, judged }
    }
    default:
      return event satisfies never
  }
}
