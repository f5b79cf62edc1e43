/**
 * torch.nn.Embedding's forward over a table that may come in several blocks of rows, since RoBERTa's word embeddings
 * (154 MB) exceed the 128 MiB that WebGPU guarantees for one binding; and RoBERTa's whole embedding, LayerNorm and all,
 * in one dispatch, for a walk that trains none of it. A block in half precision is int32, two halves a word.
 */
import * as tf from '@tensorflow/tfjs-core'
import { halfToFloat } from './half.ts'
import { layerNorm, moments } from './layerNorm.ts'
import { runElements, runsOwn, type Kernel } from './program.ts'
import { runRows, type RowKernel } from './rows.ts'

/**
 * blocks: consecutive rows of one table, every block but the last of equal height; ids int32 [N] -> [N,H].
 * Ids must be in range: check them with `assertIds` before upload, because a GPU does not refuse them.
 */
export function embedding(blocks: tf.Tensor2D[], ids: tf.Tensor1D): tf.Tensor2D {
  const [first, ...rest] = blocks
  if (!first) throw new Error('embedding got a table of no blocks.')
  if (runsOwn('embedding')) return gatherBlocks(first, rest, ids)
  if (first.dtype === 'int32') return tf.tidy(() => embedding(blocks.map(halfToFloat<tf.Tensor2D>), ids))
  if (rest.length === 0) return tf.gather(first, ids)
  return tf.tidy(() => {
    const parts = blocks.map((block, i) => {
      const local = tf.sub<tf.Tensor1D>(ids, tf.scalar(i * first.shape[0], 'int32'))
      // Not clipByValue: on wasm it takes int32 for float32.
      const last = tf.scalar(block.shape[0] - 1, 'int32')
      const nearest = tf.minimum<tf.Tensor1D>(tf.maximum(local, tf.scalar(0, 'int32')), last)
      const inside = tf.cast(tf.expandDims(tf.equal(nearest, local), 1), 'float32')
      return tf.mul<tf.Tensor2D>(tf.gather(block, nearest), inside)
    })
    return parts.reduce((total, part) => tf.add(total, part))
  })
}

/** What `embeddingNorm` adds to the words and how it normalises the sum. */
export interface AroundWords {
  positions: tf.Tensor2D // [P,H]
  position_ids: tf.Tensor1D // int32 [N]
  /** Its first row is added everywhere. */
  types: tf.Tensor2D // [T,H]
  norm: { weight: tf.Tensor1D; bias: tf.Tensor1D; eps: number }
}

/**
 * LayerNorm(word + type + position): blocks and ids as in `embedding` -> [N,H]. One dispatch, or one more than there are
 * blocks when there are several. Position ids must be in range too.
 */
export function embeddingNorm(
  blocks: tf.Tensor2D[],
  ids: tf.Tensor1D,
  { positions, position_ids, types, norm }: AroundWords,
): tf.Tensor2D {
  const { weight, bias, eps } = norm
  const H = positions.shape[1]
  return tf.tidy(() => {
    if (!runsOwn('embedding')) {
      const words = tf.add<tf.Tensor2D>(embedding(blocks, ids), tf.slice(types, [0, 0], [1, H]))
      return layerNorm(tf.add(words, embedding([positions], position_ids)), weight, bias, eps)
    }
    const around = [positions, position_ids, types, weight, bias]
    const sizes = { rows: ids.size, width: H }
    const run = (kernel: RowKernel, words: tf.Tensor[]) =>
      runRows<tf.Tensor2D>(kernel, [...words, ...around], { eps }, [ids.size, H], sizes)
    const [block] = blocks
    if (block && blocks.length === 1)
      return run(normKernel(block.dtype === 'int32' ? 'half' : 'own'), [block, ids])
    return run(normKernel('gathered'), [embedding(blocks, ids)])
  })
}

/** Throws unless every id is a row of a table of `rows` rows; `table` names it in the message. */
export function assertIds(ids: Int32Array, rows: number, table = 'embedding'): void {
  const bad = ids.findIndex((id) => id < 0 || id >= rows)
  if (bad < 0) return
  const place = `Id ${ids[bad]} at position ${bad} is outside the ${table} table of ${rows} rows`
  throw new Error(`${place}; check that the tokenizer belongs to this model.`)
}

/** One dispatch per block into one result; each writes the rows whose ids it holds. */
function gatherBlocks(first: tf.Tensor2D, rest: tf.Tensor2D[], ids: tf.Tensor1D): tf.Tensor2D {
  const height = first.shape[0]
  const half = first.dtype === 'int32'
  const H = half ? first.shape[1] * 2 : first.shape[1]
  const shape = [ids.size, H]
  const gather = (block: tf.Tensor2D, i: number, output?: tf.Tensor2D) => {
    const uniforms = { size: ids.size * H, H, start: i * height, height: block.shape[0] }
    return runElements<tf.Tensor2D>(gatherKernel(half), [block, ids], uniforms, shape, ids.size * H, output)
  }
  const result = gather(first, 0)
  rest.forEach((block, i) => gather(block, i + 1, result))
  return result
}

/** WGSL for element `at` of a table, which may hold two halves a word. */
const entry = (table: string, at: string, half: boolean) =>
  half ? `unpack2x16float(bitcast<u32>(${table}[(${at}) / 2]))[(${at}) % 2]` : `${table}[${at}]`

const gatherKernel = (half: boolean): Kernel => ({
  name: `embedding${half ? ', half precision' : ''}`,
  inputs: ['block', 'ids'],
  uniforms: { size: 'int32', H: 'int32', start: 'int32', height: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let row = ids[index / uniforms.H] - uniforms.start;
  if (row < 0 || row >= uniforms.height) { return; }
  let at = row * uniforms.H + index % uniforms.H;
  result[index] = ${entry('block', 'at', half)};
}`,
})

/** The words of a row come out of the table, in its own or half precision, or were gathered before. */
const normKernel = (words: 'own' | 'half' | 'gathered'): RowKernel => ({
  family: 'embedding',
  name: `embeddingNorm, words ${words}`,
  inputs: [...(words === 'gathered' ? ['words'] : ['words', 'ids']), ...aroundInputs],
  uniforms: { eps: 'float32' },
  code: `
  let wordStart = ${words === 'gathered' ? 'start' : 'ids[row] * width'};
  let positionStart = position_ids[row] * width;
  ${moments(sumOfThree(words === 'half'))}
  if (live) {
    for (var h = lane; h < width; h += LANES) {
      let x = ${sumOfThree(words === 'half')};
      result[start + h] = (x - mean) * rstd * weight[h] + bias[h];
    }
  }`,
})

const aroundInputs = ['positions', 'position_ids', 'types', 'weight', 'bias']

const sumOfThree = (half: boolean) =>
  `(${entry('words', 'wordStart + h', half)} + types[h] + positions[positionStart + h])`
