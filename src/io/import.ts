/**
 * An adapter from files the user gave: our own zip, or a folder (loose or zipped, nested or not) that the `adapters` or
 * `peft` library wrote. Files are data: nothing in them is executed, and their claims are checked before use.
 */
import type { BaseIdentity } from '../config.ts'
import { fromAdapterHub, type FileMap, type ReadAdapter } from './adapterhub.ts'
import { parseObject } from './json.ts'
import { fromPeft } from './peft.ts'
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
export async function readAdapterFiles(files: NamedBytes[]): Promise<ReadAdapter> {
  if (files.length === 0) throw new Error('There is no file to import.')
  const folders = groupByFolder(unpackAll(files))
  const { hub, peft } = findAdapters(folders)
  const found = hub.length > 0 ? hub : peft
  if (found.length > 1)
    throw new Error(
      `The files hold ${found.length} adapters (${found.map(label).join(', ')}); import one at a time.`,
    )
  const folder = found[0]
  if (folder === undefined)
    throw new Error(
      'No adapter was found: there is no adapter_config.json or head_config.json among the files; give the whole folder or its zip.',
    )
  const own = ownFile(folders, folder, 'run.json')
  const run = own ? parseObject(new TextDecoder().decode(own), 'run.json') : {}
  const labels = ownFile(folders, folder, 'label_map.json')
  const read =
    hub.length > 0
      ? await fromAdapterHub(folders.get(folder)!)
      : await fromPeft(folders.get(folder)!, label(folder), labels ? readLabelMap(labels) : null)
  const { bundle, notes } = read
  const base = readBase(run.base)
  if (base === null)
    notes.push(
      'The files do not say which weights the adapter was trained on: only its sizes can be checked.',
    )
  const { max_length } = run
  if (
    typeof max_length === 'number' &&
    Number.isInteger(max_length) &&
    max_length >= 3 &&
    max_length <= 65536
  )
    return { bundle: { ...bundle, base, max_length }, notes }
  notes.push(`The files do not say how long the texts were: ${bundle.max_length} tokens are used.`)
  return { bundle: { ...bundle, base }, notes }
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
    const slash = path.lastIndexOf('/')
    const folder = path.slice(0, Math.max(slash, 0))
    if (!folders.has(folder)) folders.set(folder, new Map())
    folders.get(folder)!.set(path.slice(slash + 1), bytes)
  }
  return folders
}

/** Folders that hold an AdapterHub adapter or a head alone, and those that hold a PEFT adapter. */
function findAdapters(folders: Map<string, FileMap>): { hub: string[]; peft: string[] } {
  const hub: string[] = []
  const peft: string[] = []
  for (const [folder, files] of folders) {
    const config = files.get('adapter_config.json')
    const fields = config ? parseObject(new TextDecoder().decode(config), 'adapter_config.json') : null
    if (fields && 'peft_type' in fields && !('config' in fields)) peft.push(folder)
    else if (fields || files.has('head_config.json')) hub.push(folder)
  }
  return { hub, peft }
}

/** A file beside the adapter's folder or in it, where our zip puts what the libraries' formats do not record. */
function ownFile(folders: Map<string, FileMap>, folder: string, name: string): Uint8Array | null {
  const parent = folder.slice(0, Math.max(folder.lastIndexOf('/'), 0))
  return folders.get(folder)?.get(name) ?? folders.get(parent)?.get(name) ?? null
}

function label(folder: string): string {
  return folder.slice(folder.lastIndexOf('/') + 1) || 'adapter'
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
  if (typeof value !== 'object' || value === null) return null
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
