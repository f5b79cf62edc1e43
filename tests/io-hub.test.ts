import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { memoryStore, type FileStore } from '../src/io/fileStore.ts'
import { deleteKeptModel, listKeptModels, openHub } from '../src/io/hub.ts'
import { openBundled, openFiles } from '../src/io/modelFolder.ts'
import type { DownloadProgress } from '../src/io/progress.ts'
import { openSafetensors, writeSafetensors } from '../src/io/safetensors.ts'

const weights = writeSafetensors(
  new Map([['a', { shape: [200_000], data: new Float32Array(200_000).map((_, i) => i) }]]),
)
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const text = (content: string) => new TextEncoder().encode(content)

/** What the server has, and how it misbehaves; each test sets it. */
let files: Map<string, Uint8Array>
let behaviour: {
  /** Bytes of a body after which the connection is cut. */
  cutAfter?: number
  ignoreRange?: boolean
  chunked?: boolean
  etag?: string
  linkedEtag?: string
  /** Weights come from another path, as the hub's storage does. */
  redirect?: boolean
  status?: number
}
let requests: { path: string; range: string | undefined }[]
let server: Server
let store: FileStore
let progress: DownloadProgress[]

const repo = 'someone/tiny-roberta'
const model = () => ({
  repo,
  revision: 'main',
  endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
})
const open = (signal = new AbortController().signal) =>
  openHub(model(), (event) => progress.push(event), signal, store)
const weightRequests = () => requests.filter(({ path }) => path.endsWith('model.safetensors'))

function answer(request: IncomingMessage, response: ServerResponse): void {
  const path = request.url!
  requests.push({ path, range: request.headers.range })
  if (behaviour.status) return void response.writeHead(behaviour.status).end('no')
  const name = /\/resolve\/main\/(.*)$/.exec(path)?.[1] ?? path.slice(1)
  const isWeights = name.endsWith('.safetensors')
  if (behaviour.redirect && isWeights && path.includes('/resolve/'))
    return void response.writeHead(302, { Location: `/${name}`, 'X-Linked-ETag': '"unseen"' }).end()
  const bytes = files.get(name)
  if (!bytes) return void response.writeHead(404).end('Entry not found')
  send(request, response, bytes, isWeights)
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Uint8Array,
  isWeights: boolean,
): void {
  const start = behaviour.ignoreRange
    ? 0
    : Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
  if (start > 0 && start >= bytes.length) return void response.writeHead(416).end()
  const headers: Record<string, string> = {}
  if (behaviour.etag && isWeights) headers.ETag = behaviour.etag
  if (behaviour.linkedEtag && isWeights) headers['X-Linked-ETag'] = behaviour.linkedEtag
  if (!behaviour.chunked) headers['Content-Length'] = String(bytes.length - start)
  if (start > 0) headers['Content-Range'] = `bytes ${start}-${bytes.length - 1}/${bytes.length}`
  response.writeHead(start > 0 ? 206 : 200, headers)
  const cut = isWeights ? behaviour.cutAfter : undefined
  const body = bytes.subarray(start, cut === undefined ? undefined : start + cut)
  if (cut === undefined) return void response.end(body)
  response.write(body, () => setTimeout(() => response.destroy(), 20))
}

beforeEach(async () => {
  files = new Map([
    ['config.json', text('{"model_type": "roberta"}')],
    ['tokenizer.json', text('{"model": {}}')],
    ['tokenizer_config.json', text('{"pad_token": "<pad>"}')],
    ['model.safetensors', weights],
  ])
  behaviour = { etag: '"v1"' }
  requests = []
  progress = []
  store = memoryStore()
  server = createServer(answer)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
})

afterEach(async () => {
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
})

test('downloads a repository, and opens it again without a request', async () => {
  const folder = await open()
  expect([folder.name, folder.config, folder.tokenizer, folder.tokenizer_config]).toEqual([
    repo, '{"model_type": "roberta"}', '{"model": {}}', '{"pad_token": "<pad>"}',
  ]) // prettier-ignore
  expect(folder.sha256).toBe(sha256(weights))
  expect((await openSafetensors(folder.weights)).shape('a')).toEqual([200_000])
  const last = progress.at(-1)!
  expect(last).toMatchObject({ file: 'model.safetensors', bytes: weights.length, total: weights.length })
  expect(last.bytes_per_second).toBeGreaterThan(0)
  const count = requests.length
  behaviour.status = 500
  const again = await open()
  expect(requests.length).toBe(count)
  expect([again.sha256, again.weights[0]!.size, again.config]).toEqual([
    folder.sha256,
    weights.length,
    folder.config,
  ])
  expect(await listKeptModels(store)).toEqual([{ ...model(), bytes: weights.length }])
  await deleteKeptModel(model(), store)
  expect(await listKeptModels(store)).toEqual([])
  await expect(open()).rejects.toThrow('answers 500')
})

