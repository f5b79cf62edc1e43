/**
 * FileStore in the browser's origin private file system. In a worker it writes in place through a synchronous handle,
 * so that even a killed tab keeps what it had; elsewhere through a writable stream, which is committed now and then.
 */
import type { FileStore, FileWriter } from './fileStore.ts'

/** Bytes between two flushes: what a power cut can cost. */
const flushBytes = 32 << 20
/** Bytes between two commits of a stream, each of which copies the file. */
const commitBytes = 64 << 20

/** The part of FileSystemSyncAccessHandle that is used here; it exists in dedicated workers only. */
interface SyncHandle {
  getSize(): number
  truncate(size: number): void
  write(bytes: Uint8Array, options: { at: number }): number
  flush(): void
  close(): void
}

interface SyncFileHandle extends FileSystemFileHandle {
  createSyncAccessHandle(): Promise<SyncHandle>
}

export function opfsStore(root: FileSystemDirectoryHandle): FileStore {
  return {
    persistent: true,
    read: async (path) => {
      const handle = await find(root, path)
      return handle?.kind === 'file' ? (handle as FileSystemFileHandle).getFile() : null
    },
    append: async (path, keep) => {
      const handle = await makeFile(root, path)
      try {
        return isSync(handle) ? await syncWriter(handle, keep) : await streamWriter(handle, keep)
      } catch (cause) {
        if (cause instanceof DOMException && cause.name === 'NoModificationAllowedError')
          throw new Error(
            'Another tab is downloading this model; wait for it, or close that tab and try again.',
            { cause },
          )
        throw cause
      }
    },
    write: async (path, text) => {
      const handle = await makeFile(root, path)
      const writer = isSync(handle) ? await syncWriter(handle, false) : await streamWriter(handle, false)
      try {
        await writer.write(new TextEncoder().encode(text))
      } finally {
        await writer.close()
      }
    },
    remove: async (path) => {
      const { folder, name } = splitPath(path)
      const parent = await find(root, folder)
      if (parent?.kind === 'directory' && (await find(root, path)))
        await (parent as FileSystemDirectoryHandle).removeEntry(name, { recursive: true })
    },
    list: async (path) => {
      const folder = await find(root, path)
      const names: string[] = []
      if (folder?.kind === 'directory')
        for await (const name of (folder as FileSystemDirectoryHandle).keys()) names.push(name)
      return names
    },
  }
}

function isSync(handle: FileSystemFileHandle): handle is SyncFileHandle {
  return 'createSyncAccessHandle' in handle
}

async function syncWriter(file: SyncFileHandle, keep: boolean): Promise<FileWriter> {
  const handle = await file.createSyncAccessHandle()
  if (!keep) handle.truncate(0)
  let size = handle.getSize()
  let unflushed = 0
  return {
    write: async (bytes) => {
      const written = handle.write(bytes, { at: size })
      size += written
      if (written < bytes.length)
        throw new DOMException('The disk took only part of the bytes.', 'QuotaExceededError')
      unflushed += written
      if (unflushed < flushBytes) return
      handle.flush()
      unflushed = 0
    },
    close: async () => {
      handle.flush()
      handle.close()
    },
  }
}

async function streamWriter(file: FileSystemFileHandle, keep: boolean): Promise<FileWriter> {
  let stream = await file.createWritable({ keepExistingData: keep })
  if (keep) await stream.seek((await file.getFile()).size)
  let uncommitted = 0
  let broken = false
  return {
    write: async (bytes) => {
      try {
        await stream.write(bytes)
      } catch (error) {
        broken = true
        // Nobody aborts this stream: Chromium calls a full disk AbortError when the stream breaks before the reason is known.
        if (error instanceof DOMException && error.name === 'AbortError')
          throw new DOMException(`The disk took no more: ${error.message}`, 'QuotaExceededError')
        throw error
      }
      uncommitted += bytes.length
      if (uncommitted < commitBytes) return
      await stream.close()
      stream = await file.createWritable({ keepExistingData: true })
      await stream.seek((await file.getFile()).size)
      uncommitted = 0
    },
    // A stream that failed is closed already, and the file is as it was at the last commit.
    close: async () => {
      if (!broken) await stream.close()
    },
  }
}

function splitPath(path: string): { folder: string; name: string } {
  const slash = path.lastIndexOf('/')
  return { folder: path.slice(0, Math.max(slash, 0)), name: path.slice(slash + 1) }
}

async function makeFile(root: FileSystemDirectoryHandle, path: string): Promise<FileSystemFileHandle> {
  const { folder, name } = splitPath(path)
  let directory = root
  for (const part of folder.split('/').filter(Boolean))
    directory = await directory.getDirectoryHandle(part, { create: true })
  return directory.getFileHandle(name, { create: true })
}

/** The file or folder at `path`, or null. */
async function find(
  root: FileSystemDirectoryHandle,
  path: string,
): Promise<FileSystemDirectoryHandle | FileSystemFileHandle | null> {
  let directory = root
  const parts = path.split('/').filter(Boolean)
  try {
    for (const part of parts.slice(0, -1)) directory = await directory.getDirectoryHandle(part)
    const last = parts.at(-1)
    if (last === undefined) return directory
    try {
      return await directory.getFileHandle(last)
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== 'TypeMismatchError') throw error
      return await directory.getDirectoryHandle(last)
    }
  } catch (error) {
    if (error instanceof DOMException && error.name === 'NotFoundError') return null
    throw error
  }
}
