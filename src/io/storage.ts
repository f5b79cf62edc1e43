/**
 * How much room the browser gives this page, and the one sentence for when it is used up. Every writer in io/ turns
 * its failures into that sentence here, so that a full disk is said before anything is lost.
 */

export interface StorageEstimate {
  /** Bytes this page uses, of everything: runs, adapters, kept models. */
  used: number
  /** Bytes the browser would still let it write. */
  free: number
  /** True when the browser has promised not to clear the data by itself. */
  persisted: boolean
}

/** Used and free bytes, or null where the browser does not tell. */
export async function storageEstimate(): Promise<StorageEstimate | null> {
  const storage = globalThis.navigator?.storage
  if (!storage?.estimate) return null
  const { usage, quota } = await storage.estimate()
  if (usage === undefined || quota === undefined) return null
  const persisted = storage.persisted ? await storage.persisted() : false
  return { used: usage, free: Math.max(quota - usage, 0), persisted }
}

/** Asks the browser to keep this page's data until the user clears it. Returns whether it agreed. */
export async function requestPersistence(): Promise<boolean> {
  const storage = globalThis.navigator?.storage
  if (!storage?.persist) return false
  return (await storage.persisted()) || (await storage.persist())
}

/** `12.3 MB`, decimal units as disks and browsers count them. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`
  const units = ['kB', 'MB', 'GB', 'TB']
  let value = bytes / 1000
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${value >= 99.5 ? Math.round(value) : Number(value.toPrecision(3))} ${units[unit]}`
}

/** True for the browser's own error when the page's storage is full, whoever wraps it. */
export function isStorageFull(error: unknown): boolean {
  return error instanceof Error && (error.name === 'QuotaExceededError' || error.name === 'ENOSPC')
}

/** The error for a write that found no room: what needed how much, what is free, what to do. */
export async function storageFullError(what: string, needed: number, cause?: unknown): Promise<Error> {
  const estimate = await storageEstimate()
  // Some browsers answer with a fixed figure that is not the room they have.
  const free =
    estimate && estimate.free < needed
      ? `the browser has ${formatBytes(estimate.free)} free for this page`
      : 'the browser gives no more room'
  return new Error(
    `Storage is full: ${what} needs ${formatBytes(needed)} and ${free}; delete runs or kept models, or free disk space, and try again. Nothing already kept was lost.`,
    { cause },
  )
}
