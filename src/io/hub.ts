/**
 * A model repository on the Hugging Face hub, or on any server with its layout: `{endpoint}/{repo}/resolve/{revision}/
 * {file}`. What is complete is opened from the store without a request; what is not goes on where it stopped.
 */
import { combinedSha256 } from './digest.ts'
import { download, request, type Download } from './download.ts'
import { openFileStore, type FileStore } from './fileStore.ts'
import { parseObject } from './json.ts'
import { shardNames, type ModelFolder } from './modelFolder.ts'
import type { DownloadProgress } from './progress.ts'
import { formatBytes } from './storage.ts'

export interface HubModel {
  /** Such as `FacebookAI/roberta-base`. */
  repo: string
  /** Branch, tag or commit. */
  revision: string
  /** Such as `https://huggingface.co`. */
  endpoint: string
}

/** Written last: a folder that has it is complete. */
interface Manifest {
  model: HubModel
  texts: { config: string; tokenizer: string; tokenizer_config: string | null }
  weights: { file: string; size: number }[]
  sha256: string
}

const root = 'models'
const manifestFile = 'complete.json'

/**
 * The model's files, from the store when they are all there, else downloaded into it. An error keeps what has arrived,
 * and says so; the next call continues. `signal` stops the download the same way.
 */
export async function openHub(
  model: HubModel,
  onProgress: (progress: DownloadProgress) => void,
  signal: AbortSignal,
  store?: FileStore,
): Promise<ModelFolder> {
  const files = store ?? (await openFileStore())
  const { endpoint, repo, revision } = checkModel(model)
  const folder = folderOf({ endpoint, repo, revision })
  const kept = await readKept(files, folder)
  if (kept) return kept
  const url = (file: string) => `${endpoint}/${repo}/resolve/${encodeURIComponent(revision)}/${file}`
  const arrived = await bytesIn(files, folder)
  const keeps = arrived > 0 ? `; the ${formatBytes(arrived)} already downloaded are kept` : ''
  const text = async (file: string): Promise<string | null> => {
    const response = await request(url(file), `${file} of ${repo}`, {}, signal, keeps)
    return response === null ? null : checkedText(await response.text(), file)
  }
  const required = async (file: string): Promise<string> => {
    const content = await text(file)
    if (content === null)
      throw new Error(`${repo} at ${revision} has no ${file}, so it cannot be opened as a model here.`)
    return content
  }
  const config = await required('config.json')
  const tokenizer = await required('tokenizer.json')
  const tokenizer_config = await text('tokenizer_config.json')
  const checksums = hubChecksums({ endpoint, repo, revision }, signal)
  const get = (file: string): Promise<Download | null> =>
    download({ url: url(file), path: `${folder}/${file}`, file, store: files, onProgress, signal, checksums })
  const { downloads, notes } = await getWeights(get, text, repo)
  if (!files.persistent)
    notes.push('This browser cannot keep the model: it has to be downloaded again after a reload.')
  const sha256 = await combinedSha256(downloads.map((item) => item.sha256))
  const weights = downloads.map(({ file, size }) => ({ file, size }))
  const manifest: Manifest = {
    model: { endpoint, repo, revision },
    texts: { config, tokenizer, tokenizer_config },
    weights,
    sha256,
  }
  await files.write(`${folder}/${manifestFile}`, JSON.stringify(manifest))
  const blobs = await Promise.all(weights.map(({ file }) => files.read(`${folder}/${file}`)))
  return { name: repo, ...manifest.texts, weights: blobs.filter((blob) => blob !== null), sha256, notes }
}

/** model.safetensors, or the shards that its index names. */
async function getWeights(
  get: (file: string) => Promise<Download | null>,
  text: (file: string) => Promise<string | null>,
  repo: string,
): Promise<{ downloads: Download[]; notes: string[] }> {
  const whole = await get('model.safetensors')
  const downloads: Download[] = whole ? [whole] : []
  if (!whole) {
    const index = await text('model.safetensors.index.json')
    if (index === null)
      throw new Error(
        `${repo} has no model.safetensors; weights in other formats are not read. Choose another repository.`,
      )
    for (const file of shardNames(index)) {
      const shard = await get(file)
      if (!shard) throw new Error(`${repo} lacks the shard ${file} that its own index names.`)
      downloads.push(shard)
    }
  }
  const notes = downloads.every((item) => item.checked)
    ? []
    : ['The server gives no checksum: only the size of the weights could be checked.']
  return { downloads, notes }
}

