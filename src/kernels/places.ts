/** Position ids and attention mask of a batch whose texts are runs of tokens in padding, made on the device. */
import * as tf from '@tensorflow/tfjs-core'
import { webgpuBackend } from './backend.ts'
import { runElements, type Kernel } from './program.ts'
import { aligned, viewOf } from './views.ts'

/**
 * extents int32 [2·B] on a GPU, each row's first token and number of tokens -> int32 position ids [B·S], which count from
 * pad + 1 and are pad elsewhere (`create_position_ids_from_input_ids`), and the mask [B,S]. One dispatch.
 */
export function placesOf(
  extents: tf.Tensor1D,
  B: number,
  S: number,
  pad_token_id: number,
): { position_ids: tf.Tensor1D; attention_mask: tf.Tensor2D } {
  const size = B * S
  const maskAt = aligned(size)
  const info = webgpuBackend().makeTensorInfo([maskAt + size], 'int32')
  const packed = tf.engine().makeTensorFromTensorInfo(info)
  runElements(kernel, [extents], { size, S, maskAt, pad: pad_token_id }, packed.shape, size, packed)
  const position_ids = viewOf<tf.Tensor1D>(packed, 0, [size])
  const attention_mask = viewOf<tf.Tensor2D>(packed, maskAt, [B, S])
  packed.dispose()
  return { position_ids, attention_mask }
}

const kernel: Kernel = {
  name: 'placesOf',
  inputs: ['extents'],
  uniforms: { size: 'int32', S: 'int32', maskAt: 'int32', pad: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let row = index / uniforms.S;
  let place = index % uniforms.S - extents[2 * row];
  let inside = (place >= 0) & (place < extents[2 * row + 1]);
  result[index] = select(uniforms.pad, uniforms.pad + 1 + place, inside);
  result[uniforms.maskAt + index] = select(0, 1, inside);
}`,
}
