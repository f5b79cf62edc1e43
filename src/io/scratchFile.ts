/**
 * A file for numbers in the browser's origin private file system that lives as long as a run: room for what memory has
 * none for. It is read and written in place, at once, which browsers allow in dedicated workers only.
 */

/** Places are counted in bytes. */
export interface ScratchFile {
  /** Bytes that it may hold. */
  capacity: number
  /** False: the disk took no more. */
  write(values: Float32Array<ArrayBuffer>, at: number): boolean
  /** Fills `values`. Throws when the file ends before. */
  read(values: Float32Array<ArrayBuffer>, at: number): void
  /** Removes it. */
  close(): Promise<void>
}

const folder = 'scratch'
/** Bytes at most, and the share of what the browser would still give that is taken. */
const most = 8 * 2 ** 30
const share = 0.5

/** The part of FileSystemSyncAccessHandle that is used here. */
interface SyncHandle {
  write(values: Float32Array<ArrayBuffer>, options: { at: number }): number
  read(values: Float32Array<ArrayBuffer>, options: { at: number }): number
  close(): void
}

/** A fresh file; null where the browser has none, or not here. */
export async function openScratchFile(): Promise<ScratchFile | null> {
  const storage = globalThis.navigator?.storage
  if (!storage?.getDirectory) return null
  try {
    const root = await storage.getDirectory()
    const directory = await root.getDirectoryHandle(folder, { create: true })
    for await (const left of directory.keys()) await removeUnlessOpen(directory, left)
    const name = crypto.randomUUID()
    const handle = await syncHandle(await directory.getFileHandle(name, { create: true }))
    if (!handle) {
      await directory.removeEntry(name)
      return null
    }
    const { quota = 0, usage = 0 } = await storage.estimate()
    return fileOf(handle, Math.min(most, share * (quota - usage)), () => directory.removeEntry(name))
  } catch (error) {
    // Private windows of some browsers have the functions and refuse to run them.
    if (error instanceof DOMException) return null
    throw error
  }
}

function fileOf(handle: SyncHandle, capacity: number, remove: () => Promise<void>): ScratchFile {
  return {
    capacity,
    write(values, at) {
      try {
        return handle.write(values, { at }) === values.byteLength
      } catch (error) {
        if (error instanceof DOMException) return false
        throw error
      }
    },
    read(values, at) {
      if (handle.read(values, { at }) < values.byteLength)
        throw new Error('What the run had put on disk is not all there any more; start it again.')
    },
    async close() {
      handle.close()
      await remove()
    },
  }
}

async function syncHandle(file: FileSystemFileHandle): Promise<SyncHandle | null> {
  if (!('createSyncAccessHandle' in file)) return null
  return (file as { createSyncAccessHandle(): Promise<SyncHandle> }).createSyncAccessHandle()
}

/** Files of runs that a crash or a closed tab cut off; those of a run in another tab are open and stay. */
async function removeUnlessOpen(directory: FileSystemDirectoryHandle, name: string): Promise<void> {
  try {
    await directory.removeEntry(name)
  } catch (error) {
    if (!(error instanceof DOMException)) throw error
  }
}
