/** The GPU goes away in mid-run: the page says so, and the run goes on from its last checkpoint after a reload. */
import type { Browser, Page } from 'playwright'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { launch, openContext, until } from './browser.ts'
import { madeUpCsv } from './rows.ts'
import { serveSite, type Serving } from './site.ts'
import {
  alerts,
  chooseFile,
  dataReady,
  loadBundled,
  makeQuick,
  openLibrary,
  openStage,
  pressTrain,
  reached,
  setField,
} from './steps.ts'

describe('a lost GPU', () => {
  let site: Serving
  let browser: Browser
  let page: Page

  beforeAll(async () => {
    site = await serveSite()
    browser = await launch()
    page = await (await openContext(browser)).context.newPage()
    await page.goto(site.url)
  })
  afterAll(async () => {
    await browser?.close()
    await site?.close()
  })

  async function open(): Promise<void> {
    await loadBundled(page)
    await chooseFile(page, 'returns.csv', madeUpCsv(60))
    await dataReady(page)
  }

  it('is told in a sentence', async () => {
    await open()
    await makeQuick(page, 400)
    await openStage(page, 'Train')
    await page.getByLabel(/\(eval_strategy\)/).selectOption('steps')
    await setField(page, 'eval_steps', 3)
    await pressTrain(page, 'Unlucky')
    await reached(page, 7)
    await killGpu(browser)
    const [sentence] = await until('the loss is told', 60, async () => {
      const said = await alerts(page)
      return said.length > 0 && said
    })
    expect(sentence).toMatch(/The GPU device was lost.*reload the page and resume the run/)
  })

  it('costs no more than the steps since the last checkpoint', async () => {
    await page.reload()
    await open()
    const dialog = await openLibrary(page)
    const resume = dialog.getByRole('button', { name: /^Resume from step \d+/ })
    const from = Number(/\d+/.exec(await resume.innerText())![0])
    expect(from).toBeGreaterThanOrEqual(3)
    await resume.click()
    expect(await reached(page, from + 1)).toBeGreaterThan(from)
    expect(await alerts(page)).toEqual([])
  })
})

/** Ends Chromium's GPU process, as a crashing driver does; Chromium starts another. */
async function killGpu(browser: Browser): Promise<void> {
  const session = await browser.newBrowserCDPSession()
  const { processInfo } = await session.send('SystemInfo.getProcessInfo')
  const gpu = processInfo.find(({ type }) => type === 'GPU')
  if (!gpu) throw new Error('Chromium has no GPU process.')
  process.kill(gpu.id, 'SIGKILL')
}
