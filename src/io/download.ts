/**
 * One large file over HTTP into a store: resumed by Range when the server still has the same file, hashed as it
 * arrives, checked against the size and SHA-256 that the server names. Every failure is a sentence that says what is
 * kept and what to do.
 */
import { bodyLength, bodyPieces } from './body.ts'
import { digestBlob, startDigest } from './digest.ts'
import type { FileStore } from './fileStore.ts'
import { trackProgress, type DownloadProgress } from './progress.ts'
import { formatBytes, isStorageFull, storageEstimate, storageFullError } from './storage.ts'

export interface DownloadOptions {
  url: string
  /** Where in the store, and what to call it. */
  path: string
  file: string
  store: FileStore
  onProgress: (progress: DownloadProgress) => void
  signal: AbortSignal
  /** SHA-256 by file name from the server's listing; asked when the answer itself has none. */
  checksums: () => Promise<Map<string, string>>
}

export interface Download {
  file: string
  size: number
  sha256: string
  /** False when the server named no SHA-256. */
  checked: boolean
}

/** What is known of a file whose bytes are only partly here. */
interface PartialMeta {
  url: string
  /** ETag, or else Last-Modified: that the bytes on the server are still the same. */
  validator: string | null
  total: number | null
  /** SHA-256 that the server names. */
  sha256: string | null
}

/** Downloads or completes a file; null when the server has none of that name. */
export async function download(options: DownloadOptions): Promise<Download | null> {
  const { store, path, url, signal } = options
  const partial = await store.read(path)
  const kept = await readMeta(store, path, url)
  const size = kept && partial ? partial.size : 0
  const digest = startDigest()
  if (kept && partial && size > 0 && size === kept.total) {
    await digestBlob(digest, partial, signal)
    return verify(options, kept, size, digest.hex())
  }
  const opened = await openAt(options, kept?.total != null && size > kept.total ? 0 : size, kept)
  if (!opened) return null
  const { response, start } = opened
  const meta = await metaOf(options, response, start)
  await store.write(`${path}.meta`, JSON.stringify(meta))
  if (partial && start > 0) await digestBlob(digest, partial, signal)
  const received = await receive(options, response, start, meta.total, digest.update)
  const download = await verify(options, meta, received, digest.hex())
  await store.write(`${path}.meta`, JSON.stringify({ ...meta, total: received }))
  return download
}

/** Holds the whole file against what the server announced; a file that is wrong is removed. */
async function verify(
  options: DownloadOptions,
  meta: PartialMeta,
  size: number,
  sha256: string,
): Promise<Download> {
  const { file } = options
  if (meta.total !== null && size > meta.total) {
    await forget(options)
    throw new Error(
      `${file} arrived with ${size} bytes where ${meta.total} were announced; it was removed, so try again.`,
    )
  }
  if (meta.sha256 !== null && meta.sha256 !== sha256) {
    await forget(options)
    throw new Error(
      `${file} arrived damaged: its SHA-256 is ${sha256.slice(0, 12)}… and the server names ${meta.sha256.slice(0, 12)}…; it was removed, so download it again.`,
    )
  }
  return { file, size, sha256, checked: meta.sha256 !== null }
}

async function forget({ store, path }: DownloadOptions): Promise<void> {
  await store.remove(path)
  await store.remove(`${path}.meta`)
}

async function readMeta(store: FileStore, path: string, url: string): Promise<PartialMeta | null> {
  const blob = await store.read(`${path}.meta`)
  const meta = blob && blob.size > 0 ? (JSON.parse(await blob.text()) as PartialMeta) : null
  return meta?.url === url ? meta : null
}

/**
 * The response from byte `start` on, or from 0 when the server ignores Range or has another file now. If-Range is not
 * sent: browsers would ask leave for it first, which the hub's storage hosts do not give; the answer is compared instead.
 */
async function openAt(
  { url, file, signal }: DownloadOptions,
  start: number,
  meta: PartialMeta | null,
): Promise<{ response: Response; start: number } | null> {
  const keeps = start > 0 ? `; the ${formatBytes(start)} already downloaded are kept` : ''
  if (start > 0) {
    const response = await request(url, file, { Range: `bytes=${start}-` }, signal, keeps)
    if (!response) return null
    if (response.status === 200) return { response, start: 0 }
    if (response.status === 206 && continues(response, start, meta)) return { response, start }
    await response.body?.cancel()
  }
  const response = await request(url, file, {}, signal, keeps)
  return response && { response, start: 0 }
}

/** Whether a 206 goes on with the file whose first `start` bytes are here. */
function continues(response: Response, start: number, meta: PartialMeta | null): boolean {
  const [, from, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get('content-range') ?? '') ?? []
  if (from !== undefined && Number(from) !== start) return false
  const length = bodyLength(response)
  const size = total !== undefined ? Number(total) : length === null ? null : start + length
  if (meta?.total != null && size !== null && size !== meta.total) return false
  const validator = validatorOf(response)
  if (validator !== null && meta?.validator != null) return validator === meta.validator
  return size !== null && size === meta?.total
}

