/** What a user does on the page, by the names the page gives its controls. */
import { readFileSync } from 'node:fs'
import type { Locator, Page } from 'playwright'
import { until } from './browser.ts'

export type StageTitle = 'Model' | 'Data' | 'Adapter' | 'Train' | 'Use'

/** Long enough for the software adapter to compile and compute. */
const patience = { timeout: 240_000 }

const button = (page: Page, name: string | RegExp) => page.getByRole('button', { name, exact: true })

/** Unfolds a stage when it is folded. The page unfolds some by itself, so what a click did is looked at. */
export async function openStage(page: Page, title: StageTitle): Promise<void> {
  const toggle = page
    .getByRole('heading', { name: new RegExp(`^Stage \\d: ${title}\\b`), level: 2 })
    .getByRole('button')
  await until(`the stage ${title} is unfolded`, 30, async () => {
    if ((await toggle.getAttribute('aria-expanded')) === 'true') return true
    await toggle.click()
    return false
  })
}

/** The line a stage shows beside its title. */
export function stageLine(page: Page, title: StageTitle): Promise<string> {
  return page.getByRole('heading', { name: new RegExp(`^Stage \\d: ${title}\\b`), level: 2 }).innerText()
}

/** Types a number into the field of this library name, unfolding what hides it. */
export async function setField(page: Page, term: string, value: number): Promise<void> {
  const label = page.getByLabel(new RegExp(`\\(${term}\\)`))
  const field = page.locator('input[type=number]').and(label).first()
  const folded = field.locator('xpath=ancestor::details[not(@open)]')
  if ((await folded.count()) > 0) await folded.locator('summary').click()
  await field.fill(String(value))
  await field.blur()
}

/** Loads the bundled model on the current backend. */
export async function loadBundled(page: Page): Promise<void> {
  await openStage(page, 'Model')
  await button(page, 'Load model').click()
  await modelLoaded(page)
}

/** Waits until the model's line says what was loaded. Throws the page's own words when it fails instead. */
export async function modelLoaded(page: Page): Promise<void> {
  await until('the model is loaded', 240, async () => {
    const wrong = await alerts(page)
    if (wrong.length > 0) throw new Error(`loading the model: ${wrong.join(' ')}`)
    return / layers, /.test(await stageLine(page, 'Model'))
  })
}

/** What the page says went wrong and nobody has dismissed. */
export function alerts(page: Page): Promise<string[]> {
  return page.locator('.alert p').allInnerTexts()
}

/** Gives the page a file through *Choose file*. */
export async function chooseFile(page: Page, name: string, text: string): Promise<void> {
  await openStage(page, 'Data')
  const chooser = page.waitForEvent('filechooser')
  await button(page, 'Choose file').click()
  await (await chooser).setFiles({ name, mimeType: 'text/csv', buffer: Buffer.from(text) })
}

/** Waits until the data's line counts the rows of each split. */
export async function dataReady(page: Page): Promise<string> {
  return until('the data is checked', 60, async () => {
    const line = await stageLine(page, 'Data')
    const checking = await page.getByText('Checking the rows…').isVisible()
    return /\d+ train/.test(line) && !checking && line
  })
}

/** Settings under which a run on the software adapter takes seconds. */
export async function makeQuick(page: Page, max_steps: number): Promise<void> {
  await openStage(page, 'Train')
  await setField(page, 'per_device_train_batch_size', 4)
  await setField(page, 'max_length', 24)
  await setField(page, 'max_steps', max_steps)
  await setField(page, 'logging_steps', 1)
}

/** Presses *Train* once the page lets it. */
export async function pressTrain(page: Page, name: string): Promise<void> {
  await openStage(page, 'Train')
  await page.getByLabel('Name of the run').first().fill(name)
  await until('Train can be pressed', 60, () => button(page, 'Train').isEnabled())
  await button(page, 'Train').click()
}

/** The number in “Step 3 of 12”, 0 before the first. */
export async function stepsDone(page: Page): Promise<number> {
  const text = await page
    .getByText(/^Step \d+ of \d+/)
    .first()
    .textContent(patience)
  return Number(/Step (\d+)/.exec(text ?? '')?.[1] ?? 0)
}

/** The step at which a paused run rests: no other comes within eight seconds. */
export async function resting(page: Page): Promise<number> {
  for (let held = await stepsDone(page); ;) {
    await page.waitForTimeout(8000)
    const now = await stepsDone(page)
    if (now === held) return held
    held = now
  }
}

/** Waits until at least `step` steps are shown. */
export async function reached(page: Page, step: number): Promise<number> {
  return until(`step ${step}`, 240, async () => {
    const done = await stepsDone(page)
    return done >= step && done
  })
}

/** Waits for the end of a run: its result on the test split. */
export async function finished(page: Page): Promise<Locator> {
  const result = page.getByRole('region', { name: 'Result' })
  await result.waitFor(patience)
  return result
}

export interface Score {
  label: string
  score: number
}

/** Types a text, presses *Try it* and returns the JSON the page gives. */
export async function tryText(page: Page, text: string): Promise<Score[]> {
  await openStage(page, 'Use')
  await page.getByLabel('A text of your own').fill(text)
  await until('Try it can be pressed', 60, () => button(page, 'Try it').isEnabled())
  await button(page, 'Try it').click()
  await page.getByText(`“${text}”`).waitFor(patience)
  const code = page.locator('pre code')
  return JSON.parse((await code.textContent()) ?? '') as Score[]
}

/** Presses a button that offers a file and returns what was offered. */
export async function downloaded(
  page: Page,
  press: () => Promise<void>,
): Promise<{ name: string; bytes: Buffer }> {
  const [download] = await Promise.all([page.waitForEvent('download', patience), press()])
  return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) }
}

/** Opens the list of kept runs. */
export async function openLibrary(page: Page): Promise<Locator> {
  await page.getByRole('button', { name: /^Runs \(/ }).click()
  const dialog = page.getByRole('dialog', { name: 'Your runs' })
  await dialog.waitFor()
  return dialog
}

/** One run of the list, by its name. */
export function runItem(dialog: Locator, name: string): Locator {
  const mark = dialog.page().getByRole('checkbox', { name: `Mark ${name} to compare`, exact: true })
  return dialog.getByRole('listitem').filter({ has: mark })
}
