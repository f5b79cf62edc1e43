/** What went wrong, as the page shows it until it is dismissed or no longer true. */
import type { Command } from '../protocol.ts'

export interface Alert {
  id: number
  message: string
  fatal: boolean
  /** What failed; asking for it again takes the alert away. */
  command: Command['type'] | null
}

/** Failures of other commands that trying this one makes old news. */
const replaces: Partial<Record<Command['type'], Command['type'][]>> = {
  openDevice: ['openModel'],
  openData: ['mapData', 'resumeRun'],
  train: ['resumeRun', 'openRun'],
}

/** The alerts that still say something when `command` is about to be tried. */
export function standing(alerts: Alert[], command: Command['type']): Alert[] {
  const settled: (Command['type'] | null)[] = [command, ...(replaces[command] ?? [])]
  return alerts.filter((alert) => !settled.includes(alert.command) && !alert.fatal)
}
