/**
 * Starts the worker. A module worker loaded by URL does not fall under the page's Content-Security-Policy when that
 * policy is a meta element; a worker made from a blob does. So a one-line blob module imports the real one, and the
 * policy's list of hosts holds in the worker too, which is where all files are read and all downloads happen.
 * Inside such a worker `location` is the blob's: relative URLs must be resolved here, on the page.
 */
import workerUrl from '../worker.ts?worker&url'
import type { Command, RunEvent } from '../protocol.ts'

/** A worker as the session sees it. */
export interface Connection {
  send: (command: Command) => void
  /** Ends the worker, whatever it is doing. */
  close: () => void
}

/** Starts a worker and returns how to reach it; `failed` gets a sentence when the worker itself breaks. */
export type Connect = (receive: (event: RunEvent) => void, failed: (message: string) => void) => Connection

export const connectWorker: Connect = (receive, failed) => {
  const url = new URL(workerUrl, location.href).href
  const bootstrap = new Blob([`import ${JSON.stringify(url)}`], { type: 'text/javascript' })
  const worker = new Worker(URL.createObjectURL(bootstrap), { type: 'module', name: 'adaptab' })
  worker.onmessage = (message: MessageEvent<RunEvent>) => receive(message.data)
  worker.onerror = (error) =>
    failed(
      `The worker that does the training could not run${error.message ? ` (${error.message})` : ''}. ` +
        'Kept runs are safe: reload the page to start it again.',
    )
  return { send: (command) => worker.postMessage(command), close: () => worker.terminate() }
}
