/**
 * Zips that the built page exports, in Python: tests/e2e/exports.ts trains every method in Chromium and exports it,
 * exported.py loads each with default arguments and compares the logits that the page wrote into it.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { readZip } from '../../src/io/zip.ts'
import { findChromium } from '../chromium.ts'
import { tinyFolder } from '../e2e/methodRuns.ts'
import type { Difference } from './table.ts'

type Report = (passed: boolean, name: string, detail: string) => void

/** What came of one zip; `name` is the method's preset, or a composition. */
export interface Exported {
  name: string
  differences: Difference[]
  passed: boolean
}

const limit = 1e-4
/** Logits must move by this when the adapter is taken away, or the comparison says nothing about it. */
const leastEffect = 1e-3

/** `out/exported/methods/seq_bn.zip` unpacked into `seq_bn/` beside it. */
function unpack(folder: string): string[] {
  const zips = readdirSync(folder).filter((name) => name.endsWith('.zip'))
  for (const zip of zips) {
    const target = join(folder, zip.slice(0, -4))
    for (const [path, bytes] of readZip(new Uint8Array(readFileSync(join(folder, zip))))) {
      mkdirSync(dirname(join(target, path)), { recursive: true })
      writeFileSync(join(target, path), bytes)
    }
  }
  return zips.map((zip) => zip.slice(0, -4))
}

/**
 * Has the page export all methods to `folder`, loads each zip in Python, reports one line for each and returns their
 * differences for the table. Without a Chromium on the machine it says that it is left out.
 */
export function compareExported(
  interpreter: string,
  here: string,
  folder: string,
  report: Report,
): Exported[] {
  if (findChromium() === null) {
    process.stdout.write('skip  no Chromium here to export from the page\n')
    return []
  }
  rmSync(folder, { recursive: true, force: true })
  const tsx = join('node_modules', 'tsx', 'dist', 'cli.mjs')
  const script = ['tests/e2e/exports.ts']
  const page = spawnSync(process.execPath, [tsx, ...script], { encoding: 'utf8', maxBuffer: 1 << 26 })
  report(page.status === 0, 'every method exported by the page', page.status === 0 ? '' : ending(page.stderr))
  mkdirSync(folder, { recursive: true })
  return compareUnpacked(interpreter, here, folder, report)
}

/** The Python half, on the zips that lie in `folder`. */
export function compareUnpacked(
  interpreter: string,
  here: string,
  folder: string,
  report: Report,
): Exported[] {
  const names = unpack(folder)
  const args = [join(here, 'exported.py'), tinyFolder, folder]
  const { stdout, stderr } = spawnSync(interpreter, args, { encoding: 'utf8', maxBuffer: 1 << 26 })
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'))
  if (lines.length !== names.length) report(false, 'zips of the page in Python', ending(stderr))
  return lines.map((line) => judge(line, report))
}

function judge(line: string, report: Report): Exported {
  const found = JSON.parse(line) as { case: string; faults: string[]; worst: Record<string, number>; effect: number } // prettier-ignore
  const { case: name, faults, worst, effect } = found
  const differences = Object.entries(worst).map(([what, value]) => ({ what, worst: value, limit }))
  const far = differences.filter(({ worst }) => !(worst <= limit)).map(({ what }) => `${what} is too far`)
  const idle = effect >= leastEffect ? [] : ['the adapter does nothing']
  const wrong = [...faults, ...far, ...(faults.length > 0 ? [] : idle)]
  const numbers = differences.map(({ what, worst }) => `${what} ${worst.toExponential(1)}`)
  const detail = [...wrong, ...numbers, `without it ${effect.toExponential(1)}`].join('; ')
  report(wrong.length === 0, `${name} exported by the page, in Python`, detail)
  return { name, differences, passed: wrong.length === 0 }
}

function ending(text: string): string {
  return text.trim().slice(-2000)
}
