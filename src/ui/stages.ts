/** The five stages of the path and the line each shows when it is folded. */
import { bytes, count, plural } from './format.ts'
import type { Command } from '../protocol.ts'
import { knownMethods } from './methods.svelte.ts'
import { headline } from './scores.ts'
import type { Session } from './session.svelte.ts'

export const stages = [
  { name: 'model', title: 'Model' },
  { name: 'data', title: 'Data' },
  { name: 'adapter', title: 'Adapter' },
  { name: 'train', title: 'Train' },
  { name: 'use', title: 'Use' },
] as const

/** The result stands between Train and Use once there is one. */
export type StageName = (typeof stages)[number]['name'] | 'result'

/** What a stage says beside its title. */
export interface StageLine {
  line: string
  done: boolean
}

function modelLine({ model }: Session): StageLine {
  if (!model) return { line: '', done: false }
  const { base, config, notes } = model
  const noted = notes.length > 0 ? `; ${plural(notes.length, 'note')} inside` : ''
  return {
    line: `${base.name}, ${config.num_hidden_layers} layers, ${bytes(model.bytes)}${noted}`,
    done: true,
  }
}

function dataLine({ tables, dataset }: Session): StageLine {
  if (tables.length === 0) return { line: '', done: false }
  const names = tables.length > 2 ? plural(tables.length, 'table') : tables.map(({ name }) => name).join(', ')
  if (!dataset) return { line: names, done: false }
  const rows = dataset.splits.map((split) => `${count(split.rows)} ${split.split}`).join(', ')
  const done = !dataset.problems.some(({ level }) => level === 'error')
  return { line: `${names}: ${rows}, ${plural(dataset.id2label.length, 'class', 'classes')}`, done }
}

function adapterLine({ plan, summary, dataset }: Session): StageLine {
  const { config, draft } = plan
  const text = knownMethods()?.methodText(config) ?? ''
  const method = config.architecture === 'head' && text !== '' ? 'the head alone' : text
  const how =
    draft.members.length > 0 ? `${method}, with ${draft.members.map(({ name }) => name).join(', ')}` : method
  const trained = summary.filter((row) => row.train).reduce((sum, row) => sum + row.params, 0)
  return {
    line: trained > 0 ? `${how}, ${count(trained)} trained` : how,
    done: dataset !== null && trained > 0,
  }
}

function trainLine({ run, training }: Session): StageLine {
  if (!run) return { line: '', done: false }
  if (training) return { line: run.state === 'paused' ? 'paused' : 'training', done: false }
  return { line: run.name, done: run.state !== 'broken' }
}

function resultLine({ run }: Session): StageLine {
  if (!run?.test) return { line: 'no test split', done: false }
  return { line: `${headline(run.test)}, test split`, done: true }
}

/** The line of every stage. */
export function lines(session: Session): Record<StageName, StageLine> {
  return {
    model: modelLine(session),
    data: dataLine(session),
    adapter: adapterLine(session),
    train: trainLine(session),
    result: resultLine(session),
    use: { line: session.use.active?.name ?? '', done: false },
  }
}

const activities: Partial<Record<Command['type'], string>> = {
  openDevice: 'Opening the device and testing it…',
  openModel: 'Loading the model…',
  openData: 'Reading the rows…',
  mapData: 'Checking the rows…',
  train: 'Preparing the run…',
  resumeRun: 'Preparing the run…',
  openRun: 'Putting the adapter into the model…',
  importAdapter: 'Reading the adapter…',
  assemble: 'Putting the adapters into the model…',
  mergeAdapter: 'Folding the adapter into the model’s weights…',
  resetAdapter: 'Taking the adapter out of the model’s weights…',
  averageAdapters: 'Averaging the adapters…',
  exportAssembly: 'Writing the export and reading it back…',
  tryOnnx: 'Running the ONNX file with transformers.js…',
  predictFile: 'Predicting the file…',
  exportRun: 'Writing the export and reading it back…',
}

/** What is going on, in words, for the commands that wait for their answer; blank when nothing is. */
export function doing(pending: Command['type'][]): string {
  for (const type of pending) {
    const words = activities[type]
    if (words) return words
  }
  return ''
}

/** There is something to say about how a run did: it has ended by itself or by the user, and was trained here. */
export function hasResult({ run, training }: Session): boolean {
  return run !== null && !training && run.state !== 'broken'
}

/** Which stages are open when the user has not said: the one in hand, not those behind or before it. */
export function openByItself(session: Session, sampling: boolean): Record<StageName, boolean> {
  const { model, tables, dataset, training, use } = session
  const ended = hasResult(session)
  const preparing = !sampling && !training && !ended
  return {
    model: !model && !training && !sampling,
    data: preparing && (model !== null || tables.length > 0),
    adapter: preparing && dataset !== null,
    train: training || (preparing && dataset !== null),
    result: ended,
    use: use.active !== null && !training,
  }
}
