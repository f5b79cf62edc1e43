/**
 * The tensors that an adapter configuration calls for, by the `adapters` library's names. The library never complains
 * about a missing or misspelt key, it leaves random weights there; so every file is compared with this list, on the way
 * out and on the way in.
 */
import type { AdapterBundle, AdapterConfig, BaseIdentity, HeadConfig, LoRAConfig } from '../config.ts'

export interface ModelSizes {
  hidden_size: number
  num_hidden_layers: number
  /** null where no tensor of the adapter depends on it. */
  intermediate_size: number | null
}

/** Linear layers of one encoder layer that a LoRA configuration wraps, by path. */
export function loraPaths(adapter: LoRAConfig): string[] {
  const matrices = { q: 'query', k: 'key', v: 'value' }
  const paths: string[] = []
  for (const matrix of ['q', 'k', 'v'] as const)
    if (adapter.selfattn_lora && adapter.attn_matrices.includes(matrix))
      paths.push(`attention.self.${matrices[matrix]}`)
  if (adapter.intermediate_lora) paths.push('intermediate.dense')
  if (adapter.output_lora) paths.push('output.dense')
  return paths
}

/** Key and shape of every tensor of the adapter and its head, in the library's order. */
export function expectedShapes(
  adapter: AdapterConfig,
  head: HeadConfig,
  name: string,
  sizes: ModelSizes,
): Map<string, number[]> {
  const { hidden_size: H, num_hidden_layers: L, intermediate_size: I } = sizes
  const shapes = new Map<string, number[]>()
  for (let l = 0; l < L; l++) {
    if (adapter.method === 'head' || adapter.leave_out.includes(l)) continue
    const layer = `roberta.encoder.layer.${l}`
    if (adapter.method === 'seq_bn') {
      const R = Math.max(Math.floor(H / adapter.reduction_factor), 1)
      const path = `${layer}.output.adapters.${name}`
      shapes.set(`${path}.adapter_down.0.weight`, [R, H]).set(`${path}.adapter_down.0.bias`, [R])
      shapes.set(`${path}.adapter_up.weight`, [H, R]).set(`${path}.adapter_up.bias`, [H])
    } else {
      for (const path of loraPaths(adapter)) {
        const inputs = path === 'output.dense' ? (I ?? 0) : H
        const outputs = path === 'intermediate.dense' ? (I ?? 0) : H
        shapes.set(`${layer}.${path}.loras.${name}.lora_A`, [adapter.r, inputs])
        shapes.set(`${layer}.${path}.loras.${name}.lora_B`, [outputs, adapter.r])
      }
    }
  }
  const C = head.num_labels
  shapes.set(`heads.${name}.1.weight`, [H, H]).set(`heads.${name}.1.bias`, [H])
  return shapes.set(`heads.${name}.4.weight`, [C, H]).set(`heads.${name}.4.bias`, [C])
}

/** Throws one sentence that names what is missing, unexpected or misshapen. */
export function compareShapes(
  expected: Map<string, number[]>,
  found: Map<string, number[]>,
  what: string,
): void {
  const missing = [...expected.keys()].filter((key) => !found.has(key))
  const extra = [...found.keys()].filter((key) => !expected.has(key))
  const misshapen = [...expected].filter(
    ([key, shape]) => found.has(key) && found.get(key)!.join() !== shape.join(),
  )
  const faults: string[] = []
  if (missing.length > 0) faults.push(`${some(missing)} missing`)
  if (extra.length > 0) faults.push(`${some(extra)} not expected`)
  if (misshapen.length > 0) {
    const [key, shape] = misshapen[0]!
    const others = misshapen.length > 1 ? ` (and ${misshapen.length - 1} more misshapen)` : ''
    faults.push(`${key} is [${found.get(key)}] instead of [${shape}]${others}`)
  }
  if (faults.length > 0) throw new Error(`${what} does not fit its configuration: ${faults.join('; ')}.`)
}

