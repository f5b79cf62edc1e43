/**
 * The whole path through the built app, in Chromium on WebGPU: the bundled model, sample reviews, then a CSV it has
 * never seen; train, watch, pause, step, resume, predict, export, reload the page, reload the adapter, import. The
 * exported zip and the page's own scores stay in out/exported for `npm run parity`.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import type { Browser, Page } from 'playwright'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { axe, launch, openContext, until, type Watch } from './browser.ts'
import { madeUpCsv } from './rows.ts'
import { serveSite, type Serving } from './site.ts'
import {
  alerts,
  chooseFile,
  dataReady,
  downloaded,
  finished,
  loadBundled,
  makeQuick,
  openLibrary,
  openStage,
  pressTrain,
  reached,
  resting,
  runItem,
  setField,
  stageLine,
  tryText,
  type Score,
} from './steps.ts'

const texts = [
  'The kettle works a treat.',
  'The tent leaks, and the toaster never arrived.',
  '😀 naïve “quotes”',
]

describe('the whole path', () => {
  let site: Serving
  let browser: Browser
  let page: Page
  let watch: Watch
  const scores: Score[][] = []
  let exported: { name: string; bytes: Buffer }

  const press = (name: string) => page.getByRole('button', { name, exact: true }).click()

  beforeAll(async () => {
    site = await serveSite()
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
    await site?.close()
  })

  it('opens with one sentence, the GPU and one button', async () => {
    await page.getByRole('button', { name: 'Try the sample' }).waitFor()
    await page.getByText('software adapter').waitFor()
    expect(await axe(page)).toEqual([])
  })

  it('loads the bundled model and a sample, and checks the data', async () => {
    await loadBundled(page)
    await page.getByText(/^Self-test passed/).waitFor()
    await openStage(page, 'Data')
    await page.getByLabel('Or sample sentences, 1,000 a set:').selectOption('yelp')
    await press('Load sample')
    await dataReady(page)
    await setField(page, 'validation', 4)
    await setField(page, 'test', 4)
    await setField(page, 'fraction', 10)
    await until('the split follows', 60, async () =>
      /92 train.*40 validation.*40 test/.test(await stageLine(page, 'Data')),
    )
    expect(await axe(page)).toEqual([])
    expect(await alerts(page)).toEqual([])
  })

  it('shows the parameters before training', async () => {
    await openStage(page, 'Adapter')
    await page.getByText('%param').first().waitFor()
    expect(await axe(page)).toEqual([])
  })

  it('trains, pauses, steps and goes on to the end', async () => {
    await makeQuick(page, 8)
    await pressTrain(page, 'Sample')
    await reached(page, 1)
    await press('Pause')
    await page.getByRole('button', { name: 'Resume', exact: true }).waitFor({ timeout: 60_000 })
    // One step may have been under way, and compile; after that nothing moves until it is told to.
    const held = await resting(page)
    expect(held).toBeLessThan(8)
    expect(await axe(page)).toEqual([])
    await press('Step')
    expect(await reached(page, held + 1)).toBe(held + 1)
    await press('Resume')
    const result = await finished(page)
    await result.getByText('on 40 rows of the test split').waitFor()
    expect(await alerts(page)).toEqual([])
    expect(await axe(page)).toEqual([])
  })

  it('shows the whole run as charts, as a table and as a CSV', async () => {
    await page.getByRole('button', { name: /^Table and CSV of Loss/ }).click()
    const table = page.getByRole('table', { name: /Loss/ })
    await until('a row for each step', 10, async () => (await table.getByRole('row').count()) > 8)
    expect(await axe(page)).toEqual([])
    const { bytes } = await downloaded(page, () => press('Download CSV'))
    const [head, ...rows] = bytes.toString('utf8').trim().split('\n')
    expect(head).toContain('loss')
    expect(rows.length).toBeGreaterThanOrEqual(8)
  })

  it('opens the texts behind a cell of the confusion matrix', async () => {
    const cell = page.getByRole('button', { name: /^[1-9]\d* texts? of class / }).first()
    const count = Number(await cell.innerText())
    await cell.click()
    const list = page.getByRole('region', { name: /true “.+”, predicted “.+”/ }).getByRole('listitem')
    expect(await list.count()).toBe(Math.min(count, 20))
  })

  it('trains LoRA on an uploaded CSV it has never seen', async () => {
    await chooseFile(page, 'returns.csv', madeUpCsv(60))
    await until('the new file is read', 60, async () =>
      (await stageLine(page, 'Data')).includes('returns.csv'),
    )
    await setField(page, 'validation', 20)
    await setField(page, 'test', 20)
    await setField(page, 'fraction', 100)
    await until('the split follows', 60, async () =>
      /36 train.*12 validation.*12 test/.test(await stageLine(page, 'Data')),
    )
    expect(await page.getByLabel('Text', { exact: true }).inputValue()).toBe('comment')
    // Two columns could be the label; the user says which.
    await page.getByLabel('Label', { exact: true }).selectOption('verdict')
    await page.getByRole('table', { name: 'Rows per class' }).getByText('return').waitFor()
    await openStage(page, 'Adapter')
    await page.getByRole('radio', { name: /\(lora\)/ }).check()
    await makeQuick(page, 10)
    await pressTrain(page, 'Returns')
    await reached(page, 1)
    await until('the result of the new run', 240, () =>
      page.getByText('on 12 rows of the test split').isVisible(),
    )
    expect(await alerts(page)).toEqual([])
  })

  it('predicts texts and a file', async () => {
    for (const text of texts) scores.push(await tryText(page, text))
    for (const one of scores) {
      expect(one.map(({ label }) => label).sort()).toEqual(['keep', 'return'])
      expect(one[0]!.score + one[1]!.score).toBeCloseTo(1, 5)
      expect(one[0]!.score).toBeGreaterThanOrEqual(one[1]!.score)
    }
    expect(scores[0]).not.toEqual(scores[1])
    const chooser = page.waitForEvent('filechooser')
    const { bytes } = await downloaded(page, async () => {
      await press('Predict file')
      const file = {
        name: 'new.csv',
        mimeType: 'text/csv',
        buffer: Buffer.from(`comment\n${texts.slice(0, 2).join('\n').replace(',', '')}\n`),
      }
      await (await chooser).setFiles(file)
    })
    const lines = bytes.toString('utf8').trim().split(/\r?\n/)
    expect(lines.length).toBe(3)
    expect(lines[1]).toContain(scores[0]![0]!.label)
  })

  it('exports a zip', async () => {
    exported = await downloaded(page, () => press('Export'))
    expect(exported.name).toMatch(/\.zip$/)
    expect(exported.bytes.subarray(0, 2).toString()).toBe('PK')
    mkdirSync('out/exported', { recursive: true })
    writeFileSync('out/exported/returns.zip', exported.bytes)
    writeFileSync('out/exported/returns.predictions.json', JSON.stringify({ texts, scores }, null, 2))
  })

  it('finds both runs after a reload, and the adapter says the same', async () => {
    await page.reload()
    let dialog = await openLibrary(page)
    expect(
      await dialog
        .getByLabel('Name of the run')
        .evaluateAll((all) => all.map((one) => (one as HTMLInputElement).value).sort()),
    ).toEqual(['Returns', 'Sample'])
    expect(await axe(page)).toEqual([])
    await runItem(dialog, 'Returns').getByRole('button', { name: 'Open' }).click()
    await until('the adapter is in the model', 240, async () =>
      (await stageLine(page, 'Use')).includes('Returns'),
    )
    for (const [i, text] of texts.entries()) expect(await tryText(page, text)).toEqual(scores[i])
    dialog = await openLibrary(page)
    for (const box of await dialog.getByRole('checkbox').all()) await box.check()
    await dialog.getByRole('button', { name: 'Compare' }).click()
    expect(await axe(page)).toEqual([])
    await dialog.getByRole('button', { name: 'Close' }).click()
  })

  it('imports its own zip, and that says the same too', async () => {
    await openStage(page, 'Use')
    const chooser = page.waitForEvent('filechooser')
    await press('Import')
    await (await chooser).setFiles({ name: 'again.zip', mimeType: 'application/zip', buffer: exported.bytes })
    await until('a third run', 120, () => page.getByRole('button', { name: 'Runs (3)' }).isVisible())
    for (const [i, text] of texts.entries()) expect(await tryText(page, text)).toEqual(scores[i])
  })

  it('deletes a run and takes that back', async () => {
    const dialog = await openLibrary(page)
    await dialog.getByRole('button', { name: 'Delete', exact: true }).first().click()
    await dialog.getByRole('button', { name: /^Yes, delete/ }).click()
    await until(
      'two are left',
      30,
      async () => (await dialog.getByRole('button', { name: 'Delete', exact: true }).count()) === 2,
    )
    await dialog.getByRole('button', { name: 'Undo' }).click()
    await until(
      'three again',
      30,
      async () => (await dialog.getByRole('button', { name: 'Delete', exact: true }).count()) === 3,
    )
    await dialog.getByRole('button', { name: 'Close' }).click()
  })

  it('asked no other machine for anything and wrote no error', () => {
    expect(watch.foreign).toEqual([])
    expect(watch.errors).toEqual([])
    expect(site.missing).toEqual([])
  })
})
