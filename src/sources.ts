/** Where models and data come from: bundled with the page, a hub, or files that the user gave. */
import type { Source } from './data/parse.ts'
import { openHub } from './io/hub.ts'
import { openBundled, openFiles, type ModelFolder } from './io/modelFolder.ts'
import type { DownloadProgress } from './io/progress.ts'
import type { DataSource, ModelSource } from './protocol.ts'

/** A model folder from wherever it is. Throws one sentence about what is missing or was cut off. */
export function openFolder(
  source: ModelSource,
  onProgress: (progress: DownloadProgress) => void,
  signal: AbortSignal,
): Promise<ModelFolder> {
  switch (source.kind) {
    case 'bundled':
      return openBundled(source.url, onProgress, signal)
    case 'hub':
      return openHub(source, onProgress, signal)
    case 'files':
      return openFiles(source.name, source.files, signal)
    default:
      return source satisfies never
  }
}

/** The files or the bundled samples as blobs. */
export async function openRows(source: DataSource): Promise<Source[]> {
  if (source.kind === 'files') return source.files.map((file) => ({ name: file.name, blob: file }))
  return Promise.all(
    source.urls.map(async (url) => {
      const response = await fetch(url)
      if (!response.ok)
        throw new Error(`The sample ${url} could not be read (${response.status}); reload the page.`)
      return { name: url.split('/').at(-1)!, blob: await response.blob() }
    }),
  )
}
