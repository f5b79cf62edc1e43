/** Times small shapes in headless Chromium, where no GPU is needed: ratios only, since its times say nothing else. */
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright'
import { createServer } from 'vite'
import { chromiumArgs, ensureChromium } from '../../chromium.ts'
import { table } from '../table.ts'
import type { TimedFound } from './page.ts'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const page = '/tests/bench/timed/index.html'

/** All comparisons, of `pairs` interleaved pairs each. */
export async function measureTimed(pairs: number): Promise<TimedFound> {
  const server = await createServer({
    root,
    logLevel: 'error',
    server: { host: '127.0.0.1', port: 0, hmr: false },
    optimizeDeps: { entries: [page.slice(1)] },
  })
  await server.listen()
  const { port } = server.httpServer!.address() as { port: number }
  const browser = await chromium.launch({ executablePath: ensureChromium(), args: chromiumArgs })
  try {
    const tab = await browser.newPage()
    await tab.goto(`http://127.0.0.1:${port}${page}`)
    await tab.waitForFunction('typeof timeAll === "function"', null, { timeout: 120_000 })
    return await tab.evaluate<TimedFound>(`timeAll(${pairs})`)
  } finally {
    await browser.close()
    await server.close()
  }
}

/** The comparisons as a table. */
export function timedReport({ adapter, is_fallback, compared, left_out }: TimedFound): string {
  const rows = [['', 'other', 'other’s time over ours', '95 % interval', 'pairs']]
  for (const { name, other, ratio } of compared) {
    const { median, low, high, pairs } = ratio
    rows.push([name, other, median.toFixed(2), `${low.toFixed(2)}–${high.toFixed(2)}`, String(pairs)])
  }
  const note = is_fallback
    ? 'A software adapter: ratios of times at small shapes, which do not foretell a GPU’s, and no speeds.'
    : 'Ratios of times at small shapes.'
  return [`${adapter}. ${note}`, table(rows, 2), ...left_out.map((what) => `Left out: ${what}`), ''].join(
    '\n',
  )
}
