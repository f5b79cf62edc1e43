/**
 * Kept adapters put together through the built app, in Chromium on WebGPU: what would not learn is refused, two are fused
 * in a run, averaged, used side by side; and tasks other than classes are learnt.
 */
import type { Browser, Page } from 'playwright'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { axe, launch, openContext, until, type Watch } from './browser.ts'
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
  stageLine,
} from './steps.ts'

describe('composition', () => {
  let site: Serving
  let browser: Browser
  let page: Page
  let watch: Watch

  const press = (name: string) => page.getByRole('button', { name, exact: true }).click()
  const unfold = async (summary: string) => {
    const found = page.locator('summary').filter({ hasText: summary })
    if ((await found.locator('xpath=..').getAttribute('open')) === null) await found.click()
  }
  const train = async (name: string) => {
    await makeQuick(page, 4)
    await pressTrain(page, name)
    await until(`${name} is in use`, 240, async () => {
      const wrong = await alerts(page)
      if (wrong.length > 0) throw new Error(`training ${name}: ${wrong.join(' ')}`)
      return (await stageLine(page, 'Use')).includes(name)
    })
  }
  const inPath = () => page.getByText('In the path:').locator('xpath=..').allInnerTexts()

  beforeAll(async () => {
    site = await serveSite()
    browser = await launch()
    const opened = await openContext(browser)
    watch = opened.watch
    page = await opened.context.newPage()
    await page.goto(site.url)
    await loadBundled(page)
    await chooseFile(page, 'returns.csv', madeUpCsv(60))
    await dataReady(page)
  })
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail')
      await page.screenshot({ path: `out/failed/${task.name}.png`, fullPage: true })
  })
  afterAll(async () => {
    await browser?.close()
    await site?.close()
  })

  it('shows that a trained adapter is in the path', async () => {
    await train('one')
    expect((await inPath()).join()).toMatch(
      /one got a gradient of norm .*; without it, logits change by up to/,
    )
    await train('two')
  })

  it('offers every method behind “More methods”, and says so when one cannot be', async () => {
    await openStage(page, 'Adapter')
    await page.getByRole('radio', { name: /^More methods/ }).check()
    const text = page.getByLabel('As the library writes it')
    await text.fill('prefix_tuning[flat=True]|lora[r=2]')
    await text.blur()
    await until('the mixture is chosen', 10, async () =>
      (await stageLine(page, 'Adapter')).includes('prefix_tuning_flat|lora[r=2]'),
    )
    expect(await page.getByRole('button', { name: /^Remove .* from the mixture/ }).count()).toBe(2)
    expect(await axe(page)).toEqual([])
    await text.fill('vera')
    await text.blur()
    await page.getByText(/not the published method/).waitFor()
    await page.getByRole('radio', { name: /\(seq_bn\)/ }).check()
  })

  it('refuses a run in which an adapter would learn without being active, or was never loaded', async () => {
    await unfold('Together with kept adapters')
    await page.getByLabel('Kept adapter to add').selectOption({ label: 'one' })
    await press('Add')
    await page.getByLabel('one learns further', { exact: true }).check()
    const setup = page.getByLabel(/\(active_adapters\)/)
    await setup.fill('"new"')
    await setup.blur()
    await page
      .getByText(/“one” is to be trained, but it is not active/)
      .first()
      .waitFor()
    await openStage(page, 'Train')
    expect(await page.getByRole('button', { name: 'Train', exact: true }).isDisabled()).toBe(true)
    await setup.fill('Stack(one, other, new)')
    await setup.blur()
    await page
      .getByText(/“other” is active, but it was never loaded/)
      .first()
      .waitFor()
    await page.getByLabel('one learns further', { exact: true }).uncheck()
  })

  it('fuses two kept adapters in a run', async () => {
    await page.getByRole('radio', { name: /\(head\)/ }).check()
    await page.getByLabel('Kept adapter to add').selectOption({ label: 'two' })
    await press('Add')
    await page.getByLabel(/^How they work together/).selectOption('Fuse')
    await page.getByText(/^The fusion trains/).waitFor()
    expect(await axe(page)).toEqual([])
    await train('fused')
    expect((await inPath()).join()).toMatch(/one,two got a gradient/)
  })

  it('averages two into a third, and lets two answer side by side', async () => {
    const dialog = await openLibrary(page)
    for (const name of ['one', 'two'])
      await dialog.getByRole('checkbox', { name: `Mark ${name} to compare`, exact: true }).check()
    await press('Average')
    expect(await axe(page)).toEqual([])
    await press('Average them')
    await until('a fourth run', 60, async () => (await dialog.getByRole('listitem').count()) === 4)
    await press('Use together')
    await page.getByRole('button', { name: 'Put into the model' }).waitFor()
    await page
      .getByLabel(/^How they work together/)
      .last()
      .selectOption('Parallel')
    await press('Put into the model')
    await until('both are in use', 60, async () => (await stageLine(page, 'Use')).includes('one, two'))
    await page.getByLabel('A text of your own').fill('The tent leaks')
    await press('Try it')
    await page.getByText('two says').waitFor()
    expect(await axe(page)).toEqual([])
  })

  it('learns numbers, and words', async () => {
    await openStage(page, 'Adapter')
    const stage = page.getByRole('region', { name: 'Adapter', exact: true })
    for (const name of ['one', 'two'])
      await stage.getByRole('button', { name: `Remove ${name} (delete_adapter)` }).click()
    await page.getByRole('radio', { name: /\(lora\)/ }).check()
    await openStage(page, 'Data')
    await unfold('Learn something else than classes')
    await page.getByLabel(/\(task\)/).selectOption('regression')
    await dataReady(page)
    await train('stars')
    expect(await stageLine(page, 'Use')).toContain('stars')
    await page.getByText(/^Mean absolute error/).waitFor()
    await openStage(page, 'Data')
    await page.getByLabel(/\(task\)/).selectOption('masked_lm')
    await dataReady(page)
    await train('words')
    await page.getByText(/^Perplexity/).waitFor()
    expect(await axe(page)).toEqual([])
    expect(await alerts(page)).toEqual([])
    expect(watch.errors).toEqual([])
  })
})
