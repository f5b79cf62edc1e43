/**
 * An adapter or a setup of adapters from files the user gave: our own zip, or folders (loose or zipped, nested or not)
 * that the `adapters` or `peft` library wrote. Files are data: nothing in them is executed, and their claims are checked
 * before use.
 */
import type { BaseIdentity } from '../config.ts'
import { fileNames, fromAdapterHub, type FileMap, type ReadAdapter, type ReadOptions } from './adapterhub.ts'
import { isFields, type Fields } from './fields.ts'
import { parseObject } from './json.ts'
import { fromPeft } from './peftRead.ts'
import { fromAdapterSetup, type ReadSetup } from './readSetup.ts'
import { setupFile } from './setup.ts'
import { isZip, readZip } from './zip.ts'

export interface NamedBytes {
  /** Path or name, as the user's folder has it. */
  name: string
  bytes: Uint8Array<ArrayBuffer>
}

/** PyTorch's own files are zips too, and are not unpacked here. */
const torchFile = /\.(bin|pt|pth|ckpt)$/i

/**
 * The one adapter that the files hold; the AdapterHub form is preferred where there is a PEFT form too. What a run.json
 * of ours says of base model and length is in the bundle; `notes` tell what no file says. Throws one sentence otherwise.
 */
export async function readAdapterFiles(files: NamedBytes[], options: ReadOptions = {}): Promise<ReadAdapter> {
  const read = await readFiles(files, options)
  if ('bundle' in read) return read
  throw new Error('The files hold a setup of several adapters; one adapter alone is asked for here.')
}

/** As readAdapterFiles, but also a setup: adapters with a composition, or with the fusion that joins them. */
export async function readFiles(
  files: NamedBytes[],
  options: ReadOptions = {},
): Promise<ReadAdapter | ReadSetup> {
  if (files.length === 0) throw new Error('There is no file to import.')
  const folders = groupByFolder(unpackAll(files))
  const setup = findSetup(folders)
  if (setup) {
    const own = ownFile(folders, setup.root, 'run.json')
    const run = own ? parseObject(new TextDecoder().decode(own), 'run.json') : {}
    const name = typeof run.adapter_name === 'string' ? run.adapter_name : label(setup.root, 'setup')
    const read = await fromAdapterSetup(setup.parts, folders.get(setup.root) ?? null, name, options)
    return {
      setup: { ...read.setup, ...ownFacts(run, read.setup.max_length, read.notes) },
      notes: read.notes,
    }
  }
  const { form, folder } = findAdapter(folders)
  const own = ownFile(folders, folder, 'run.json')
  const labels = ownFile(folders, folder, 'label_map.json')
  const { bundle, notes } =
    form === 'hub'
      ? await fromAdapterHub(folders.get(folder)!, options)
      : await fromPeft(folders.get(folder)!, label(folder), labels ? readLabelMap(labels) : null, options)
  const run = own ? parseObject(new TextDecoder().decode(own), 'run.json') : {}
  return { bundle: { ...bundle, ...ownFacts(run, bundle.max_length, notes) }, notes }
}

/** Base and length as our run.json records them; notes tell what it does not. */
function ownFacts(
  run: Fields,
  fallback: number,
  notes: string[],
): { base: BaseIdentity | null; max_length: number } {
  const base = readBase(run.base)
  if (base === null)
    notes.push(
      'The files do not say which weights the adapter was trained on: only its sizes can be checked.',
    )
  const { max_length } = run
  const known = Number.isInteger(max_length) && Number(max_length) >= 3 && Number(max_length) <= 65536
  if (!known) notes.push(`The files do not say how long the texts were: ${fallback} tokens are used.`)
  return { base, max_length: known ? Number(max_length) : fallback }
}

/** All files by path, zips replaced by what they hold. */
function unpackAll(files: NamedBytes[]): FileMap {
  const all: FileMap = new Map()
  const add = (path: string, bytes: Uint8Array<ArrayBuffer>) => {
    const hidden = path.split('/').some((part) => part === '__MACOSX' || part.startsWith('._'))
    if (hidden) return
    if (all.has(path)) throw new Error(`Two of the files are called ${path}; import one adapter at a time.`)
    all.set(path, bytes)
  }
  for (const { name, bytes } of files) {
    if (/\.zip$/i.test(name) && !isZip(bytes))
      throw new Error(`${name} is no zip file, whatever its name says; get it again.`)
    if (torchFile.test(name) || !isZip(bytes)) add(name, bytes)
    else for (const [path, content] of readZip(bytes)) add(`${name.replace(/\.zip$/i, '')}/${path}`, content)
  }
  return all
}

