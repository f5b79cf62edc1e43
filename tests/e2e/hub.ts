/**
 * A model hub on this machine, in the real one's layout: `/{repo}/resolve/{revision}/{file}` answers small files itself
 * (ETag: a SHA-1) and redirects large ones to where their bytes are, with `X-Linked-Etag` (SHA-256), `X-Linked-Size` and
 * `X-Repo-Commit` on the redirect alone; the bytes come with Range and an ETag that is another hash. `/api/models/
 * {repo}/tree/{revision}` lists the SHA-256 of large files. It can cut a transfer, slow it down, and counts bytes.
 */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { listen } from './site.ts'

/** A hub that is up. */
export interface Hub {
  endpoint: string
  /** Every request as `METHOD path range`. */
  log: string[]
  /** Bytes of file contents sent so far. */
  sent: number
  /** Cut each transfer of the file of this name after so many bytes; null: never. */
  cut: { file: string; after: number } | null
  /** Bytes per second, to keep a transfer going while a test looks at it; 0: as fast as it goes. */
  rate: number
  close(): Promise<void>
}

const commit = '0123456789abcdef0123456789abcdef01234567'

const cors = {
  'Access-Control-Allow-Origin': '*',
  'Access-Control-Allow-Headers': '*',
  'Access-Control-Expose-Headers':
    'X-Repo-Commit,X-Linked-Size,X-Linked-ETag,ETag,Content-Length,Content-Range,Accept-Ranges,Location',
}

/** Serves `files` by name as repository `repo`, at any revision. */
export async function serveHub(repo: string, files: Map<string, Uint8Array>): Promise<Hub> {
  const server = createServer((request, response) => void answer(hub, repo, files, request, response))
  const { origin, close } = await listen(server)
  const hub: Hub = { endpoint: origin, log: [], sent: 0, cut: null, rate: 0, close }
  return hub
}

async function answer(
  hub: Hub,
  repo: string,
  files: Map<string, Uint8Array>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = new URL(request.url ?? '/', hub.endpoint).pathname
  hub.log.push(`${request.method} ${path} ${request.headers.range ?? ''}`.trim())
  if (request.method === 'OPTIONS') return void response.writeHead(204, cors).end()
  if (path.startsWith(`/api/models/${repo}/tree/`)) {
    const entries = [...files].map(([name, bytes]) => ({
      type: 'file',
      path: name,
      size: bytes.length,
      ...(isLarge(name) && { lfs: { oid: hash('sha256', bytes), size: bytes.length } }),
    }))
    return void response
      .writeHead(200, { ...cors, 'Content-Type': 'application/json' })
      .end(JSON.stringify(entries))
  }
  const [, place, name = ''] =
    /^\/(blobs)\/(.+)$/.exec(path) ?? new RegExp(`^/${repo}/(resolve)/[^/]+/(.+)$`).exec(path) ?? []
  const bytes = files.get(name)
  if (!place || !bytes) {
    return void response.writeHead(404, { ...cors, 'X-Error-Code': 'EntryNotFound' }).end('Entry not found')
  }
  if (place === 'resolve' && isLarge(name)) {
    const linked = {
      'X-Repo-Commit': commit,
      'X-Linked-Size': String(bytes.length),
      'X-Linked-ETag': `"${hash('sha256', bytes)}"`,
    }
    return void response
      .writeHead(302, { ...cors, ...linked, Location: `${hub.endpoint}/blobs/${name}` })
      .end()
  }
  const etag = place === 'blobs' ? hash('sha3-256', bytes) : hash('sha1', bytes)
  await send(hub, name, bytes, etag, request, response)
}

function isLarge(name: string): boolean {
  return name.endsWith('.safetensors')
}

function hash(algorithm: string, bytes: Uint8Array): string {
  return createHash(algorithm).update(bytes).digest('hex')
}

async function send(
  hub: Hub,
  name: string,
  bytes: Uint8Array,
  etag: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
  const start = range ? Number(range[1]) : 0
  const end = range?.[2] ? Math.min(Number(range[2]) + 1, bytes.length) : bytes.length
  const headers: Record<string, string> = { ...cors, ETag: `"${etag}"`, 'Accept-Ranges': 'bytes' }
  if (start >= bytes.length && range) {
    return void response.writeHead(416, { ...headers, 'Content-Range': `bytes */${bytes.length}` }).end()
  }
  headers['Content-Length'] = String(end - start)
  if (range) headers['Content-Range'] = `bytes ${start}-${end - 1}/${bytes.length}`
  response.writeHead(range ? 206 : 200, headers)
  if (request.method === 'HEAD') return void response.end()
  const stop = hub.cut?.file === name ? Math.min(end, start + hub.cut.after) : end
  const piece = 64 * 1024
  for (let at = start; at < stop && !response.destroyed; at += piece) {
    const part = bytes.subarray(at, Math.min(at + piece, stop))
    hub.sent += part.length
    await new Promise<void>((written) => response.write(part, () => written()))
    if (hub.rate > 0) await new Promise((resolve) => setTimeout(resolve, (1000 * part.length) / hub.rate))
  }
  if (stop < end) response.destroy()
  else response.end()
}
