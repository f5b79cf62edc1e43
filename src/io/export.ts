/**
 * The zip that a run is exported as: the adapter in the forms that Python loads, and all that is needed to use it there
 * (labels, tokenizer, base identity, length, a script with expected numbers). It is read back and compared bit for bit
 * before it is handed out, so an export is right or refused.
 */
import type { AdapterBundle, TensorMap } from '../config.ts'
import { toAdapterHub } from './adapterhub.ts'
import type { RunRecord } from './db.ts'
import { readAdapterFiles } from './import.ts'
import { metricsCsv, modelCard, predictScript } from './modelCard.ts'
import { fromPeft, toPeft } from './peft.ts'
import { readSafetensors } from './safetensors.ts'
import { readZip, writeZip } from './zip.ts'

/** What an export needs besides the adapter and its run. */
export interface ExportExtras {
  /** tokenizer.json and tokenizer_config.json of the base model, as text. */
  tokenizer: string
  tokenizer_config: string | null
  /** A few texts and the logits the page computes for them, which predict.py checks. */
  examples: { text: string; logits: number[] }[]
}

/** Throws when any file does not read back as it was written. */
export async function exportZip(
  bundle: AdapterBundle,
  run: RunRecord,
  extras: ExportExtras,
): Promise<Uint8Array<ArrayBuffer>> {
  const text = (content: string) => new TextEncoder().encode(content)
  const files = new Map<string, Uint8Array>()
  const peft = bundle.adapter.method === 'lora' ? toPeft(bundle) : new Map<string, Uint8Array>()
  for (const [name, bytes] of toAdapterHub(bundle)) files.set(`adapterhub/${name}`, bytes)
  for (const [name, bytes] of peft) files.set(`peft/${name}`, bytes)
  files.set('label_map.json', text(labelMap(bundle.id2label)))
  files.set('run.json', text(runJson(bundle, run)))
  files.set('tokenizer/tokenizer.json', text(extras.tokenizer))
  if (extras.tokenizer_config !== null)
    files.set('tokenizer/tokenizer_config.json', text(extras.tokenizer_config))
  files.set('README.md', text(modelCard(bundle, run)))
  files.set('predict.py', text(predictScript(bundle, extras.examples)))
  files.set('metrics.csv', text(metricsCsv(run)))
  const zip = writeZip(files, 6)
  await verify(zip, files, bundle)
  return zip
}

function labelMap(id2label: string[]): string {
  const byId = Object.fromEntries(id2label.map((label, id) => [id, label]))
  const byLabel = Object.fromEntries(id2label.map((label, id) => [label, id]))
  return JSON.stringify({ id2label: byId, label2id: byLabel }, null, 2)
}

/** The run without what belongs to this browser (id, size), and what the libraries' formats do not record. */
function runJson({ base, head, max_length, name }: AdapterBundle, run: RunRecord): string {
  const { id: _id, size: _size, created, ...rest } = run
  const json = {
    ...rest,
    adapter_name: name,
    created: new Date(created).toISOString(),
    base,
    head,
    max_length,
  }
  return JSON.stringify(json, null, 2)
}

async function verify(
  zip: Uint8Array<ArrayBuffer>,
  files: Map<string, Uint8Array>,
  bundle: AdapterBundle,
): Promise<void> {
  const fail = (what: string) =>
    new Error(`The export of “${bundle.name}” was stopped: ${what} does not read back as written.`)
  const back = readZip(zip)
  if (back.size !== files.size) throw fail('the list of files')
  for (const [name, bytes] of files) if (!sameBytes(bytes, back.get(name))) throw fail(name)
  const { bundle: again } = await readAdapterFiles([{ name: 'export.zip', bytes: zip }])
  const { tensors: _a, ...description } = bundle
  const { tensors: _b, ...found } = again
  if (canonical(description) !== canonical(found)) throw fail('the configuration')
  if (!sameTensors(bundle.tensors, again.tensors)) throw fail('pytorch_adapter.bin')
  const parts = (name: string) => readSafetensors(back.get(`adapterhub/${name}`)!)
  const adapter = bundle.adapter.method === 'head' ? new Map() : await parts('adapter.safetensors')
  if (!sameTensors(bundle.tensors, new Map([...adapter, ...(await parts('model_head.safetensors'))])))
    throw fail('adapter.safetensors')
  const peft = new Map(
    [...back].flatMap(([name, bytes]) => (name.startsWith('peft/') ? [[name.slice(5), bytes]] : [])) as [
      string,
      Uint8Array<ArrayBuffer>,
    ][],
  )
  if (peft.size === 0) return
  const lora = (await fromPeft(peft, bundle.name, bundle.id2label)).bundle
  if (!sameTensors(bundle.tensors, lora.tensors)) throw fail('the PEFT folder')
}

function sameBytes(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && a.length === b.length && a.every((byte, i) => byte === b[i])
}

/** Same keys, shapes and bits. */
function sameTensors(a: TensorMap, b: TensorMap): boolean {
  const bits = ({ data }: { data: Float32Array }) =>
    new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  return (
    a.size === b.size &&
    [...a].every(([key, tensor]) => {
      const other = b.get(key)
      return (
        other !== undefined &&
        other.shape.join() === tensor.shape.join() &&
        sameBytes(bits(tensor), bits(other))
      )
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
