/**
 * Streams a checkpoint's tensors to the device one by one, whatever dialect the file speaks: with or without the
 * `roberta.` prefix, `gamma`/`beta` for `weight`/`bias`, with or without pooler, LM head and position buffer.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../config.ts'
import { uploadTensorInChunks } from '../kernels/backend.ts'
import { packs, toHalf, unpacksExactly } from '../kernels/half.ts'
import { onGpu } from '../kernels/program.ts'
import { uploadTogether } from '../kernels/views.ts'
import type { Matrix } from './ops.ts'
import { assemble, type Roberta } from './roberta.ts'
import { constant, type Var } from './tape.ts'

/** A file of tensors that are read on demand, as float32. */
export interface WeightSource {
  names(): string[]
  shape(name: string): number[]
  /** The dtype in the file, such as `F16`; absent where values come from no file. */
  dtype?(name: string): string
  read(name: string): Promise<Float32Array>
  /** The same values in order, a bounded number at a time. */
  readChunks(name: string, maxElements: number): AsyncIterable<Float32Array>
}

/** The model, and what its file lacked or had besides and how it lies on a GPU, in sentences for the page. */
export interface LoadedRoberta {
  roberta: Roberta
  /** Some weights are no longer what the file says: they were rounded to half precision. */
  rounded: boolean
  notes: string[]
}

/** Elements held on the host at a time while the largest table streams to the device. */
const chunkElements = 4 << 20

/**
 * How matrices of the base lie on a GPU. `auto`, as `dtype` of `from_pretrained`: those that the file holds in half
 * precision stay so, which loses nothing, and the others are float32. `float32`, `float16`: all of them, so that in
 * `float16` what the file says better is rounded to about three digits.
 */
export type Precision = 'auto' | 'float32' | 'float16'

/** Which matrices of a file lie in half precision. */
interface Halves {
  asked: Precision
  /** The dtype in the file is F16. */
  stored: (name: string) => boolean
  /** What the device unpacks is what was packed. */
  exact: boolean
}

/**
 * Loads the weights that `config` calls for. Throws when one is missing or has another shape; the tensors already
 * uploaded are freed first. `maxBytes` is the largest tensor that one shader may see (null: no limit). In half precision
 * can lie the word table and the matrices of all layers, where their width is even; sums stay in float32.
 */
export async function loadRoberta(
  config: RobertaConfig,
  source: WeightSource,
  maxBytes: number | null,
  precision: Precision = 'float32',
): Promise<LoadedRoberta> {
  const files = canonicalNames(source.names())
  const wanted = wantedShapes(config, source, files)
  const loaded: tf.Tensor[] = []
  const halves = await halvesOf(source, precision)
  const packed: string[] = []
  try {
    const table = files.get('embeddings.word_embeddings.weight')!
    const packs = isPacked(halves, [table], config.hidden_size)
    if (packs) packed.push(table)
    const words = await loadTable(config, source, table, { maxBytes, packs }, loaded)
    wanted.delete('embeddings.word_embeddings.weight')
    const vars = new Map<string, Var>()
    const put = (key: string, tensor: tf.Tensor, shape: number[]) => {
      loaded.push(tensor)
      vars.set(`roberta.${key}`, constant(tensor, shape))
    }
    for (const [key, shape] of wanted) {
      const sides = sideBySide(key) ?? [key]
      if (sides[0] !== key) continue
      const names = sides.map((side) => files.get(side)!)
      // What one kernel multiplies lies in one precision.
      const packs = isMatrix(key, shape) && isPacked(halves, names, shape[1]!)
      if (packs) packed.push(...names)
      const parts: { data: Float32Array | Int32Array; shape: number[] }[] = []
      for (const name of names) {
        const values = await source.read(name)
        parts.push(packs ? halved(values, shape) : { data: values, shape })
      }
      uploadTogether(parts).forEach((tensor, i) => put(sides[i]!, tensor, shape))
    }
    const tree = assemble(
      config,
      words,
      (key) => vars.has(key),
      (key) => vars.get(key)!,
    )
    const used = new Set(['embeddings.word_embeddings.weight', ...wanted.keys()])
    const rounded = packed.some((name) => !halves?.stored(name))
    const notes = [...describe(files, used), ...halvesInWords(source, precision, halves, packed)]
    return { roberta: { config, vars, ...tree }, rounded, notes }
  } catch (error) {
    tf.dispose(loaded)
    throw error
  }
}

