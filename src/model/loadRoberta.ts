/**
 * Streams a checkpoint's tensors to the device one by one, whatever dialect the file speaks: with or without the
 * `roberta.` prefix, `gamma`/`beta` for `weight`/`bias`, with or without pooler, LM head and position buffer.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../config.ts'
import { uploadTensor, uploadTensorInChunks } from '../kernels/backend.ts'
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

/**
 * Loads the weights that `config` calls for. Throws when one is missing or has another shape; the tensors already
 * uploaded are freed first. `maxBytes` is the largest tensor that one shader may see (null: no limit).
 */
export async function loadRoberta(
  config: RobertaConfig,
  source: WeightSource,
  maxBytes: number | null,
): Promise<LoadedRoberta> {
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
    const words = await loadTable(config, source, table, maxBytes, loaded)
    wanted.delete('embeddings.word_embeddings.weight')
    const vars = new Map<string, Var>()
    for (const [key, shape] of wanted) {
      const tensor = uploadTensor(await source.read(files.get(key)!), shape)
      loaded.push(tensor)
      vars.set(`roberta.${key}`, constant(tensor))
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
  maxBytes: number | null,
  loaded: tf.Tensor[],
): Promise<Matrix[]> {
  const { vocab_size: V, hidden_size: H } = config
  const rows = Math.min(V, maxBytes === null ? V : Math.floor(maxBytes / (4 * H)))
  const blocks: Matrix[] = []
  const chunks = source.readChunks(name, Math.min(chunkElements, rows * H))[Symbol.asyncIterator]()
  let rest = new Float32Array(0)
  for (let start = 0; start < V; start += rows) {
    const count = Math.min(rows, V - start)
    const part = async function* (): AsyncGenerator<Float32Array> {
      let needed = count * H
      while (needed > 0) {
        if (rest.length === 0) rest = new Float32Array((await chunks.next()).value as Float32Array)
        const piece = rest.subarray(0, needed)
        rest = rest.subarray(piece.length)
        needed -= piece.length
        yield piece
      }
    }
    const block = (await uploadTensorInChunks([count, H], part())) as tf.Tensor2D
    loaded.push(block)
    blocks.push(constant(block))
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
