/** Reads what tests/parity wrote into tests/fixtures, alike in Node and in the browser. */
import type { AdapterConfig, HostTensor, ModelSetup, RobertaConfig } from '../src/config.ts'
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

/** Tensors by name with `*` for the layer's number, each in few numbers (`by_layer` of tests/parity/store.py). */
export interface StoredByLayer {
  name: string
  shape: number[]
  layers?: number[]
  data: string
}

/** The same by full name. */
export function byName(stored: StoredByLayer[]): Map<string, { shape: number[]; kept: number[] }> {
  return new Map(
    stored.flatMap(({ name, shape, layers, data }) => {
      const all = decode({ shape, data }).data
      const width = all.length / (layers?.length ?? 1)
      return (layers ?? [-1]).map((l, i): [string, { shape: number[]; kept: number[] }] => [
        name.replace('.layer.*.', `.layer.${l}.`),
        { shape, kept: [...all.subarray(i * width, (i + 1) * width)] },
      ])
    }),
  )
}

/** A `ModelSetup` as a fixture holds it: bottlenecks have no `architecture` there, as on disk. */
export function setupOf(stored: ModelSetup): ModelSetup {
  const named = (config: AdapterConfig): AdapterConfig =>
    config.architecture === 'union'
      ? { ...config, configs: config.configs.map(named) }
      : ({ ...config, architecture: config.architecture ?? null } as AdapterConfig)
  const adapters = Object.entries(stored.adapters).map(([name, config]) => [name, named(config)])
  return { ...stored, adapters: Object.fromEntries(adapters) as ModelSetup['adapters'] }
}