/** What of the file is loaded, by canonical key. Throws where something is missing or has another shape. */
function wantedShapes(
  config: RobertaConfig,
  source: WeightSource,
  files: Map<string, string>,
): Map<string, number[]> {
  const wanted = new Map(baseShapes(config))
  const missing = [...wanted.keys()].filter((key) => !files.has(key))
  if (missing.length > 0)
    throw new Error(
      `The weights lack ${missing.length} tensors that config.json calls for: ${some(missing)}.`,
    )
  for (const [key, shape] of wanted) {
    const found = source.shape(files.get(key)!)
    if (found.join() !== shape.join())
      throw new Error(`The tensor ${key} is [${found}], but config.json calls for [${shape}].`)
  }
  for (const [key, shape] of poolerShapes(config))
    if (files.has(key) && source.shape(files.get(key)!).join() === shape.join()) wanted.set(key, shape)
  return wanted
}

/** null: nothing is packed, because of the device or because it is not wanted. */
async function halvesOf(source: WeightSource, asked: Precision): Promise<Halves | null> {
  if (asked === 'float32' || !onGpu() || !packs()) return null
  const stored = (name: string) => source.dtype?.(name) === 'F16'
  const exact = asked === 'float16' || (source.names().some(stored) && (await unpacksExactly()))
  return { asked, stored, exact }
}

/** Whether matrices that lie together, all `width` wide, are packed in pairs. */
function isPacked(halves: Halves | null, names: string[], width: number): boolean {
  if (!halves || width % 2 !== 0) return false
  return halves.asked === 'float16' || (halves.exact && names.every(halves.stored))
}

/** Whether a tensor is a matrix of a layer. */
function isMatrix(key: string, shape: number[]): boolean {
  return key.startsWith('encoder.') && shape.length === 2
}

/** How the matrices lie, where that is not simply float32. */
function halvesInWords(
  source: WeightSource,
  asked: Precision,
  halves: Halves | null,
  packed: string[],
): string[] {
  if (asked === 'float16' && !halves) return ['Half precision is for GPUs; here every weight is float32.']
  if (!halves) return []
  if (packed.some((name) => !halves.stored(name)))
    return ['Its matrices lie on the GPU in half precision: about three digits of each weight.']
  if (packed.length > 0)
    return ['Its matrices lie on the GPU in half precision, as in the file: nothing is rounded.']
  return source.names().some(halves.stored) && !halves.exact
    ? ['This GPU reads small numbers in half precision as zero, so every weight is float32.']
    : []
}

function halved(values: Float32Array, [rows, width]: number[]): { data: Int32Array; shape: number[] } {
  return { data: toHalf(values), shape: [rows!, width! / 2] }
}

/** The keys of a layer's three projections, weights or biases, to any of which one kernel goes; null for other keys. */
function sideBySide(key: string): string[] | null {
  const site = /\.attention\.self\.(?:query|key|value)\./.exec(key)?.[0]
  if (!site) return null
  return ['query', 'key', 'value'].map((name) => key.replace(site, `.attention.self.${name}.`))
}

function poolerShapes({ hidden_size: H }: RobertaConfig): [string, number[]][] {
  return [
    ['pooler.dense.weight', [H, H]],
    ['pooler.dense.bias', [H]],
  ]
}

