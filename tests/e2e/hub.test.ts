/** A base model from a hub: cut in the middle, resumed after a reload, checked, and found again with the hub gone. */
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { axe, launch, openContext, until, type Watch } from './browser.ts'
import { serveHub, type Hub } from './hub.ts'
import { serveSite, siteFolder, type Serving } from './site.ts'
import { alerts, modelLoaded, openStage, stageLine } from './steps.ts'

const repo = 'someone/some-roberta'
const weights = 'model.safetensors'

describe('a model from a hub', () => {
  let site: Serving
  let hub: Hub
  let browser: Browser
  let page: Page
  let watch: Watch
  const files = new Map<string, Uint8Array>()

  const transfers = () => hub.log.filter((line) => line.startsWith(`GET /blobs/${weights}`))
  const chooseHub = async () => {
    await openStage(page, 'Model')
    await page.getByRole('radio', { name: /Hugging Face hub/ }).check()
    await page.getByLabel('Repository').fill(repo)
  }
  const load = async () => {
    await chooseHub()
    await page.getByRole('button', { name: 'Load model' }).click()
  }

  beforeAll(async () => {
    const folder = join(siteFolder, 'models/mini-roberta')
    for (const name of readdirSync(folder)) files.set(name, readFileSync(join(folder, name)))
    site = await serveSite()
    hub = await serveHub(repo, files)
    browser = await launch()
    const opened = await openContext(browser)
    watch = opened.watch
    page = await opened.context.newPage()
    await page.goto(site.url)
  })
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail')
      await page.screenshot({ path: `out/failed/${task.name}.png`, fullPage: true })
  })
  afterAll(async () => {
    await browser?.close()
    await hub?.close()
    await site?.close()
  })

  it('takes another host than the usual one, after a reload', async () => {
    await chooseHub()
    await page.getByText('Revision and host').click()
    await page.getByLabel('Host').fill(hub.endpoint)
    await page.getByRole('button', { name: 'Use this host and reload' }).click()
    await until(
      'the page has reloaded',
      30,
      async () => (await page.evaluate(() => localStorage.getItem('endpoint'))) === hub.endpoint,
    )
    await page.waitForLoadState()
  })

  it('says that a download was cut, and keeps what arrived', async () => {
    hub.cut = { file: weights, after: 3_000_000 }
    hub.rate = 3_000_000
    await load()
    const [said] = await until('the page says so', 60, async () => {
      const all = await alerts(page)
      return all.length > 0 && all
    })
    expect(said).toMatch(/model\.safetensors/)
    expect(said).toMatch(/kept|continues|resume|again/i)
    expect(await axe(page)).toEqual([])
    expect(transfers().length).toBeGreaterThan(0)
  })

  it('shows bytes, rate and time left, and goes on after a reload in mid-download', async () => {
    hub.cut = null
    hub.rate = 1_500_000
    const before = hub.sent
    await load()
    await page.getByText(/model\.safetensors:[^]+ of [^]+ a second/).waitFor({ timeout: 60_000 })
    await until('a megabyte more', 60, async () => hub.sent > before + 1_500_000)
    await page.reload()
    hub.rate = 0
    await load()
    await modelLoaded(page)
    const starts = transfers().map((line) => Number(/bytes=(\d+)-/.exec(line)?.[1] ?? 0))
    // From the start, from the cut on, and from the reload on.
    expect(starts.length).toBe(3)
    expect(starts[0]).toBe(0)
    expect(starts[1]).toBeGreaterThan(1_000_000)
    expect(starts[2]).toBeGreaterThan(starts[1]! + 500_000)
    // What a cut or a reload loses is what was on its way, never what was kept.
    expect(hub.sent).toBeLessThan(files.get(weights)!.length * 1.5)
    expect(await stageLine(page, 'Model')).toContain(repo)
  })

  it('finds the model again with the hub gone', async () => {
    await hub.close()
    await page.reload()
    await load()
    await modelLoaded(page)
    expect(await stageLine(page, 'Model')).toContain(repo)
    expect(await alerts(page)).toEqual([])
  })

  it('talked to no one else', () => {
    expect(watch.foreign).toEqual([])
  })
})
