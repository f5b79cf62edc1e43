/** A run of any method on a model so small that it takes seconds: what a user does, and configurations that fit it. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Page } from 'playwright'
import { formatConfig } from '../../src/methods/configText.ts'
import { parsePreset } from '../../src/methods/registry.ts'
import { until } from './browser.ts'
import { madeUpCsv } from './rows.ts'
import {
  alerts,
  chooseFile,
  dataReady,
  downloaded,
  makeQuick,
  modelLoaded,
  openStage,
  pressTrain,
  setField,
  stageLine,
} from './steps.ts'

/** Hidden size 32, two layers. */
export const tinyFolder = 'tests/fixtures/tiny-roberta'

/** For each preset of an adapter the library's text of sizes that fit `tinyFolder`. */
export const tinyConfigs: Record<string, string> = {
  seq_bn: 'seq_bn[reduction_factor=4]',
  double_seq_bn: 'double_seq_bn[reduction_factor=4]',
  par_bn: 'par_bn[reduction_factor=4]',
  scaled_par_bn: 'scaled_par_bn[reduction_factor=4]',
  seq_bn_inv: 'seq_bn_inv[reduction_factor=4]',
  double_seq_bn_inv: 'double_seq_bn_inv[reduction_factor=4,inv_adapter_reduction_factor=4]',
  compacter: 'compacter[reduction_factor=2]',
  'compacter++': 'compacter++[reduction_factor=2]',
  adapterplus: 'adapterplus[reduction_factor=4]',
  prefix_tuning: 'prefix_tuning[prefix_length=5,bottleneck_size=7]',
  prefix_tuning_flat: 'prefix_tuning_flat[prefix_length=6]',
  prompt_tuning: 'prompt_tuning[prompt_length=4]',
  lora: 'lora[r=4,alpha=16]',
  dora: 'dora[r=4,alpha=8]',
  ia3: 'ia3',
  loreft: 'loreft[r=2]',
  noreft: 'noreft[r=2]',
  mam: 'prefix_tuning[prefix_length=4,bottleneck_size=9]|par_bn[reduction_factor=4]',
  unipelt:
    'prefix_tuning[prefix_length=5,bottleneck_size=7,use_gating=True]|' +
    'seq_bn[reduction_factor=4,use_gating=True]|lora[r=2,alpha=2,use_gating=True]',
}

/** Loads `tinyFolder` as a folder of this machine. */
export async function openTinyFolder(page: Page): Promise<void> {
  await openStage(page, 'Model')
  await page.getByRole('radio', { name: /A folder on this machine/ }).check()
  const chooser = page.waitForEvent('filechooser')
  await page.getByRole('button', { name: 'Choose model files' }).click()
  const files = ['config.json', 'tokenizer.json', 'model.safetensors'].map((name) => ({
    name,
    mimeType: 'application/octet-stream',
    buffer: readFileSync(join(tinyFolder, name)),
  }))
  await (await chooser).setFiles(files)
  await modelLoaded(page)
}

/** Uploads reviews, and makes a run three large steps long. Weight decay would take LoReFT out of the path. */
export async function prepareRuns(page: Page): Promise<void> {
  await chooseFile(page, 'returns.csv', madeUpCsv(40))
  await dataReady(page)
  await makeQuick(page, 3)
  await setField(page, 'learning_rate', 0.1)
  await setField(page, 'weight_decay', 0)
}

/** Types a configuration as the library writes it and waits until the page has taken it. */
export async function chooseConfig(page: Page, text: string): Promise<void> {
  await openStage(page, 'Adapter')
  await page.getByRole('radio', { name: /^More methods/ }).check()
  const field = page.getByLabel('As the library writes it')
  await field.fill(text)
  await field.blur()
  const config = formatConfig(parsePreset(text)) ?? ''
  await until(`${text} is chosen`, 30, async () => (await stageLine(page, 'Adapter')).includes(config))
}

/** Trains what is chosen under this name, until it is in use. Throws the page's own words when it fails. */
export async function trainTo(page: Page, name: string): Promise<void> {
  await pressTrain(page, name)
  await until(`${name} is in use`, 240, async () => {
    const wrong = await alerts(page)
    if (wrong.length > 0) throw new Error(`training ${name}: ${wrong.join(' ')}`)
    return (await stageLine(page, 'Use')).split('\n').includes(name)
  })
}

/** Runs that are kept already, by their names, with an adapter of the run's own or none. */
export interface Composition {
  members: string[]
  own: string | null
  way: 'Stack' | 'Fuse'
}

/** Adds kept runs to the one being prepared. */
export async function putTogether(page: Page, { members, own, way }: Composition): Promise<void> {
  if (own !== null) await chooseConfig(page, own)
  await openStage(page, 'Adapter')
  const editor = page.locator('details').filter({ hasText: 'Together with kept adapters' })
  if ((await editor.getAttribute('open')) === null) await editor.locator('summary').first().click()
  if (own === null) await page.getByRole('radio', { name: /\(head\)/ }).check()
  for (const label of members) {
    await page.getByLabel('Kept adapter to add').selectOption({ label })
    await page.getByRole('button', { name: 'Add', exact: true }).click()
  }
  await page.getByLabel(/^How they work together/).selectOption(way)
}

/** Takes all kept runs out of the one being prepared. */
export async function takeApart(page: Page): Promise<void> {
  await openStage(page, 'Adapter')
  const stage = page.getByRole('region', { name: 'Adapter', exact: true })
  const remove = stage.getByRole('button', { name: /^Remove .+ \(delete_adapter\)$/ })
  while ((await remove.count()) > 0) await remove.first().click()
}

/** The zip of the adapter in use. */
export async function exportAdapter(page: Page): Promise<Buffer> {
  await openStage(page, 'Use')
  const press = () => page.getByRole('button', { name: 'Export', exact: true }).click()
  return (await downloaded(page, press)).bytes
}