/** SHA-256 by file from the hub's own listing, asked for once and only when a file's answer does not carry it. */
function hubChecksums(
  { endpoint, repo, revision }: HubModel,
  signal: AbortSignal,
): () => Promise<Map<string, string>> {
  let listing: Promise<Map<string, string>> | null = null
  return () =>
    (listing ??= (async () => {
      const url = `${endpoint}/api/models/${repo}/tree/${encodeURIComponent(revision)}`
      const response = await request(url, `the file list of ${repo}`, {}, signal)
      const entries: unknown = response ? await response.json() : []
      const checksums = new Map<string, string>()
      for (const { path, lfs } of Array.isArray(entries)
        ? (entries as { path?: string; lfs?: { oid?: string } }[])
        : [])
        if (typeof path === 'string' && typeof lfs?.oid === 'string') checksums.set(path, lfs.oid)
      return checksums
    })())
}

function checkedText(text: string, file: string): string {
  parseObject(text, file)
  return text
}

/** Throws for what cannot be a repository, a revision or an address. */
function checkModel({ endpoint, repo, revision }: HubModel): HubModel {
  if (!/^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/.test(repo.trim()))
    throw new Error(
      `“${repo}” is no repository id; it should look like roberta-base or FacebookAI/roberta-base.`,
    )
  if (!URL.canParse(endpoint.trim()) || !/^https?:\/\//i.test(endpoint.trim()))
    throw new Error(
      `The hub address “${endpoint}” is no web address; the usual one is https://huggingface.co.`,
    )
  return {
    endpoint: endpoint.trim().replace(/\/+$/, ''),
    repo: repo.trim(),
    revision: revision.trim() || 'main',
  }
}

function folderOf({ endpoint, repo, revision }: HubModel): string {
  return `${root}/${encodeURIComponent(`${endpoint}/${repo}@${revision}`)}`
}

async function readManifest(store: FileStore, folder: string): Promise<Manifest | null> {
  const blob = await store.read(`${folder}/${manifestFile}`)
  return blob && blob.size > 0 ? (JSON.parse(await blob.text()) as Manifest) : null
}

/** The folder when it is complete and its files still have their sizes, or null. */
async function readKept(store: FileStore, folder: string): Promise<ModelFolder | null> {
  const manifest = await readManifest(store, folder)
  if (!manifest) return null
  const weights: Blob[] = []
  for (const { file, size } of manifest.weights) {
    const blob = await store.read(`${folder}/${file}`)
    if (blob?.size !== size) return null
    weights.push(blob)
  }
  return { name: manifest.model.repo, ...manifest.texts, weights, sha256: manifest.sha256, notes: [] }
}

/** Bytes of all files of a folder, whole or not. */
async function bytesIn(store: FileStore, folder: string): Promise<number> {
  let bytes = 0
  for (const name of await store.list(folder)) bytes += (await store.read(`${folder}/${name}`))?.size ?? 0
  return bytes
}

/** A downloaded model that opens without a network. */
export interface KeptModel extends HubModel {
  bytes: number
}

export async function listKeptModels(store?: FileStore): Promise<KeptModel[]> {
  const files = store ?? (await openFileStore())
  const models: KeptModel[] = []
  for (const name of await files.list(root)) {
    const manifest = await readManifest(files, `${root}/${name}`)
    if (manifest)
      models.push({ ...manifest.model, bytes: manifest.weights.reduce((sum, { size }) => sum + size, 0) })
  }
  return models
}

/** Frees what a kept or half-downloaded model takes. */
export async function deleteKeptModel(model: HubModel, store?: FileStore): Promise<void> {
  await (store ?? (await openFileStore())).remove(folderOf(checkModel(model)))
}