function validatorOf({ headers }: Response): string | null {
  return headers.get('etag') ?? headers.get('last-modified')
}

async function metaOf(options: DownloadOptions, response: Response, start: number): Promise<PartialMeta> {
  const linked = response.headers.get('x-linked-size')
  const length = bodyLength(response)
  const total = linked !== null ? Number(linked) : length === null ? null : start + length
  return {
    url: options.url,
    validator: validatorOf(response),
    total,
    sha256: await expectedSha256(options, response),
  }
}

/**
 * The hub puts a file's SHA-256 into x-linked-etag of an answer that a browser follows without showing it; the ETag of
 * the storage host behind it may be another hash of 64 digits, so it counts only where nothing was followed.
 */
async function expectedSha256(
  { file, checksums }: DownloadOptions,
  response: Response,
): Promise<string | null> {
  const hex = (value: string | null) => /^(?:W\/)?"?([0-9a-f]{64})"?$/.exec(value ?? '')?.[1] ?? null
  const named =
    hex(response.headers.get('x-linked-etag')) ??
    (response.redirected ? null : hex(response.headers.get('etag')))
  if (named !== null || !response.redirected) return named
  return hex((await checksums()).get(file) ?? null)
}

/** Appends the body to the file; returns the file's size. What arrived before an error stays. */
async function receive(
  { store, path, file, onProgress, signal }: DownloadOptions,
  response: Response,
  start: number,
  total: number | null,
  update: (bytes: Uint8Array) => void,
): Promise<number> {
  const estimate = await storageEstimate()
  if (store.persistent && estimate && total !== null && estimate.free < total - start) {
    await response.body?.cancel()
    throw await storageFullError(`the rest of ${file}`, total - start)
  }
  const writer = await store.append(path, start > 0)
  const report = trackProgress(file, start, total, onProgress)
  let size = start
  try {
    for await (const bytes of piecesOf(response, () => cutError(file, size, total, signal))) {
      await writer.write(bytes)
      update(bytes)
      size += bytes.length
      report(size)
    }
  } catch (error) {
    throw isStorageFull(error)
      ? await storageFullError(`the rest of ${file}`, (total ?? size) - size, error)
      : error
  } finally {
    await writer.close()
  }
  report(size, true)
  if (total !== null && size < total) throw cutError(file, size, total, signal)
  return size
}

async function* piecesOf(response: Response, cut: () => Error): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const pieces = bodyPieces(response)
  for (;;) {
    let next: IteratorResult<Uint8Array<ArrayBuffer>>
    try {
      next = await pieces.next()
    } catch (cause) {
      throw Object.assign(cut(), { cause })
    }
    if (next.done) return
    yield next.value
  }
}

function cutError(file: string, size: number, total: number | null, signal: AbortSignal): Error {
  const arrived = total === null ? formatBytes(size) : `${formatBytes(size)} of ${formatBytes(total)}`
  if (signal.aborted)
    return new Error(
      `The download of ${file} was stopped at ${arrived}; they are kept, and the next download goes on from there.`,
    )
  return new Error(
    `The connection was lost after ${arrived} of ${file}; they are kept, so press download again once the network is back.`,
  )
}

/** GET; null for 404. `keeps` is added to the sentence of a failure. */
export async function request(
  url: string,
  what: string,
  headers: Record<string, string>,
  signal: AbortSignal,
  keeps = '',
): Promise<Response | null> {
  const { host } = new URL(url)
  let response: Response
  try {
    response = await fetch(url, { headers, signal })
  } catch (cause) {
    if (signal.aborted) throw new Error(`The download of ${what} was stopped${keeps}.`, { cause })
    if (globalThis.navigator?.onLine === false)
      throw new Error(
        `You are offline and ${what} is not wholly on this device${keeps}; connect and try again.`,
        { cause },
      )
    throw new Error(
      `${host} could not be reached for ${what}${keeps}; check the network and the hub address, or drop the model's folder on the page.`,
      { cause },
    )
  }
  if (response.ok) return response
  await response.body?.cancel()
  if (response.status === 404 || response.status === 410) return null
  if (response.status === 416) return response
  if (response.status === 401 || response.status === 403)
    throw new Error(
      `${host} refuses ${what} (status ${response.status}): the repository does not exist, is private, or asks to accept terms first${keeps}; download its files there and drop the folder on the page.`,
    )
  const advice = response.status === 429 ? 'too many requests, wait a little' : 'try again later'
  throw new Error(`${host} answers ${response.status} for ${what}${keeps}; ${advice}.`)
}