function groupByFolder(files: FileMap): Map<string, FileMap> {
  const folders = new Map<string, FileMap>()
  for (const [path, bytes] of files) {
    const folder = parentOf(path)
    if (!folders.has(folder)) folders.set(folder, new Map())
    folders.get(folder)!.set(path.slice(path.lastIndexOf('/') + 1), bytes)
  }
  return folders
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(path.lastIndexOf('/'), 0))
}

/** Where a setup is, and the folders that belong to it; null when the files hold no setup and no fusion. */
function findSetup(folders: Map<string, FileMap>): { root: string; parts: Map<string, FileMap> } | null {
  const roots = [...folders].filter(([, files]) => files.has(setupFile)).map(([folder]) => folder)
  const fused = [...folders]
    .filter(([, files]) => files.has(fileNames.fusion[0]))
    .map(([folder]) => parentOf(folder))
  const root = ours(roots) ?? fused[0]
  if (root === undefined) return null
  if (roots.length > 1 && ours(roots) === roots[0] && label(root) !== 'adapterhub')
    throw new Error(
      `The files hold ${roots.length} setups (${roots.map((one) => label(one)).join(', ')}); import one at a time.`,
    )
  // Loose folders share no parent in every browser; without adapter_setup.json all of them count.
  const within = ([folder]: [string, FileMap]) => parentOf(folder) === root || roots.length === 0
  return { root, parts: new Map([...folders].filter(within)) }
}

/** The folder of our own zips among several, or else the first. */
function ours(found: string[]): string | undefined {
  return found.find((folder) => label(folder) === 'adapterhub') ?? found[0]
}

/** The folder with an AdapterHub adapter or a head alone, or else the one with a PEFT adapter. */
function findAdapter(folders: Map<string, FileMap>): { form: 'hub' | 'peft'; folder: string } {
  const hub: string[] = []
  const peft: string[] = []
  for (const [folder, files] of folders) {
    const config = files.get(fileNames.adapter[0])
    const fields = config ? parseObject(new TextDecoder().decode(config), fileNames.adapter[0]) : null
    if (fields && 'peft_type' in fields && !('config' in fields)) peft.push(folder)
    else if (fields || files.has(fileNames.head[0])) hub.push(folder)
  }
  const form = hub.length > 0 ? 'hub' : 'peft'
  const found = hub.length > 0 ? hub : peft
  const folder = ours(found)
  if (folder === undefined)
    throw new Error(
      'No adapter was found: there is no adapter_config.json or head_config.json among the files; give the whole folder or its zip.',
    )
  if (found.length > 1 && label(folder) !== 'adapterhub')
    throw new Error(
      `The files hold ${found.length} adapters (${found.map((one) => label(one)).join(', ')}); import one at a time.`,
    )
  return { form, folder }
}

/** A file beside the adapter's folder or in it, where our zip puts what the libraries' formats do not record. */
function ownFile(folders: Map<string, FileMap>, folder: string, name: string): Uint8Array | null {
  return folders.get(folder)?.get(name) ?? folders.get(parentOf(folder))?.get(name) ?? null
}

function label(folder: string, otherwise = 'adapter'): string {
  return folder.slice(folder.lastIndexOf('/') + 1) || otherwise
}

/** `{"id2label": {"0": …}}` as a list. */
function readLabelMap(bytes: Uint8Array): string[] {
  const { id2label } = parseObject(new TextDecoder().decode(bytes), 'label_map.json')
  const labels = Object.values((id2label ?? {}) as object)
  if (labels.length === 0 || !labels.every((value) => typeof value === 'string'))
    throw new Error('label_map.json has no id2label with a name for each class.')
  return labels
}

function readBase(value: unknown): BaseIdentity | null {
  if (!isFields(value)) return null
  const { name, sha256, hidden_size, num_hidden_layers, vocab_size } = value as Partial<BaseIdentity>
  const sizes = [hidden_size, num_hidden_layers, vocab_size]
  if (
    typeof name !== 'string' ||
    typeof sha256 !== 'string' ||
    !/^[0-9a-f]{64}$/.test(sha256) ||
    !sizes.every(Number.isInteger)
  )
    throw new Error('The base model in run.json is not described by name, sha256 and sizes.')
  return {
    name,
    sha256,
    hidden_size: hidden_size!,
    num_hidden_layers: num_hidden_layers!,
    vocab_size: vocab_size!,
  }
}
