/** `npm run dev`: the page works from the development server too, without a network and without reloading by itself. */
import type { Browser } from 'playwright'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createServer, type ViteDevServer } from 'vite'
import { launch, openContext } from './browser.ts'
import { madeUpCsv } from './rows.ts'
import { alerts, chooseFile, dataReady, finished, loadBundled, makeQuick, pressTrain } from './steps.ts'

let server: ViteDevServer
let browser: Browser

beforeAll(async () => {
  // A cache of its own: as on a first start, and away from the one the test runner is using.
  server = await createServer({
    cacheDir: 'out/vite-dev',
    server: { host: '127.0.0.1', port: 0 },
    logLevel: 'error',
  })
  await server.listen()
  browser = await launch()
})
afterAll(async () => {
  await browser?.close()
  await server?.close()
})

it('loads, trains and finishes on the development server', async () => {
  const { context, watch } = await openContext(browser)
  const page = await context.newPage()
  let loads = 0
  page.on('load', () => loads++)
  // The first answer waits until every dependency is bundled.
  await page.goto(server.resolvedUrls!.local[0]!, { timeout: 240_000 })
  await loadBundled(page)
  await chooseFile(page, 'returns.csv', madeUpCsv(60))
  await dataReady(page)
  await makeQuick(page, 2)
  await pressTrain(page, 'On the development server')
  await finished(page)
  expect(await alerts(page)).toEqual([])
  expect(loads).toBe(1)
  expect(watch).toEqual({ errors: [], foreign: [] })
})
