/** The built app on a tiny static server under a sub-path, as on any static host: files by name and nothing else. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { extname, join, normalize, resolve } from 'node:path'

/** Where the e2e project's global setup puts the build. */
export const siteFolder = resolve('out/e2e-site')

const subPath = '/some/where/adaptab/'

const types: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
  '.svg': 'image/svg+xml',
}

/** Builds the app into a folder. Throws with the build's own words when it fails. */
export function buildSite(folder = siteFolder): void {
  const vite = resolve('node_modules/vite/bin/vite.js')
  const env = { ...process.env, NODE_ENV: 'production' }
  const build = spawnSync(process.execPath, [vite, 'build', '--outDir', folder, '--emptyOutDir'], {
    encoding: 'utf8',
    env,
  })
  if (build.status !== 0) throw new Error(`vite build failed:\n${build.stdout}\n${build.stderr}`)
}

/** A server that is up, its address, and how to end it. */
export interface Serving {
  url: string
  /** Paths asked for and not found. */
  missing: string[]
  close(): Promise<void>
}

/** Listens on a free port of the loopback interface. */
export async function listen(server: Server): Promise<{ origin: string; close(): Promise<void> }> {
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed())
        server.closeAllConnections()
      }),
  }
}

/** Serves a folder of files under the sub-path. */
export async function serveSite(folder = siteFolder): Promise<Serving> {
  const missing: string[] = []
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://site').pathname)
    const name = normalize(path.slice(subPath.length)) || 'index.html'
    const file = join(folder, path.endsWith('/') ? 'index.html' : name)
    if (!path.startsWith(subPath) || name.startsWith('..') || !existsSync(file) || !statSync(file).isFile()) {
      missing.push(path)
      response.writeHead(404).end()
      return
    }
    response.writeHead(200, { 'Content-Type': types[extname(file)] ?? 'application/octet-stream' })
    response.end(readFileSync(file))
  })
  const { origin, close } = await listen(server)
  return { url: origin + subPath, missing, close }
}
