/**
 * Where downloaded models are kept: files by path that can be appended to, so that a download goes on where it stopped.
 * The browser's private file system (OPFS) when there is one; otherwise memory, which a reload empties.
 */
import { opfsStore } from './opfs.ts'

export interface FileStore {
  /** False when a reload loses the files. */
  persistent: boolean
  /** The file as it is now, or null. A Blob of a persistent store reads from disk. */
  read(path: string): Promise<Blob | null>
  /** Opens for appending; `keep` false empties the file first. */
  append(path: string, keep: boolean): Promise<FileWriter>
  /** Writes a small file whole. */
  write(path: string, text: string): Promise<void>
  /** Removes a file or a folder with all it holds; nothing happens when there is none. */
  remove(path: string): Promise<void>
  /** Names directly under a folder. */
  list(path: string): Promise<string[]>
}

export interface FileWriter {
  /** Throws QuotaExceededError when the disk is full; what was written before stays. */
  write(bytes: Uint8Array<ArrayBuffer>): Promise<void>
  /** Puts everything on disk and releases the file. */
  close(): Promise<void>
}

/** The best store this browser has. */
export async function openFileStore(): Promise<FileStore> {
  if (!globalThis.navigator?.storage?.getDirectory) return memoryStore()
  try {
    return opfsStore(await navigator.storage.getDirectory())
  } catch (error) {
    // Private windows of some browsers have the function and refuse to run it.
    if (error instanceof DOMException) return memoryStore()
    throw error
  }
}

/** Files in memory, in the pieces in which they came. */
export function memoryStore(): FileStore {
  const files = new Map<string, Blob[]>()
  return {
    persistent: false,
    read: async (path) => {
      const pieces = files.get(path)
      return pieces ? new Blob(pieces) : null
    },
    append: async (path, keep) => {
      const pieces = (keep && files.get(path)) || []
      files.set(path, pieces)
      return { write: async (bytes) => void pieces.push(new Blob([bytes])), close: async () => {} }
    },
    write: async (path, text) => void files.set(path, [new Blob([text])]),
    remove: async (path) => {
      for (const name of [...files.keys()])
        if (name === path || name.startsWith(`${path}/`)) files.delete(name)
    },
    list: async (path) => {
      const inside = [...files.keys()].filter((name) => name.startsWith(`${path}/`))
      return [...new Set(inside.map((name) => name.slice(path.length + 1).split('/')[0]!))]
    },
  }
}