test('a cut connection keeps what arrived, and the next download goes on from there', async () => {
  behaviour.cutAfter = 300_000
  await expect(open()).rejects.toThrow(
    'The connection was lost after 300 kB of 800 kB of model.safetensors; they are kept',
  )
  await expect(open()).rejects.toThrow('The connection was lost after 600 kB of 800 kB')
  delete behaviour.cutAfter
  const folder = await open()
  expect(folder.sha256).toBe(sha256(weights))
  expect(new Uint8Array(await folder.weights[0]!.arrayBuffer())).toEqual(weights)
  expect(weightRequests().map(({ range }) => range)).toEqual([undefined, 'bytes=300000-', 'bytes=600000-'])
})

test('a server that ignores Range starts over cleanly', async () => {
  behaviour.cutAfter = 300_000
  await expect(open()).rejects.toThrow('connection was lost')
  behaviour = { etag: '"v1"', ignoreRange: true }
  expect((await open()).sha256).toBe(sha256(weights))
  expect(weightRequests().map(({ range }) => range)).toEqual([undefined, 'bytes=300000-'])
})

test.each<[string, () => void]>([
  ['its ETag', () => (behaviour.etag = '"v2"')],
  ['its size', () => files.set('model.safetensors', writeSafetensors(new Map([['b', { shape: [150_000], data: new Float32Array(150_000) }]])))],
])('a file that changed on the server, by %s, starts over', async (_, change) => {
  behaviour.cutAfter = 300_000
  await expect(open()).rejects.toThrow('connection was lost')
  delete behaviour.cutAfter
  change()
  expect((await open()).sha256).toBe(sha256(files.get('model.safetensors')!))
  expect(weightRequests().map(({ range }) => range)).toEqual([undefined, 'bytes=300000-', undefined])
}) // prettier-ignore

test('a partial file longer than the server’s is thrown away', async () => {
  behaviour.cutAfter = 500_000
  await expect(open()).rejects.toThrow('connection was lost')
  behaviour = { etag: '"v1"' }
  const small = writeSafetensors(new Map([['b', { shape: [10], data: new Float32Array(10) }]]))
  files.set('model.safetensors', small)
  expect((await open()).sha256).toBe(sha256(small))
})

test('a body without a length, and one cut without one', async () => {
  behaviour.chunked = true
  expect((await open()).sha256).toBe(sha256(weights))
  expect(progress.at(-1)).toMatchObject({ total: null, seconds_left: null, bytes: weights.length })
  store = memoryStore()
  behaviour.cutAfter = 100_000
  await expect(open()).rejects.toThrow('The connection was lost after 100 kB of model.safetensors')
})

test('a wrong SHA-256 is said and the file is removed', async () => {
  behaviour.linkedEtag = `"${'0'.repeat(64)}"`
  await expect(open()).rejects.toThrow('arrived damaged: its SHA-256 is')
  behaviour.linkedEtag = `"${sha256(weights)}"`
  const folder = await open()
  expect(weightRequests().at(-1)!.range).toBeUndefined()
  expect(folder.notes).toEqual([
    'This browser cannot keep the model: it has to be downloaded again after a reload.',
  ])
})

test('an ETag that is a SHA-256 counts, but not behind a redirect, where the file list does', async () => {
  behaviour.etag = `"${'1'.repeat(64)}"`
  await expect(open()).rejects.toThrow('arrived damaged')
  behaviour.redirect = true
  expect((await open()).notes).toContainEqual(expect.stringContaining('gives no checksum'))
  store = memoryStore()
  const list = (oid: string) =>
    files.set(
      `api/models/${repo}/tree/main`,
      text(JSON.stringify([{ path: 'model.safetensors', lfs: { oid } }])),
    )
  list(sha256(weights))
  expect((await open()).notes).not.toContainEqual(expect.stringContaining('checksum'))
  store = memoryStore()
  list('2'.repeat(64))
  await expect(open()).rejects.toThrow('the server names 222222222222')
})

test('sharded weights', async () => {
  const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
  files.delete('model.safetensors')
  files.set(
    'model.safetensors.index.json',
    text(JSON.stringify({ weight_map: { b: shards[1], a: shards[0] } })),
  )
  files.set(shards[0]!, weights)
  await expect(open()).rejects.toThrow(`lacks the shard ${shards[1]}`)
  const second = writeSafetensors(new Map([['b', { shape: [1], data: Float32Array.of(5) }]]))
  files.set(shards[1]!, second)
  const folder = await open()
  expect((await openSafetensors(folder.weights)).names()).toEqual(['a', 'b'])
  expect(folder.sha256).toBe(sha256(text(`${sha256(weights)}\n${sha256(second)}`)))
  expect(requests.filter(({ path }) => path.endsWith(shards[0]!)).length).toBe(1)
  files.set('model.safetensors.index.json', text('{"weight_map": {"a": "../../x.safetensors"}}'))
  store = memoryStore()
  await expect(open()).rejects.toThrow('"../../x.safetensors", which is no shard')
})

