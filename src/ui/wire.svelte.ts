/**
 * The session's end of the wire: owns the worker, made at the first need, and pairs each command that waits with the
 * event that answers it.
 */
import type { Command, RunEvent } from '../protocol.ts'
import type { Connect, Connection } from './connect.ts'

interface Waiter {
  command: Command['type']
  expect: RunEvent['type']
  settle: (ok: boolean) => void
}

export class Wire {
  /** Commands whose answer has not come yet. */
  pending = $state.raw<Command['type'][]>([])
  #connect: Connect
  #receive: (event: RunEvent) => void
  #worker: Connection | null = null
  #waiting: Waiter[] = []

  constructor(connect: Connect, receive: (event: RunEvent) => void) {
    this.#connect = connect
    this.#receive = receive
  }

  /** Sends `command` and waits for its event; false when it failed. */
  ask(command: Command, expect: RunEvent['type']): Promise<boolean> {
    this.#worker ??= this.#connect(this.#receive, (message) =>
      this.#receive({ type: 'error', command: null, runId: null, message, fatal: true }),
    )
    const worker = this.#worker
    return new Promise((settle) => {
      this.#wait([...this.#waiting, { command: command.type, expect, settle }])
      worker.send(command)
    })
  }

  /** Sends without waiting; nothing happens while there is no worker. */
  post(command: Command): void {
    this.#worker?.send(command)
  }

  /** Lets whoever waits for `event` go on: an error ends all that wait for its command, an answer the first. */
  settle(event: RunEvent): void {
    const failed = event.type === 'error'
    const met = this.#waiting.filter((waiter) =>
      failed ? event.fatal || waiter.command === event.command : waiter.expect === event.type,
    )
    const settled = failed ? met : met.slice(0, 1)
    if (settled.length === 0) return
    this.#wait(this.#waiting.filter((waiter) => !settled.includes(waiter)))
    for (const waiter of settled) waiter.settle(!failed)
  }

  /** Gives the worker up; another is made at the next need. */
  close(): void {
    this.#worker?.close()
    this.#worker = null
  }

  #wait(waiting: Waiter[]): void {
    this.#waiting = waiting
    this.pending = waiting.map(({ command }) => command)
  }
}