/** Model sizes as the bundle's base names them, or else as its tensors show them. */
export function sizesOf({ name, adapter, base, tensors }: AdapterBundle): ModelSizes {
  const head = tensors.get(`heads.${name}.1.weight`)
  const leave_out = adapter.method === 'head' ? [] : adapter.leave_out
  let layers = Math.max(0, ...leave_out.map((l) => l + 1))
  let intermediate_size: number | null = null
  for (const [key, { shape }] of tensors) {
    const [, layer, site, matrix] = /encoder\.layer\.(\d+)\.(.*)\.(\w+)$/.exec(key) ?? []
    if (layer === undefined || site === undefined) continue
    layers = Math.max(layers, Number(layer) + 1)
    if (site.startsWith('intermediate.dense.loras.') && matrix === 'lora_B')
      intermediate_size ??= shape[0] ?? null
    if (site.startsWith('output.dense.loras.') && matrix === 'lora_A') intermediate_size ??= shape[1] ?? null
  }
  return {
    hidden_size: base?.hidden_size ?? head?.shape[1] ?? 0,
    num_hidden_layers: base?.num_hidden_layers ?? layers,
    intermediate_size,
  }
}

/** Throws unless the bundle's tensors, labels and name are exactly what its configuration calls for. */
export function checkBundle(bundle: AdapterBundle): void {
  const { name, adapter, head, id2label, tensors } = bundle
  if (adapterName(name) !== name)
    throw new Error(`An adapter cannot be named ${JSON.stringify(name)}: use letters, digits, - and _ only.`)
  if (id2label.length !== head.num_labels || new Set(id2label).size !== id2label.length)
    throw new Error(`The head has ${head.num_labels} classes, but the labels are ${id2label.join(', ')}.`)
  const found = new Map([...tensors].map(([key, { shape }]) => [key, shape]))
  compareShapes(expectedShapes(adapter, head, name, sizesOf(bundle)), found, `The adapter “${name}”`)
}

/** Throws when the adapter was made for another model than the one that is open. */
export function checkBase(bundle: AdapterBundle, open: BaseIdentity & { intermediate_size: number }): void {
  const { base } = bundle
  const sizes = sizesOf(bundle)
  const numbers: [string, number | null, number][] = [
    ['hidden size', sizes.hidden_size, open.hidden_size],
    ['intermediate size', sizes.intermediate_size, open.intermediate_size],
    ['number of layers', base === null ? null : sizes.num_hidden_layers, open.num_hidden_layers],
  ]
  const origin = base === null ? 'another model' : `“${base.name}”`
  for (const [what, theirs, ours] of numbers)
    if (theirs !== null && theirs !== ours)
      throw new Error(
        `The adapter “${bundle.name}” is for ${origin}: its ${what} is ${theirs} and the open model “${open.name}” has ${ours}; open the right model first.`,
      )
  if (base !== null && base.sha256 !== open.sha256)
    throw new Error(
      `The adapter “${bundle.name}” was trained on ${origin} with other weights than the open model “${open.name}” (SHA-256 ${base.sha256.slice(0, 12)}… and ${open.sha256.slice(0, 12)}…); open the right model first.`,
    )
  if (sizes.num_hidden_layers > open.num_hidden_layers)
    throw new Error(
      `The adapter “${bundle.name}” has ${sizes.num_hidden_layers} layers and the open model only ${open.num_hidden_layers}.`,
    )
  const found = new Map([...bundle.tensors].map(([key, { shape }]) => [key, shape]))
  const expected = expectedShapes(bundle.adapter, bundle.head, bundle.name, {
    ...sizes,
    num_hidden_layers: open.num_hidden_layers,
  })
  compareShapes(expected, found, `The adapter “${bundle.name}”`)
}

/**
 * A name that can stand in a checkpoint key, a file name and Python: letters, digits, `-` and `_`. The library forbids
 * dots, reads commas as fusions, and spaces and slashes trouble file systems.
 */
export function adapterName(text: string): string {
  const plain = text.normalize('NFKD').replace(/\p{M}/gu, '')
  const name = plain.replace(/[^A-Za-z0-9_-]+/g, '-').replace(/^-+|-+$/g, '')
  return name.slice(0, 64) || 'adapter'
}

function some(keys: string[]): string {
  const first = keys.slice(0, 3).join(', ')
  return keys.length > 3
    ? `${first} and ${keys.length - 3} more are`
    : `${first} ${keys.length > 1 ? 'are' : 'is'}`
}
