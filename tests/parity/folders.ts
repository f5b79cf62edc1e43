/**
 * Folders of every method, head and setup on a made-up small model, to Python and back: the app writes them, folders.py
 * loads them with default arguments and saves them again, the app reads that and compares every bit.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { AdapterBundle, SetupBundle, TensorMap } from '../../src/config.ts'
import { toAdapterHub, type FileMap } from '../../src/io/adapterhub.ts'
import { sameTensor } from '../../src/io/aliases.ts'
import { decoderKey } from '../../src/io/headConfig.ts'
import { readFiles } from '../../src/io/import.ts'
import { peftProblem, toPeft } from '../../src/io/peft.ts'
import { packSetup, toAdapterSetup } from '../../src/io/setup.ts'
import { adapters, makeBundle, sizes } from '../io.bundles.ts'
import { compositions, heads, labelsOf, makeSetup, methods } from '../io.setups.ts'

type Report = (passed: boolean, name: string, detail: string) => void
type Case = AdapterBundle | SetupBundle

/** Every case by the name of its folder. */
function cases(): Record<string, Case> {
  const all: [string, Case][] = [
    ...Object.entries({ ...methods, ...adapters }).map(([name, adapter]): [string, Case] => [
      name,
      makeBundle(adapter),
    ]),
    ...Object.entries(heads).map(([name, head]): [string, Case] => [`head, ${name}`, makeBundle(adapters.seq_bn!, labelsOf(head), 'reviews', head)]), // prettier-ignore
    ...Object.entries(methods).map(([name, adapter]): [string, Case] => [`no head, ${name}`, makeBundle(adapter, [], 'reviews', null)]), // prettier-ignore
    ...Object.entries(compositions).map(([name, active]): [string, Case] => [
      `setup, ${name}`,
      makeSetup(active),
    ]),
  ]
  return Object.fromEntries(all.map(([name, one]) => [name.replaceAll(/[^\w+]+/g, '-'), one]))
}

function writeFolder(folder: string, files: FileMap): void {
  for (const [name, bytes] of files) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), bytes)
  }
}

function readFolder(folder: string): { name: string; bytes: Uint8Array<ArrayBuffer> }[] {
  const names = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  )
  return names.map((entry) => {
    const path = join(entry.parentPath, entry.name)
    return { name: path, bytes: new Uint8Array(readFileSync(path)) }
  })
}

function tensorsOf(one: Case): TensorMap {
  return 'adapter' in one ? one.tensors : packSetup(one).tensors
}

/** What is wrong with what Python saved again; empty when it is what was written. */
async function compareAgain(one: Case, folder: string): Promise<string[]> {
  const read = await readFiles(readFolder(folder))
  const found = tensorsOf('bundle' in read ? read.bundle : read.setup)
  const expected = tensorsOf(one)
  const extra = [...found.keys()].filter((key) => !expected.has(key) && !key.endsWith(decoderKey('reviews')))
  const wrong = [...expected].filter(
    ([key, tensor]) => !found.has(key) || !sameTensor(found.get(key)!, tensor),
  )
  return [...extra, ...wrong.map(([key]) => key)].map((key) => `${key} came back otherwise`)
}

/** Writes all folders to `out`, has Python load and save them, and reports one line for each. */
export async function compareFolders(
  interpreter: string,
  here: string,
  out: string,
  report: Report,
): Promise<void> {
  const all = cases()
  rmSync(out, { recursive: true, force: true })
  mkdirSync(out, { recursive: true })
  writeFileSync(join(out, 'base.json'), JSON.stringify({ ...sizes, max_position_embeddings: 40 }))
  for (const [name, one] of Object.entries(all)) {
    writeFolder(join(out, name, 'written'), 'adapter' in one ? toAdapterHub(one) : toAdapterSetup(one))
    if ('adapter' in one && peftProblem(one) === null) writeFolder(join(out, name, 'peft'), toPeft(one))
  }
  const { stdout, stderr } = spawnSync(interpreter, [join(here, 'folders.py'), out], { encoding: 'utf8' })
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'))
  if (lines.length !== Object.keys(all).length) report(false, 'folders in Python', stderr.trim().slice(-2000))
  for (const line of lines) {
    const { case: name, faults, worst } = JSON.parse(line) as { case: string; faults: string[]; worst: Record<string, number> } // prettier-ignore
    const refused = 'refused' in worst
    const again = refused || faults.length > 0 ? [] : await compareAgain(all[name]!, join(out, name, 'again'))
    const far = Object.entries(worst).filter(([, value]) => !(value <= 1e-5))
    const numbers = Object.entries(worst).map(([what, value]) => `${what} ${value.toExponential(1)}`)
    const wrong = [...faults, ...again, ...far.map(([what]) => `${what} is too far`)]
    report(wrong.length === 0, `folder of ${name} in Python`, [...wrong.slice(0, 3), ...numbers].join('; '))
  }
}
