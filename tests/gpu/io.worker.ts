/** Downloads the bundled model through openHub into OPFS, as the app's worker does; the server has no hub layout. */
import { openHub } from '../../src/io/hub.ts'

const realFetch = globalThis.fetch
let stallAfter = Infinity

/** Paths without `/resolve/main`; a body that stops for ever after `stallAfter` bytes, as a dead network does. */
globalThis.fetch = async (url, init) => {
  const path = String(url)
  const range = new Headers(init?.headers).get('Range')
  self.postMessage({ type: 'request', path: new URL(path).pathname, range })
  if (path.endsWith('tokenizer_config.json')) return new Response('none', { status: 404 })
  const response = await realFetch(path.replace('/resolve/main/', '/'), init)
  if (!response.body || !path.endsWith('.safetensors')) return response
  let passed = 0
  const slow = new TransformStream<Uint8Array, Uint8Array>({
    transform: async (bytes, controller) => {
      controller.enqueue(bytes)
      passed += bytes.length
      if (passed < stallAfter) return
      self.postMessage({ type: 'stalled' })
      await new Promise(() => {})
    },
  })
  const { status, headers } = response
  return new Response(response.body.pipeThrough(slow), { status, headers })
}

self.onmessage = async ({ data }: MessageEvent<{ endpoint: string; stallAfter: number | null }>) => {
  stallAfter = data.stallAfter ?? Infinity
  try {
    const model = { repo: 'mini-roberta', revision: 'main', endpoint: data.endpoint }
    const signal = new AbortController().signal
    const { sha256, weights, notes } = await openHub(
      model,
      (event) => self.postMessage({ type: 'progress', event }),
      signal,
    )
    self.postMessage({ type: 'done', sha256, size: weights[0]!.size, notes })
  } catch (error) {
    self.postMessage({ type: 'failed', message: (error as Error).message })
  }
}
