/**
 * Every adapter method, a stack and a fusion trained a few steps by the built app in Chromium on WebGPU and exported
 * there, into out/exported/methods/{name}.zip. `npm run parity` runs this and loads the zips in Python.
 *
 * `tsx tests/e2e/exports.ts seq_bn lora` makes these alone; others that are there stay.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Page } from 'playwright'
import { presets } from '../../src/methods/registry.ts'
import { launch, openContext } from './browser.ts'
import {
  chooseConfig,
  exportAdapter,
  openTinyFolder,
  prepareRuns,
  putTogether,
  takeApart,
  tinyConfigs,
  trainTo,
  type Composition,
} from './methodRuns.ts'
import { buildSite, serveSite } from './site.ts'

const folder = 'out/exported/methods'
const siteFolder = 'out/exports-site'

const compositions: (Composition & { name: string })[] = [
  { name: 'Stack', members: ['seq_bn'], own: tinyConfigs.lora!, way: 'Stack' },
  { name: 'Fuse', members: ['seq_bn', 'compacter++'], own: null, way: 'Fuse' },
]

/** Presets that make an adapter. Throws when one has no configuration that fits the small model. */
function adapterPresets(): string[] {
  const comparisons = ['head', 'bitfit', 'full']
  const names = presets
    .filter(({ config }) => !comparisons.includes(config.architecture ?? ''))
    .map(({ name }) => name)
  const missing = names.filter((name) => !(name in tinyConfigs))
  if (missing.length > 0) throw new Error(`tinyConfigs of methodRuns.ts lacks ${missing.join(', ')}.`)
  return names
}

async function trainAndExport(page: Page, name: string): Promise<void> {
  const started = performance.now()
  rmSync(join(folder, `${name}.zip`), { force: true })
  await trainTo(page, name)
  const bytes = await exportAdapter(page)
  writeFileSync(join(folder, `${name}.zip`), bytes)
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  process.stderr.write(`${name}: ${bytes.length} bytes, ${seconds} s\n`)
}

async function exportAll(page: Page, wanted: string[]): Promise<void> {
  await openTinyFolder(page)
  await prepareRuns(page)
  const some = (name: string) => wanted.length === 0 || wanted.includes(name)
  const needed = compositions.filter(({ name }) => some(name)).flatMap(({ members }) => members)
  for (const name of adapterPresets().filter((name) => some(name) || needed.includes(name))) {
    await chooseConfig(page, tinyConfigs[name]!)
    await trainAndExport(page, name)
  }
  for (const composition of compositions.filter(({ name }) => some(name))) {
    await putTogether(page, composition)
    await trainAndExport(page, composition.name)
    await takeApart(page)
  }
}

const wanted = process.argv.slice(2)
mkdirSync(folder, { recursive: true })
buildSite(siteFolder)
const site = await serveSite(siteFolder)
const browser = await launch()
let page: Page | null = null
try {
  const { context, watch } = await openContext(browser)
  page = await context.newPage()
  await page.goto(site.url)
  await exportAll(page, wanted)
  if (watch.errors.length > 0) throw new Error(`The page reported: ${watch.errors.join('; ')}`)
} catch (error) {
  await page?.screenshot({ path: 'out/failed/exports.png', fullPage: true })
  throw error
} finally {
  await browser.close()
  await site.close()
}
