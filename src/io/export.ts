/**
 * The zip that a run is exported as: the adapter, or the setup of adapters, in the forms that Python loads, and all that
 * is needed to use it there (labels, tokenizer, base identity, length, a script with expected numbers). It is read back
 * in every form and compared bit for bit before it is handed out, so an export is right or refused.
 */
import type { AdapterBundle, SetupBundle, TensorMap } from '../config.ts'
import { exportedConfig } from './adapterConfig.ts'
import { sizesOf } from './adapterKeys.ts'
import { toAdapterHub, type FileMap } from './adapterhub.ts'
import { sameTensor } from './aliases.ts'
import type { RunRecord } from './db.ts'
import { readFiles } from './import.ts'
import { metricsCsv, modelCard } from './modelCard.ts'
import { peftProblem, toPeft } from './peft.ts'
import { fromPeft } from './peftRead.ts'
import { predictScript, type Example } from './predictScript.ts'
import { packSetup, toAdapterSetup, plainSetup } from './setup.ts'
import { readZip, writeZip } from './zip.ts'

/** What an export needs besides the adapter and its run. */
export interface ExportExtras {
  /** tokenizer.json and tokenizer_config.json of the base model, as text. */
  tokenizer: string
  tokenizer_config: string | null
  /** A few texts and the logits the page computes for them, which predict.py checks; none where there are none. */
  examples: Example[]
  /** More files by path: `model/…` for a run that changed the model's own weights, which must have them. */
  files?: FileMap
}

/** Throws when any file does not read back as it was written. */
export async function exportZip(
  exported: AdapterBundle | SetupBundle,
  run: RunRecord,
  extras: ExportExtras,
): Promise<Uint8Array<ArrayBuffer>> {
  const text = (content: string) => new TextEncoder().encode(content)
  const files = new Map<string, Uint8Array>()
  const [hub, peft] = folders(exported)
  for (const [name, bytes] of hub) files.set(`adapterhub/${name}`, bytes)
  for (const [name, bytes] of peft) files.set(`peft/${name}`, bytes)
  for (const [name, bytes] of extras.files ?? []) files.set(name, bytes)
  if (hub.size === 0 && ![...files.keys()].some((name) => name.startsWith('model/')))
    throw new Error(
      `“${exported.name}” changed the model's own weights, so it is no adapter; export the full model.`,
    )
  if ('adapter' in exported) files.set('label_map.json', text(labelMap(exported.id2label)))
  files.set('run.json', text(runJson(exported, run)))
  files.set('tokenizer/tokenizer.json', text(extras.tokenizer))
  if (extras.tokenizer_config !== null)
    files.set('tokenizer/tokenizer_config.json', text(extras.tokenizer_config))
  files.set('README.md', text(modelCard(exported, run)))
  files.set('predict.py', text(predictScript(exported, extras.examples)))
  files.set('metrics.csv', text(metricsCsv(run)))
  const zip = writeZip(files, 6)
  await verify(zip, files, exported)
  return zip
}

/** The AdapterHub folder and the PEFT folder; empty where there is no such form. */
function folders(exported: AdapterBundle | SetupBundle): [FileMap, FileMap] {
  if (!('adapter' in exported)) return [toAdapterSetup(exported), new Map()]
  const { architecture } = exported.adapter
  if (architecture === 'bitfit' || architecture === 'full') return [new Map(), new Map()]
  return [toAdapterHub(exported), peftProblem(exported) === null ? toPeft(exported) : new Map()]
}

function labelMap(id2label: string[]): string {
  const byId = Object.fromEntries(id2label.map((label, id) => [id, label]))
  const byLabel = Object.fromEntries(id2label.map((label, id) => [label, id]))
  return JSON.stringify({ id2label: byId, label2id: byLabel }, null, 2)
}

/** The run without what belongs to this browser (id, size), and what the libraries' formats do not record. */
function runJson(exported: AdapterBundle | SetupBundle, run: RunRecord): string {
  const { id: _id, size: _size, created, ...rest } = run
  const { base, max_length, name } = exported
  const own =
    'adapter' in exported
      ? { head: exported.head }
      : { active: exported.active, active_heads: exported.active_heads }
  const json = {
    ...rest,
    adapter_name: name,
    created: new Date(created).toISOString(),
    base,
    ...own,
    max_length,
  }
  return JSON.stringify(json, null, 2)
}

/** What comes back when `exported` is read: without what the library's files leave out on purpose. */
function description(exported: AdapterBundle | SetupBundle): { facts: string; tensors: TensorMap } {
  if ('adapter' in exported) {
    const { tensors, adapter, hidden_size: _, ...facts } = exported
    return { facts: canonical({ ...facts, adapter: exportedConfig(adapter) }), tensors }
  }
  const { packed, tensors } = packSetup(exported)
  const { hidden_size: _, active, adapters, ...facts } = packed
  const configs = Object.entries(adapters).map(([name, { config }]) => [name, exportedConfig(config)])
  return {
    facts: canonical({ ...facts, active: plainSetup(active), adapters: Object.fromEntries(configs) }),
    tensors,
  }
}

async function verify(
  zip: Uint8Array<ArrayBuffer>,
  files: Map<string, Uint8Array>,
  exported: AdapterBundle | SetupBundle,
): Promise<void> {
  const fail = (what: string) =>
    new Error(`The export of “${exported.name}” was stopped: ${what} does not read back as written.`)
  const back = readZip(zip)
  if (back.size !== files.size) throw fail('the list of files')
  for (const [name, bytes] of files) if (!sameBytes(bytes, back.get(name))) throw fail(name)
  const written = description(exported)
  for (const format of ['bin', 'safetensors']) {
    const kept = [...back].filter(([name]) =>
      new RegExp(`^adapterhub/.*\\.(json|${format})$|^[^/]*\\.json$`).test(name),
    )
    if (!kept.some(([name]) => name.startsWith('adapterhub/'))) break
    const read = await readFiles(kept.map(([name, bytes]) => ({ name, bytes })))
    const found = description('bundle' in read ? read.bundle : read.setup)
    if (found.facts !== written.facts) throw fail('the configuration')
    if (!sameTensors(written.tensors, found.tensors)) throw fail(`the weights as .${format}`)
  }
  if ('adapter' in exported && files.has('peft/adapter_config.json')) await verifyPeft(back, exported, fail)
}

/** What is read from the PEFT folder must make that folder again, byte for byte. */
async function verifyPeft(
  back: Map<string, Uint8Array<ArrayBuffer>>,
  bundle: AdapterBundle,
  fail: (what: string) => Error,
): Promise<void> {
  const peft: FileMap = new Map()
  for (const [name, bytes] of back) if (name.startsWith('peft/')) peft.set(name.slice('peft/'.length), bytes)
  const options = { num_hidden_layers: sizesOf(bundle).num_hidden_layers }
  const labels = bundle.head ? bundle.id2label : null
  const again = (await fromPeft(peft, bundle.name, labels, options)).bundle
  const files = toPeft({ ...again, base: bundle.base })
  for (const [name, bytes] of peft) if (!sameBytes(bytes, files.get(name))) throw fail(`peft/${name}`)
}

function sameBytes(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && a.length === b.length && a.every((byte, i) => byte === b[i])
}

/** Same keys, shapes and bits. */
function sameTensors(a: TensorMap, b: TensorMap): boolean {
  return (
    a.size === b.size &&
    [...a].every(([key, tensor]) => {
      const other = b.get(key)
      return other !== undefined && sameTensor(tensor, other)
    })
  )
}

/** JSON with sorted keys at every depth, for comparing values. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
