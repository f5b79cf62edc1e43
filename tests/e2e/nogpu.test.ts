/** A browser that gives no GPU: the page says what to do and offers the slow mode, which trains; a cut-off run goes on. */
import type { Browser, BrowserContext, Page } from 'playwright'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { axe, launch, openContext, until, withoutGpu } from './browser.ts'
import { madeUpCsv } from './rows.ts'
import { serveSite, type Serving } from './site.ts'
import {
  alerts,
  chooseFile,
  dataReady,
  finished,
  loadBundled,
  makeQuick,
  openLibrary,
  openStage,
  pressTrain,
  reached,
  setField,
  stageLine,
} from './steps.ts'

describe('without a GPU', () => {
  let site: Serving
  let browser: Browser
  let context: BrowserContext
  let page: Page

  beforeAll(async () => {
    site = await serveSite()
    browser = await launch()
    context = (await openContext(browser)).context
    await context.addInitScript(withoutGpu)
    page = await context.newPage()
    await page.goto(site.url)
  })
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail')
      await page.screenshot({ path: `out/failed/${task.name}.png`, fullPage: true })
  })
  afterAll(async () => {
    await browser?.close()
    await site?.close()
  })

  it('says what to do, and offers the slow mode', async () => {
    await page.getByText('No GPU:').waitFor()
    expect(await page.getByRole('button', { name: 'Try the sample' }).isDisabled()).toBe(true)
    expect(await axe(page)).toEqual([])
    await page.getByRole('button', { name: 'Use the slow mode (wasm)' }).click()
    expect(await page.getByRole('button', { name: 'Try the sample' }).isEnabled()).toBe(true)
  })

  it('labels the slow mode, and asks before the page is left in mid-run', async () => {
    await loadBundled(page)
    await page.getByText('Slow mode (wasm)').first().waitFor()
    await chooseFile(page, 'returns.csv', madeUpCsv(60))
    await dataReady(page)
    await makeQuick(page, 400)
    await openStage(page, 'Train')
    await page.getByLabel(/\(eval_strategy\)/).selectOption('steps')
    await setField(page, 'eval_steps', 5)
    expect(await page.getByLabel(/\(half_precision_products\)/).isDisabled()).toBe(true)
    expect(await page.getByText('cannot do it (it is no GPU), so it has no effect here').count()).toBe(1)
    await pressTrain(page, 'Cut off')
    await reached(page, 8)
    expect(await page.getByText(/slow/i).count()).toBeGreaterThan(0)
    expect(await axe(page)).toEqual([])
    const asked = page.waitForEvent('dialog')
    const leaving = page.close({ runBeforeUnload: true })
    const dialog = await asked
    expect(dialog.type()).toBe('beforeunload')
    await dialog.accept()
    await leaving
  })

  it('goes on with the run that was cut off', async () => {
    page = await context.newPage()
    await page.goto(site.url)
    await page.getByRole('button', { name: 'Use the slow mode (wasm)' }).click()
    await loadBundled(page)
    await chooseFile(page, 'returns.csv', madeUpCsv(60))
    await dataReady(page)
    const dialog = await openLibrary(page)
    const resume = dialog.getByRole('button', { name: /^Resume from step \d+/ })
    const from = Number(/\d+/.exec(await resume.innerText())![0])
    expect(from).toBeGreaterThan(0)
    await resume.click()
    expect(await reached(page, from + 1)).toBeGreaterThan(from)
    await page.getByRole('button', { name: 'Stop', exact: true }).click()
    await finished(page)
    await until('the run is kept', 30, async () => (await stageLine(page, 'Use')).includes('Cut off'))
    expect(await alerts(page)).toEqual([])
  })
})
