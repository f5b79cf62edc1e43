/**
 * Streams a checkpoint's tensors to the device one by one, whatever dialect the file speaks: with or without the
 * `roberta.` prefix, `gamma`/`beta` for `weight`/`bias`, with or without pooler, LM head and position buffer.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../config.ts'
import { uploadTensorInChunks } from '../kernels/backend.ts'
import { toHalf } from '../kernels/half.ts'
import { onGpu } from '../kernels/program.ts'
import { uploadTogether } from '../kernels/views.ts'
import type { Matrix } from './ops.ts'
import { assemble, type Roberta } from './roberta.ts'
import { constant, type Var } from './tape.ts'

/** A file of tensors that are read on demand, as float32. */
export interface WeightSource {
  names(): string[]
  shape(name: string): number[]
  read(name: string): Promise<Float32Array>
  /** The same values in order, a bounded number at a time. */
  readChunks(name: string, maxElements: number): AsyncIterable<Float32Array>
}

/** The model, and what its file lacked or had besides, in sentences for the page. */
export interface LoadedRoberta {
  roberta: Roberta
  notes: string[]
}

/** Elements held on the host at a time while the largest table streams to the device. */
const chunkElements = 4 << 20

/** How matrices of the base lie on a GPU: as in the file, or in half the memory with about three digits. */
export type Precision = 'float32' | 'float16'

/**
 * Loads the weights that `config` calls for. Throws when one is missing or has another shape; the tensors already
 * uploaded are freed first. `maxBytes` is the largest tensor that one shader may see (null: no limit). In `float16` the
 * word table and the matrices of all layers are held in half precision where their width is even; sums stay in float32.
 */
export async function loadRoberta(
  config: RobertaConfig,
  source: WeightSource,
  maxBytes: number | null,
  precision: Precision = 'float32',
): Promise<LoadedRoberta> {
  const halves = precision === 'float16' && onGpu()
  const files = canonicalNames(source.names())
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
  const loaded: tf.Tensor[] = []
  try {
    const table = files.get('embeddings.word_embeddings.weight')!
    const words = await loadTable(config, source, table, { maxBytes, halves }, loaded)
    wanted.delete('embeddings.word_embeddings.weight')
    const vars = new Map<string, Var>()
    const put = (key: string, tensor: tf.Tensor, shape: number[]) => {
      loaded.push(tensor)
      vars.set(`roberta.${key}`, constant(tensor, shape))
    }
    const read = async (key: string, shape: number[]) => {
      const values = await source.read(files.get(key)!)
      return halves && isHalved(key, shape) ? halved(values, shape) : { data: values, shape }
    }
    for (const [key, shape] of wanted) {
      const sides = sideBySide(key)
      if (sides !== null && sides[0] !== key) continue
      const parts: { data: Float32Array | Int32Array; shape: number[] }[] = []
      for (const side of sides ?? [key]) parts.push(await read(side, shape))
      uploadTogether(parts).forEach((tensor, i) => put((sides ?? [key])[i]!, tensor, shape))
    }
    const tree = assemble(
      config,
      words,
      (key) => vars.has(key),
      (key) => vars.get(key)!,
    )
    const used = new Set(['embeddings.word_embeddings.weight', ...wanted.keys()])
    return { roberta: { config, vars, ...tree }, notes: describe(files, used) }
  } catch (error) {
    tf.dispose(loaded)
    throw error
  }
}

/** Whether a tensor is a matrix of a layer that can be packed in pairs. */
function isHalved(key: string, shape: number[]): boolean {
  return key.startsWith('encoder.') && shape.length === 2 && shape[1]! % 2 === 0
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
  { maxBytes, halves: wanted }: { maxBytes: number | null; halves: boolean },
  loaded: tf.Tensor[],
): Promise<Matrix[]> {
  const { vocab_size: V, hidden_size: H } = config
  const halves = wanted && H % 2 === 0
  const width = halves ? H / 2 : H
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
        yield halves ? toHalf(piece) : piece
      }
    }
    const dtype = halves ? 'int32' : 'float32'
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
