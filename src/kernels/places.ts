/** Position ids of a batch whose texts are runs of tokens in padding, made on the device. */
import * as tf from '@tensorflow/tfjs-core'
import { webgpuBackend } from './backend.ts'
import { runElements, type Kernel } from './program.ts'

/**
 * padding int32 [B,2] on a GPU, what stands before each row's text and behind it -> int32 position ids [B·S], which count
 * from pad + 1 and are pad elsewhere (`create_position_ids_from_input_ids`). One dispatch.
 */
export function placesOf(padding: tf.Tensor2D, S: number, pad_token_id: number): tf.Tensor1D {
  const size = padding.shape[0] * S
  const info = webgpuBackend().makeTensorInfo([size], 'int32')
  const position_ids = tf.engine().makeTensorFromTensorInfo(info) as tf.Tensor1D
  return runElements(kernel, [padding], { size, S, pad: pad_token_id }, [size], size, position_ids)
}

const kernel: Kernel = {
  name: 'placesOf',
  inputs: ['padding'],
  inputComponents: [2],
  uniforms: { size: 'int32', S: 'int32', pad: 'int32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  let around = padding[index / uniforms.S];
  let token = index % uniforms.S;
  let inside = (token >= around.x) & (token < uniforms.S - around.y);
  result[index] = select(uniforms.pad, uniforms.pad + 1 + token - around.x, inside);
}`,
}
