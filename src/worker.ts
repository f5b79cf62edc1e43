/**
 * The worker's end of the wire: one switch from commands to the workbench, and the only place that posts. Errors are
 * caught here and nowhere else, and leave as sentences.
 */
import type { Command, RunEvent } from './protocol.ts'
import { Workbench } from './workbench.ts'

/** Large bytes are handed over, not copied. */
function post(event: RunEvent): void {
  self.postMessage(event, event.type === 'file' ? { transfer: [event.bytes.buffer] } : undefined)
}

function fail(error: unknown, command: Command | null): void {
  const message = error instanceof Error ? error.message : String(error)
  const runId = command && 'runId' in command ? command.runId : null
  post({ type: 'error', command: command?.type ?? null, runId, message, fatal: false })
}

const workbench = new Workbench(post)

function carryOut(command: Command): Promise<void> | void {
  switch (command.type) {
    case 'openDevice':
      return workbench.openDevice(command)
    case 'openModel':
      return workbench.openModel(command)
    case 'cancelDownload':
      return workbench.cancelDownload()
    case 'openData':
      return workbench.openData(command)
    case 'mapData':
      return workbench.mapData(command)
    case 'describe':
      return workbench.describe(command)
    case 'measure':
      return workbench.measure(command)
    case 'train':
      return workbench.train(command)
    case 'resumeRun':
      return workbench.resumeRun(command)
    case 'pause':
      return workbench.pause()
    case 'resume':
      return workbench.resume()
    case 'step':
      return workbench.step()
    case 'stop':
      return workbench.stop()
    case 'openRun':
      return workbench.openRun(command)
    case 'assemble':
      return workbench.assemble(command)
    case 'mergeAdapter':
      return workbench.mergeAdapter(command)
    case 'resetAdapter':
      return workbench.resetAdapter(command)
    case 'averageAdapters':
      return workbench.averageAdapters(command)
    case 'importAdapter':
      return workbench.importAdapter(command)
    case 'predict':
      return workbench.predict(command)
    case 'predictFile':
      return workbench.predictFile(command)
    case 'exportRun':
      return workbench.exportRun(command)
    case 'exportAssembly':
      return workbench.exportAssembly(command)
    case 'tryOnnx':
      return workbench.tryOnnx(command)
    default:
      command satisfies never
  }
}

/** Commands that steer what is under way; the page need not wait for anything to send them. */
const immediate: Command['type'][] = ['cancelDownload', 'pause', 'resume', 'step', 'stop']
/** Commands that the next one need not wait for. */
const long: Command['type'][] = ['train', 'resumeRun']
/** The rest follow one another, so that a page may send "device, model, data, train" at once. */
let queue: Promise<void> = Promise.resolve()

self.onmessage = ({ data: command }: MessageEvent<Command>) => {
  const act = async (): Promise<void> => {
    try {
      await carryOut(command)
    } catch (error) {
      fail(error, command)
    }
  }
  if (immediate.includes(command.type)) void act()
  else if (long.includes(command.type)) queue = queue.then(() => void act())
  else queue = queue.then(act)
}

self.onunhandledrejection = ({ reason }) => fail(reason, null)
