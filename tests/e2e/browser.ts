/** A Chromium with WebGPU on its software adapter, whose pages report every error and may not leave the machine. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import {
  chromium,
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  type Page,
} from 'playwright'
import { chromiumArgs, ensureChromium } from '../chromium.ts'

const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** Starts the browser; the caller closes it. */
export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: ensureChromium(), args: chromiumArgs })
}

/** What went wrong on a page without a test looking at it. */
export interface Watch {
  /** Uncaught errors, console errors and warnings of the page and its workers. */
  errors: string[]
  /** Requests to any other machine; they are refused. */
  foreign: string[]
}

/** A fresh profile. Requests to hosts other than the loopback interface are refused and remembered. */
export async function openContext(
  browser: Browser,
  options: BrowserContextOptions = {},
): Promise<{ context: BrowserContext; watch: Watch }> {
  const watch: Watch = { errors: [], foreign: [] }
  const context = await browser.newContext({
    viewport: { width: 1440, height: 900 },
    acceptDownloads: true,
    ...options,
  })
  // Two busy cores can take long over a click.
  context.setDefaultTimeout(120_000)
  await context.route(
    (url) => /^(https?|wss?):$/.test(url.protocol) && url.hostname !== '127.0.0.1',
    (route) => {
      watch.foreign.push(route.request().url())
      return route.abort()
    },
  )
  context.on('weberror', (error) => watch.errors.push(`uncaught: ${error.error().message}`))
  context.on('console', (message) => {
    if (message.type() === 'error') watch.errors.push(`console: ${message.text()}`)
  })
  return { context, watch }
}

/** An init script that makes a page's browser one without WebGPU. Text, because a bundler's helpers do not reach pages. */
export const withoutGpu = {
  content: "Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined, configurable: true })",
}

/** One accessibility rule that the page breaks, with the elements that break it. */
export interface Violation {
  rule: string
  help: string
  nodes: string[]
}

/** axe on the whole page as it stands, in every rule set of WCAG 2 A and AA and the best practices. */
export async function axe(page: Page): Promise<Violation[]> {
  // Through the debugger rather than a <script>, which the page's Content-Security-Policy would refuse.
  await page.evaluate(axeSource)
  return page.evaluate(async () => {
    interface Result {
      violations: { id: string; help: string; nodes: { html: string; failureSummary?: string }[] }[]
    }
    const { axe } = globalThis as unknown as { axe: { run(): Promise<Result> } }
    const { violations } = await axe.run()
    return violations.map(({ id, help, nodes }) => ({
      rule: id,
      help,
      nodes: nodes.slice(0, 5).map((node) => `${node.html.slice(0, 160)} — ${node.failureSummary ?? ''}`),
    }))
  })
}

/** Waits until `check` holds, polling; throws `what` with the last value when it does not within `seconds`. */
export async function until<T>(
  what: string,
  seconds: number,
  check: () => Promise<T | false | null>,
): Promise<T> {
  const end = Date.now() + seconds * 1000
  for (;;) {
    const value = await check()
    if (value !== false && value !== null) return value
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
