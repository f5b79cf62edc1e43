/**
 * A base model as files in the Hugging Face layout, wherever they came from: dropped on the page, bundled with it, or
 * kept from a hub download (hub.ts). The texts are small and whole; the weights stay Blobs that are read in pieces.
 */
import { bodyLength, bodyPieces } from './body.ts'
import { combinedSha256, sha256Hex } from './digest.ts'
import { parseObject } from './json.ts'
import { trackProgress, type DownloadProgress } from './progress.ts'

export interface ModelFolder {
  /** Hub id, folder name, or `mini-roberta`. */
  name: string
  /** config.json, as text. */
  config: string
  /** tokenizer.json, as text. */
  tokenizer: string
  /** tokenizer_config.json, as text; null when the folder has none. */
  tokenizer_config: string | null
  /** model.safetensors, or its shards in name order; give them to openSafetensors. */
  weights: Blob[]
  /** SHA-256 of model.safetensors, hex; for shards that of their digests, one hex digest a line. */
  sha256: string
  /** Sentences for the page, such as that the browser could not keep the files. */
  notes: string[]
}

/** Files that were dropped or chosen; a chosen folder's subfolders may hold them. */
export async function openFiles(name: string, files: File[], signal?: AbortSignal): Promise<ModelFolder> {
  const find = (wanted: string): File | null => {
    const found = files.filter((file) => file.name === wanted)
    if (found.length > 1)
      throw new Error(
        `There are ${found.length} files called ${wanted}: choose the folder of one model only.`,
      )
    return found[0] ?? null
  }
  const required = (wanted: string): File => {
    const file = find(wanted)
    if (!file)
      throw new Error(
        `The folder has no ${wanted}; a model needs config.json, tokenizer.json and model.safetensors.`,
      )
    return file
  }
  const config = await jsonText(required('config.json'))
  const tokenizer = await jsonText(required('tokenizer.json'))
  const tokenizerConfig = find('tokenizer_config.json')
  const index = find('model.safetensors') ? null : find('model.safetensors.index.json')
  if (!index && !find('model.safetensors') && files.some((file) => /^pytorch_model.*\.bin$/.test(file.name)))
    throw new Error(
      'The folder has its weights as pytorch_model.bin only; save the model with safe_serialization=True to get model.safetensors.',
    )
  const names = index ? shardNames(await index.text()) : ['model.safetensors']
  const weights = names.map(required)
  const digests: string[] = []
  for (const file of weights) digests.push(await sha256Hex(file, signal))
  return {
    name,
    config,
    tokenizer,
    tokenizer_config: tokenizerConfig ? await jsonText(tokenizerConfig) : null,
    weights,
    sha256: await combinedSha256(digests),
    notes: [],
  }
}

async function jsonText(file: File): Promise<string> {
  const text = await file.text()
  parseObject(text, file.name)
  return text
}

/** The shard files that model.safetensors.index.json names, in name order. */
export function shardNames(index: string): string[] {
  const { weight_map } = parseObject(index, 'model.safetensors.index.json')
  const map = parseObject(
    JSON.stringify(weight_map ?? null),
    'The weight_map of model.safetensors.index.json',
  )
  const names = [...new Set(Object.values(map))]
  for (const name of names)
    if (typeof name !== 'string' || !/^[\w-][\w.-]*\.safetensors$/.test(name))
      throw new Error(
        `model.safetensors.index.json names the file ${JSON.stringify(name)}, which is no shard of weights.`,
      )
  if (names.length === 0) throw new Error('model.safetensors.index.json names no shard of weights.')
  return (names as string[]).sort()
}

/** The model that comes with the page, from a folder at `url` named after it; small enough to stay in memory. */
export async function openBundled(
  url: string,
  onProgress: (progress: DownloadProgress) => void,
  signal?: AbortSignal,
): Promise<ModelFolder> {
  const folder = url.replace(/\/+$/, '')
  const find = async (file: string): Promise<Response | null> => {
    const response = await fetch(`${folder}/${file}`, signal ? { signal } : {})
    // A host that answers every path with its start page has no such file.
    const isPage = response.headers.get('content-type')?.startsWith('text/html') ?? false
    return response.ok && !isPage ? response : null
  }
  const get = async (file: string): Promise<Response> => {
    const response = await find(file)
    if (!response) throw new Error(`The page's own model lacks ${file}; the site was not put up whole.`)
    return response
  }
  const [config, tokenizer, tokenizer_config] = await Promise.all([
    get('config.json').then((response) => response.text()),
    get('tokenizer.json').then((response) => response.text()),
    find('tokenizer_config.json').then((response) => response?.text() ?? null),
  ])
  const weights = await readBody(await get('model.safetensors'), onProgress)
  return {
    name: folder.slice(folder.lastIndexOf('/') + 1),
    config,
    tokenizer,
    tokenizer_config,
    weights: [weights],
    sha256: await sha256Hex(weights, signal),
    notes: [],
  }
}

async function readBody(response: Response, onProgress: (progress: DownloadProgress) => void): Promise<Blob> {
  const report = trackProgress('model.safetensors', 0, bodyLength(response), onProgress)
  const pieces: Uint8Array<ArrayBuffer>[] = []
  let bytes = 0
  for await (const piece of bodyPieces(response)) {
    pieces.push(piece)
    bytes += piece.length
    report(bytes)
  }
  report(bytes, true)
  return new Blob(pieces)
}
