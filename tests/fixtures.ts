/** Reads what tests/parity wrote into tests/fixtures, alike in Node and in the browser. */
import type { HostTensor, RobertaConfig } from '../src/config.ts'
import { openSafetensors } from '../src/io/safetensors.ts'
import type { WeightSource } from '../src/model/loadRoberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'

/** A tensor as a fixture holds it: base64 of little-endian float32. */
export interface Stored {
  shape: number[]
  data: string
}

/** A batch as fixtures and `npm run trial` hold it: rows of equal length. */
export interface StoredBatch {
  input_ids: number[][]
  attention_mask: number[][]
  labels: number[]
}

const inNode = typeof window === 'undefined'

/** A file of the repository; `path` is relative to its root. */
export async function readBytes(path: string): Promise<Uint8Array<ArrayBuffer>> {
  if (inNode) {
    const { readFile } = await import('node:fs/promises')
    return new Uint8Array(await readFile(new URL(`../${path}`, import.meta.url)))
  }
  const response = await fetch(`/${path.replace(/^public\//, '')}`)
  if (!response.ok) throw new Error(`${path} was not served: ${response.status}.`)
  return new Uint8Array(await response.arrayBuffer())
}

export async function readText(path: string): Promise<string> {
  return new TextDecoder().decode(await readBytes(path))
}

/** tests/fixtures/{name}.json */
export async function readFixture<T>(name: string): Promise<T> {
  return JSON.parse(await readText(`tests/fixtures/${name}.json`)) as T
}

export function decode({ shape, data }: Stored): HostTensor {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0))
  return { shape, data: new Float32Array(bytes.buffer) }
}

/** config.json and one safetensors file of a folder. */
export async function readModel(
  folder: string,
  file = 'model.safetensors',
): Promise<{ config: RobertaConfig; weights: WeightSource; bytes: Uint8Array<ArrayBuffer> }> {
  const config = parseRobertaConfig(await readText(`${folder}/config.json`))
  const bytes = await readBytes(`${folder}/${file}`)
  return { config, weights: await openSafetensors(new Blob([bytes])), bytes }
}
