/** Files and backends as Node has them: folders become the same Blobs and Files that a page hands over. */
import { createHash } from 'node:crypto'
import { createReadStream, openAsBlob } from 'node:fs'
import { readFile, readdir, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join, relative } from 'node:path'
import type { Source } from '../data/parse.ts'
import { failures, slowerWays } from '../deviceText.ts'
import type { NamedBytes } from '../io/import.ts'
import type { ModelFolder } from '../io/modelFolder.ts'
import { openBackend, type BackendKind, type DeviceReport } from '../kernels/backend.ts'
import { testDevice, type DeviceTestReport } from '../model/deviceTest.ts'

const require = createRequire(import.meta.url)

/** Opens a backend; webgpu is Dawn's, from the npm package `webgpu`. */
export async function openNodeBackend(kind: BackendKind): Promise<DeviceReport> {
  const fail = (message: string) => {
    process.stderr.write(`${message}\n`)
    process.exit(1)
  }
  if (kind !== 'webgpu') {
    const wasmPath = `${dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json'))}/dist/`
    return openBackend(kind, { wasmPath })
  }
  const { create, globals } = await import('webgpu')
  Object.assign(globalThis, globals)
  return openBackend(kind, { gpu: create([]), onLost: fail, onError: fail })
}

/**
 * Opens a backend, says which, and tests it where it is a GPU's; what runs the slower way there is said too. Throws one
 * sentence where the GPU computes wrong numbers all the same.
 */
export async function openTested(
  kind: BackendKind,
  tell: (text: string) => void,
): Promise<DeviceTestReport | null> {
  const { backend, description } = await openNodeBackend(kind)
  tell(`${backend}: ${description}`)
  if (kind !== 'webgpu') return null
  const test = await testDevice()
  if (!test.passed) throw new Error(`Nothing can be computed here: ${failures(test)}`)
  slowerWays(test).forEach(tell)
  return test
}

/** A model folder on disk; the weights stay there and are read piece by piece. */
export async function openModelDir(path: string): Promise<ModelFolder> {
  const config = await readPart(path, 'config.json')
  const tokenizer = await readPart(path, 'tokenizer.json')
  const tokenizer_config = await readPart(path, 'tokenizer_config.json').catch(() => null)
  const weights = [await openWeights(path)]
  const sha256 = await digest(join(path, 'model.safetensors'))
  return { name: basename(path), config, tokenizer, tokenizer_config, weights, sha256, notes: [] }
}

/** One text file of a model folder. Throws a sentence that names it when it is not there. */
export async function readPart(path: string, name: string): Promise<string> {
  try {
    return await readFile(join(path, name), 'utf8')
  } catch {
    throw new Error(`The model folder ${path} has no ${name}.`)
  }
}

/** model.safetensors of a model folder, unread. */
export async function openWeights(path: string): Promise<Blob> {
  const file = join(path, 'model.safetensors')
  if (!(await exists(file))) throw new Error(`The model folder ${path} has no model.safetensors.`)
  return openAsBlob(file)
}

/** Labelled files as the importer takes them; "sample" stands for the bundled reviews. */
export async function openSources(paths: string[]): Promise<Source[]> {
  const sample = join(dirname(require.resolve('sentiment/package.json')), 'test/fixtures')
  const files = paths.flatMap((path) =>
    path === 'sample' ? ['amazon', 'imdb', 'yelp'].map((name) => join(sample, `${name}.json`)) : [path],
  )
  return Promise.all(
    files.map(async (path) => {
      if (!(await exists(path))) throw new Error(`There is no file ${path}.`)
      return { name: basename(path), blob: await openAsBlob(path) }
    }),
  )
}

/** All files of a folder, one level down included. */
export async function folderFiles(path: string): Promise<NamedBytes[]> {
  if (!(await exists(path))) throw new Error(`There is no folder ${path}.`)
  const entries = await readdir(path, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  return Promise.all(
    files.map(async (file) => ({
      name: join(basename(path), relative(path, file)),
      bytes: new Uint8Array(await readFile(file)),
    })),
  )
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

async function digest(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
