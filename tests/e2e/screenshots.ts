/**
 * `npm run screenshots`: every state of the page at 1440 and 390 pixels, light and dark, into out/screenshots. One path
 * through the built app; at each state the window and the colour scheme change, nothing else.
 */
import { mkdirSync } from 'node:fs'
import type { Page } from 'playwright'
import { launch, openContext, until, withoutGpu } from './browser.ts'
import { madeUpCsv } from './rows.ts'
import { buildSite, serveSite } from './site.ts'
import {
  chooseFile,
  dataReady,
  finished,
  loadBundled,
  makeQuick,
  openLibrary,
  openStage,
  pressTrain,
  reached,
  stageLine,
  tryText,
} from './steps.ts'

const folder = 'out/screenshots'

async function shoot(page: Page, state: string): Promise<void> {
  for (const width of [1440, 390]) {
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.setViewportSize({ width, height: width === 390 ? 844 : 900 })
      await page.emulateMedia({ colorScheme })
      // Charts redraw to the new width on the next frames.
      await page.waitForTimeout(400)
      await page.screenshot({ path: `${folder}/${state}-${width}-${colorScheme}.png`, fullPage: true })
    }
  }
  await page.setViewportSize({ width: 1440, height: 900 })
  await page.emulateMedia({ colorScheme: 'light' })
  process.stderr.write(`${state}\n`)
}

/** From the first visit to a kept run. */
async function path(page: Page): Promise<void> {
  await page.getByText('software adapter').waitFor()
  await shoot(page, '1-start')
  await loadBundled(page)
  await openStage(page, 'Model')
  await shoot(page, '2-model')
  await openStage(page, 'Data')
  await page.getByLabel('Or sample sentences, 1,000 a set:').selectOption('amazon')
  await page.getByRole('button', { name: 'Load sample' }).click()
  await dataReady(page)
  await shoot(page, '3-data')
  await chooseFile(page, 'returns.csv', madeUpCsv(120))
  await until('the new file is read', 60, async () => (await stageLine(page, 'Data')).includes('returns.csv'))
  await dataReady(page)
  await openStage(page, 'Adapter')
  await page.getByRole('radio', { name: /^More methods/ }).check()
  await page.getByLabel('Method', { exact: true }).selectOption('mam')
  await until('the mixture is counted', 30, async () => (await stageLine(page, 'Adapter')).includes('mam,'))
  await shoot(page, '3b-methods')
  await page.getByRole('radio', { name: /\(seq_bn\)/ }).check()
  await makeQuick(page, 40)
  await openStage(page, 'Train')
  await page.getByLabel(/\(eval_strategy\)/).selectOption('steps')
  await page
    .locator('input[type=number]')
    .and(page.getByLabel(/\(eval_steps\)/))
    .fill('5')
  await shoot(page, '4-settings')
  await pressTrain(page, 'Returns')
  await reached(page, 18)
  await page.getByRole('button', { name: 'Pause', exact: true }).click()
  await page.getByRole('button', { name: 'Resume', exact: true }).waitFor()
  await shoot(page, '5-training')
  await page.getByRole('button', { name: 'Resume', exact: true }).click()
  await finished(page)
  await page
    .getByRole('button', { name: /^[1-9]\d* texts? of class / })
    .first()
    .click()
  await shoot(page, '6-result')
  await tryText(page, 'The garden hose made my week.')
  await shoot(page, '7-use')
  const dialog = await openLibrary(page)
  await shoot(page, '8-runs')
  await dialog.getByRole('checkbox', { name: /^Mark Returns/ }).check()
  await dialog.getByRole('button', { name: 'Use together' }).click()
  await page.getByRole('button', { name: 'Put into the model' }).click()
  await page.getByRole('button', { name: 'Export together' }).waitFor()
  await shoot(page, '8b-together')
  await chooseFile(page, 'empty.csv', '')
  await page.locator('.alert').first().waitFor()
  await shoot(page, '9-error')
}

mkdirSync(folder, { recursive: true })
buildSite()
const site = await serveSite()
const browser = await launch()
try {
  const { context } = await openContext(browser)
  const page = await context.newPage()
  await page.goto(site.url)
  await path(page)
  const { context: bare } = await openContext(browser)
  await bare.addInitScript(withoutGpu)
  const without = await bare.newPage()
  await without.goto(site.url)
  await without.getByText('No GPU:').waitFor()
  await shoot(without, '10-no-gpu')
} finally {
  await browser.close()
  await site.close()
}