test.each<[string, () => void, string]>([
  ['gated', () => (behaviour.status = 403), 'refuses config.json of someone/tiny-roberta (status 403)'],
  ['unknown', () => (behaviour.status = 401), 'does not exist, is private, or asks to accept terms first'],
  ['busy', () => (behaviour.status = 429), 'wait a little'],
  ['without config.json', () => files.delete('config.json'), 'has no config.json'],
  [
    'with a page for a config',
    () => files.set('config.json', text('<html>')),
    'config.json is not valid JSON',
  ],
  [
    'without safetensors',
    () => files.delete('model.safetensors'),
    'has no model.safetensors; weights in other formats',
  ],
])('a repository that is %s gets one clear sentence', async (_, change, message) => {
  change()
  await expect(open()).rejects.toThrow(message)
})

test('a server that is gone, and what is already here', async () => {
  behaviour.cutAfter = 300_000
  await expect(open()).rejects.toThrow('connection was lost')
  const gone = model()
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
  await expect(openHub(gone, () => {}, new AbortController().signal, store)).rejects.toThrow(
    /could not be reached for config.json of someone\/tiny-roberta; the 300 kB already downloaded are kept/,
  )
})

test('stopping keeps what arrived', async () => {
  behaviour.cutAfter = 300_000
  const stop = new AbortController()
  const download = openHub(model(), ({ bytes }) => bytes > 0 && stop.abort(), stop.signal, store)
  await expect(download).rejects.toThrow(
    /The download of model.safetensors was stopped at .* of 800 kB; they are kept/,
  )
  delete behaviour.cutAfter
  expect((await open()).sha256).toBe(sha256(weights))
  expect(weightRequests()[1]!.range).toMatch(/^bytes=\d+-$/)
})

test('a full disk is said, and what was written stays', async () => {
  const whole = memoryStore()
  let room = 250_000
  store = {
    ...whole,
    append: async (path, keep) => {
      const writer = await whole.append(path, keep)
      return {
        close: writer.close,
        write: async (bytes) => {
          if (bytes.length > room) throw new DOMException('full', 'QuotaExceededError')
          room -= bytes.length
          await writer.write(bytes)
        },
      }
    },
  }
  await expect(open()).rejects.toThrow(/^Storage is full: the rest of model.safetensors needs .* kB/)
  room = 1e9
  expect((await open()).sha256).toBe(sha256(weights))
  expect(weightRequests()[1]!.range).toMatch(/^bytes=[1-9]\d+-$/)
})

test.each([
  ['not a repo!', 'main', 'https://huggingface.co', 'is no repository id'],
  ['../x', 'main', 'https://huggingface.co', 'is no repository id'],
  ['a/b', 'main', 'huggingface.co', 'is no web address'],
  ['a/b', 'main', 'file:///etc', 'is no web address'],
])('%s at %s of %s is refused', async (repository, revision, endpoint, message) => {
  const signal = new AbortController().signal
  await expect(openHub({ repo: repository, revision, endpoint }, () => {}, signal, store)).rejects.toThrow(
    message,
  )
})

test('the bundled model, with and without a tokenizer_config.json', async () => {
  const folder = await openBundled(`${model().endpoint}/`, (event) => progress.push(event))
  expect([folder.sha256, folder.tokenizer_config]).toEqual([sha256(weights), '{"pad_token": "<pad>"}'])
  expect(progress.at(-1)).toMatchObject({ bytes: weights.length, total: weights.length })
  files.delete('tokenizer_config.json')
  expect((await openBundled(model().endpoint, () => {})).tokenizer_config).toBeNull()
  files.delete('tokenizer.json')
  await expect(openBundled(model().endpoint, () => {})).rejects.toThrow('lacks tokenizer.json')
})

test('dropped files', async () => {
  const file = (name: string, content: Uint8Array | string) => new File([new Uint8Array(typeof content === 'string' ? text(content) : content)], name) // prettier-ignore
  const all = [...files].map(([name, bytes]) => file(name, bytes))
  const folder = await openFiles('mine', all)
  expect([folder.name, folder.sha256, folder.weights[0]!.size]).toEqual([
    'mine',
    sha256(weights),
    weights.length,
  ])
  const without = (name: string) => all.filter((item) => item.name !== name)
  await expect(openFiles('mine', without('config.json'))).rejects.toThrow('The folder has no config.json')
  await expect(openFiles('mine', [...all, file('config.json', '{}')])).rejects.toThrow(
    '2 files called config.json',
  )
  await expect(openFiles('mine', [...without('config.json'), file('config.json', '')])).rejects.toThrow('config.json is not valid JSON') // prettier-ignore
  const bin = [...without('model.safetensors'), file('pytorch_model.bin', 'x')]
  await expect(openFiles('mine', bin)).rejects.toThrow('as pytorch_model.bin only')
})
