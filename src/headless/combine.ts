/** What is done to loaded adapters without training: an average of several, or one folded into the model. */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { AdapterBundle } from '../config.ts'
import { adapterName } from '../io/adapterKeys.ts'
import { toAdapterHub } from '../io/adapterhub.ts'
import { fullModelFiles } from '../io/fullModel.ts'
import { readAdapterFiles } from '../io/import.ts'
import { openSafetensors } from '../io/safetensors.ts'
import { averageBundles } from '../shelf.ts'
import { parseRobertaConfig } from '../model/robertaConfig.ts'
import type { Values } from './fields.ts'
import { folderFiles, openModelDir, readPart } from './node.ts'

type Files = ReadonlyMap<string, Blob | Uint8Array>

/** Adapters of `--load name=DIR`, by the names given there. Throws one sentence for an entry without a folder. */
export async function loadAdapters(values: Values): Promise<Map<string, AdapterBundle>> {
  const loaded = new Map<string, AdapterBundle>()
  for (const entry of values.load as string[]) {
    const [name = '', dir] = entry.split(/=(.*)/s)
    if (!dir) throw new Error(`--load has "${entry}"; it must be name=DIR.`)
    loaded.set(name, (await readAdapterFiles(await folderFiles(dir))).bundle)
  }
  return loaded
}

/** Carries out `--average` or `--merge`; writes to `--output_dir`. */
export async function combine(values: Values, transformer: string): Promise<void> {
  const target = values.output_dir
  if (typeof target !== 'string') throw new Error('--output_dir is missing; it says where the result goes.')
  const loaded = await loadAdapters(values)
  const named = (name: string): AdapterBundle => {
    const bundle = loaded.get(name)
    if (!bundle) throw new Error(`"${name}" was never loaded; give it with --load ${name}=DIR.`)
    return bundle
  }
  if (values.merge !== null) return write(target, await merged(transformer, named(String(values.merge))))
  const shares = (values.average as string[]).map((entry) => {
    const [name = '', weight = '1'] = entry.split(':')
    if (!Number.isFinite(Number(weight))) throw new Error(`--average has "${entry}"; it must be name:weight.`)
    return { bundle: named(name), weight: Number(weight) }
  })
  const config = parseRobertaConfig(await readPart(transformer, 'config.json'))
  const bundle = averageBundles(config, adapterName(String(values.name)), shares, {
    combine_strategy: values.combine_strategy as 'linear',
    normalize_weights: values.normalize_weights as boolean,
    svd_rank: values.svd_rank as number | null,
  })
  return write(join(target, 'adapterhub'), toAdapterHub(bundle))
}

async function merged(transformer: string, bundle: AdapterBundle): Promise<Files> {
  const { config: config_json, tokenizer, tokenizer_config, weights } = await openModelDir(transformer)
  const base = { config: parseRobertaConfig(config_json), config_json, tokenizer, tokenizer_config }
  return fullModelFiles({ ...base, weights: await openSafetensors(weights) }, bundle)
}

async function write(folder: string, files: Files): Promise<void> {
  for (const [name, content] of files) {
    const path = join(folder, name)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : content)
  }
  process.stderr.write(`wrote ${folder}\n`)
}
