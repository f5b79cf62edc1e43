/**
 * Unlike methods and a stack of two through the built app, in Chromium on WebGPU: trained on a model from a folder, exported, read back by the
 * page's own importer, and saying the same. tests/e2e/exports.ts does every method, for Python.
 */
import type { Browser, Page } from 'playwright'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { launch, openContext, until, type Watch } from './browser.ts'
import {
  chooseConfig,
  exportAdapter,
  openTinyFolder,
  prepareRuns,
  putTogether,
  tinyConfigs,
  trainTo,
} from './methodRuns.ts'
import { serveSite, type Serving } from './site.ts'
import { alerts, openStage, stageLine, tryText, type Score } from './steps.ts'

const methods = ['unipelt', 'loreft', 'compacter']
const texts = ['The kettle works a treat.', 'The tent leaks, and the toaster never arrived.']

describe('methods', () => {
  let site: Serving
  let browser: Browser
  let page: Page
  let watch: Watch
  const exported = new Map<string, { zip: Buffer; scores: Score[][] }>()

  const scoresOf = async () => {
    const scores: Score[][] = []
    for (const text of texts) scores.push(await tryText(page, text))
    return scores
  }

  beforeAll(async () => {
    site = await serveSite()
    browser = await launch()
    const opened = await openContext(browser)
    watch = opened.watch
    page = await opened.context.newPage()
    await page.goto(site.url)
    await openTinyFolder(page)
    await prepareRuns(page)
  })
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail')
      await page.screenshot({ path: `out/failed/${task.name}.png`, fullPage: true })
  })
  afterAll(async () => {
    await browser?.close()
    await site?.close()
  })

  it.each(methods)('trains and exports %s', async (name) => {
    await chooseConfig(page, tinyConfigs[name]!)
    await trainTo(page, name)
    exported.set(name, { scores: await scoresOf(), zip: await exportAdapter(page) })
  })

  it('trains and exports a stack on a kept adapter', async () => {
    await putTogether(page, { members: ['compacter'], own: tinyConfigs.lora!, way: 'Stack' })
    await trainTo(page, 'stack')
    exported.set('stack', { scores: await scoresOf(), zip: await exportAdapter(page) })
  })

  // The one trained last is in the model now, so each of these has to take another's place.
  it.each([...methods, 'stack'])('imports %s again, which says the same', async (name) => {
    const { zip, scores } = exported.get(name)!
    const others = [...exported].filter(([other]) => other !== name)
    for (const [, other] of others) expect(other.scores).not.toEqual(scores)
    await openStage(page, 'Use')
    const chooser = page.waitForEvent('filechooser')
    await page.getByRole('button', { name: 'Import', exact: true }).click()
    await (await chooser).setFiles({ name: 'again.zip', mimeType: 'application/zip', buffer: zip })
    await until(`${name} is in use again`, 60, async () =>
      (await stageLine(page, 'Use')).split('\n').includes(name),
    )
    expect(await scoresOf()).toEqual(scores)
  })

  it('kept both of each, and wrote no error', async () => {
    expect(await page.getByRole('button', { name: `Runs (${2 * exported.size})` }).isVisible()).toBe(true)
    expect(await alerts(page)).toEqual([])
    expect(watch.errors).toEqual([])
    expect(watch.foreign).toEqual([])
  })
})
