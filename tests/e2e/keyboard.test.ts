/** The whole path by keyboard alone: Tab, Enter, Space, arrows and typing; every stop shows that it has the focus. */
import type { Browser, Locator, Page } from 'playwright'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { launch, openContext, until } from './browser.ts'
import { madeUpCsv } from './rows.ts'
import { serveSite, type Serving } from './site.ts'
import { dataReady, finished, modelLoaded, reached, stageLine } from './steps.ts'

describe('by keyboard alone', () => {
  let site: Serving
  let browser: Browser
  let page: Page
  /** Stops of Tab that showed nothing. */
  const unmarked = new Set<string>()

  /** Presses Tab until `target` has the focus; at most once around the page. */
  const tabTo = async (target: Locator) => {
    await target.waitFor({ timeout: 60_000 })
    for (let i = 0; i < 300; i++) {
      if (await target.evaluate((element) => element === document.activeElement)) return
      await page.keyboard.press('Tab')
      const bare = await page.evaluate(() => {
        const element = document.activeElement
        if (!element || element === document.body) return null
        const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element)
        const seen = (outlineStyle !== 'none' && parseFloat(outlineWidth) > 0) || boxShadow !== 'none'
        return seen ? null : element.outerHTML.slice(0, 120)
      })
      if (bare) unmarked.add(bare)
    }
    throw new Error(`Tab never reached ${String(target)}`)
  }
  const press = async (name: string | RegExp) => {
    await tabTo(page.getByRole('button', { name, exact: true }))
    await page.keyboard.press('Enter')
  }
  const unfold = async (title: string) => {
    const toggle = page.getByRole('button', { name: new RegExp(`^Stage \\d: ${title}\\b`) })
    if ((await toggle.getAttribute('aria-expanded')) === 'true') return
    await tabTo(toggle)
    await page.keyboard.press('Enter')
  }
  const fill = async (term: string, value: number) => {
    const label = page.getByLabel(new RegExp(`\\(${term}\\)`))
    await tabTo(page.locator('input[type=number]').and(label).first())
    await page.keyboard.press('ControlOrMeta+A')
    await page.keyboard.type(String(value))
  }

  beforeAll(async () => {
    site = await serveSite()
    browser = await launch()
    page = await (await openContext(browser)).context.newPage()
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

  it('loads a model and pasted rows', async () => {
    await press('Load model')
    await modelLoaded(page)
    await unfold('Data')
    await press('Paste')
    await tabTo(page.getByRole('dialog').getByRole('textbox'))
    await page.keyboard.insertText(madeUpCsv(40).replaceAll('\r\n', '\n'))
    await press('Use these rows')
    await dataReady(page)
    expect(await page.getByRole('dialog').count()).toBe(0)
  })

  it('chooses a method, settings, and trains with a pause', async () => {
    await unfold('Adapter')
    await tabTo(page.getByRole('radio', { name: /\(seq_bn\)/ }))
    await page.keyboard.press('ArrowDown')
    await until('LoRA is chosen', 10, async () => (await stageLine(page, 'Adapter')).includes('lora'))
    await unfold('Train')
    await fill('per_device_train_batch_size', 4)
    await fill('max_length', 16)
    await tabTo(page.locator('summary').filter({ hasText: 'All training settings' }))
    await page.keyboard.press('Enter')
    await fill('max_steps', 8)
    await fill('logging_steps', 1)
    const train = page.getByRole('button', { name: 'Train', exact: true })
    await until('Train can be pressed', 60, () => train.isEnabled())
    await press('Train')
    await reached(page, 1)
    await press('Pause')
    await press('Resume')
    await finished(page)
  })

  it('predicts, exports, and closes the list of runs with Escape', async () => {
    await unfold('Use')
    await tabTo(page.getByLabel('A text of your own'))
    await page.keyboard.type('The lamp is lovely')
    await press('Try it')
    await page.getByText('“The lamp is lovely”').waitFor({ timeout: 60_000 })
    const [download] = await Promise.all([page.waitForEvent('download'), press('Export')])
    expect(download.suggestedFilename()).toMatch(/\.zip$/)
    const runs = page.getByRole('button', { name: /^Runs \(/ })
    await tabTo(runs)
    await page.keyboard.press('Enter')
    const dialog = page.getByRole('dialog', { name: 'Your runs' })
    await tabTo(dialog.getByRole('button', { name: 'Open' }))
    await page.keyboard.press('Escape')
    await until('the dialog is closed', 10, async () => (await dialog.count()) === 0)
    expect(await runs.evaluate((element) => element === document.activeElement)).toBe(true)
  })

  it('showed the focus at every stop', () => {
    expect([...unmarked]).toEqual([])
  })
})
