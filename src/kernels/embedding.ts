/**
 * torch.nn.Embedding's forward over a table that may come in several blocks of rows, since RoBERTa's word embeddings
 * (154 MB) exceed the 128 MiB that WebGPU guarantees for one binding.
 */
import * as tf from '@tensorflow/tfjs-core'
import { onGpu, runElements, type Kernel } from './program.ts'

/**
 * blocks: consecutive rows of one table, every block but the last of equal height; ids int32 [N] -> [N,H].
 * Ids must be in range: check them with `assertIds` before upload, because a GPU does not refuse them.
 */
export function embedding(blocks: tf.Tensor2D[], ids: tf.Tensor1D): tf.Tensor2D {
  const [first, ...rest] = blocks
  if (!first) throw new Error('embedding got a table of no blocks.')
  if (onGpu()) return gatherBlocks(first, rest, ids)
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

/** Throws unless every id is a row of a table of `rows` rows; `table` names it in the message. */
export function assertIds(ids: Int32Array, rows: number, table = 'embedding'): void {
  const bad = ids.findIndex((id) => id < 0 || id >= rows)
  if (bad < 0) return
  const place = `Id ${ids[bad]} at position ${bad} is outside the ${table} table of ${rows} rows`
  throw new Error(`${place}; check that the tokenizer belongs to this model.`)
}

/** One dispatch per block into one result; each writes the rows whose ids it holds. */
function gatherBlocks(first: tf.Tensor2D, rest: tf.Tensor2D[], ids: tf.Tensor1D): tf.Tensor2D {
  const [height, H] = first.shape
  const shape = [ids.size, H]
  const gather = (block: tf.Tensor2D, i: number, output?: tf.Tensor2D) => {
    const uniforms = { size: ids.size * H, H, start: i * height, height: block.shape[0] }
    return runElements<tf.Tensor2D>(kernel, [block, ids], uniforms, shape, ids.size * H, output)
  }
  const result = gather(first, 0)
  rest.forEach((block, i) => gather(block, i + 1, result))
  return result
}

const kernel: Kernel = {
  name: 'embedding',
  inputs: ['block', 'ids'],
  uniforms: { size: 'int32', H: 'int32', start: 'int32', height: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let row = ids[index / uniforms.H] - uniforms.start;
  if (row < 0 || row >= uniforms.height) { return; }
  result[index] = block[row * uniforms.H + index % uniforms.H];
}`,
}