/** Key and shape of every tensor of `RobertaModel` without its pooler; keys have no `roberta.` prefix. */
export function baseShapes(config: RobertaConfig): [string, number[]][] {
  const { hidden_size: H, intermediate_size: I } = config
  const norm = (path: string): [string, number[]][] => [
    [`${path}.weight`, [H]],
    [`${path}.bias`, [H]],
  ]
  const linear = (path: string, out: number, inputs: number): [string, number[]][] => [
    [`${path}.weight`, [out, inputs]],
    [`${path}.bias`, [out]],
  ]
  const shapes: [string, number[]][] = [
    ['embeddings.word_embeddings.weight', [config.vocab_size, H]],
    ['embeddings.position_embeddings.weight', [config.max_position_embeddings, H]],
    ['embeddings.token_type_embeddings.weight', [config.type_vocab_size, H]],
    ...norm('embeddings.LayerNorm'),
  ]
  for (let l = 0; l < config.num_hidden_layers; l++) {
    const path = `encoder.layer.${l}`
    for (const name of ['query', 'key', 'value'])
      shapes.push(...linear(`${path}.attention.self.${name}`, H, H))
    shapes.push(
      ...linear(`${path}.attention.output.dense`, H, H),
      ...norm(`${path}.attention.output.LayerNorm`),
    )
    shapes.push(...linear(`${path}.intermediate.dense`, I, H))
    shapes.push(...linear(`${path}.output.dense`, H, I), ...norm(`${path}.output.LayerNorm`))
  }
  return shapes
}

/** Canonical key -> name in the file. */
function canonicalNames(names: string[]): Map<string, string> {
  const canonical = new Map<string, string>()
  for (const name of names) {
    const key = name
      .replace(/^roberta\./, '')
      .replace(/LayerNorm\.gamma$/, 'LayerNorm.weight')
      .replace(/LayerNorm\.beta$/, 'LayerNorm.bias')
    const other = canonical.get(key)
    if (other !== undefined)
      throw new Error(`The weights hold the tensor ${key} twice, as ${other} and as ${name}.`)
    canonical.set(key, name)
  }
  return canonical
}

/** The word table [V,H] in row blocks of at most `maxBytes`, streamed so that the host never holds it whole. */
async function loadTable(
  config: RobertaConfig,
  source: WeightSource,
  name: string,
  { maxBytes, packs }: { maxBytes: number | null; packs: boolean },
  loaded: tf.Tensor[],
): Promise<Matrix[]> {
  const { vocab_size: V, hidden_size: H } = config
  const width = packs ? H / 2 : H
  const rows = Math.min(V, maxBytes === null ? V : Math.floor(maxBytes / (4 * width)))
  const blocks: Matrix[] = []
  const chunks = source.readChunks(name, Math.min(chunkElements, rows * H))[Symbol.asyncIterator]()
  let rest = new Float32Array(0)
  for (let start = 0; start < V; start += rows) {
    const count = Math.min(rows, V - start)
    const part = async function* (): AsyncGenerator<Float32Array | Int32Array> {
      let needed = count * H
      while (needed > 0) {
        if (rest.length === 0) rest = new Float32Array((await chunks.next()).value as Float32Array)
        const piece = rest.subarray(0, needed)
        rest = rest.subarray(piece.length)
        needed -= piece.length
        yield packs ? toHalf(piece) : piece
      }
    }
    const dtype = packs ? 'int32' : 'float32'
    const block = (await uploadTensorInChunks([count, width], part(), dtype)) as tf.Tensor2D
    loaded.push(block)
    blocks.push(constant(block, [count, H]))
  }
  return blocks
}

/** What the file holds that we do not use, in plain words. */
function describe(files: Map<string, string>, wanted: Set<string>): string[] {
  const extra = [...files.keys()].filter((key) => !wanted.has(key))
  const groups: [RegExp, string][] = [
    [/^pooler\./, 'a pooler of another shape, which cannot be used'],
    [/^lm_head\./, 'a masked-language-model head, which only masked-word tasks and prompts use'],
    [/^embeddings\.position_ids$/, 'a position buffer of older versions, which is not needed'],
    [/^classifier\./, 'a classification head of its own; a fresh one is trained instead'],
  ]
  const notes: string[] = []
  for (const [pattern, words] of groups)
    if (extra.some((key) => pattern.test(key))) notes.push(`The file holds ${words}.`)
  const unknown = extra.filter((key) => !groups.some(([pattern]) => pattern.test(key)))
  if (unknown.length > 0) notes.push(`${unknown.length} unexpected tensors were ignored: ${some(unknown)}.`)
  return notes
}

function some(names: string[]): string {
  return names.slice(0, 3).join(', ') + (names.length > 3 ? ' and others' : '')
}
