/** torch.nn.utils.clip_grad_norm_ over one flat gradient. */
import * as tf from '@tensorflow/tfjs-core'
import { onGpu, runElements, type Kernel } from './program.ts'
import { sumOfSquares } from './sum.ts'

/** L2 norm of all elements. */
export function globalNorm(g: tf.Tensor): tf.Scalar {
  return tf.tidy(() => tf.sqrt(sumOfSquares(g)))
}

/** g * min(1, max_norm / (norm + 1e-6)), and the norm before clipping. Keeps `g`; the caller disposes both results. */
export function clipByGlobalNorm<T extends tf.Tensor>(g: T, max_norm: number): { g: T; norm: tf.Scalar } {
  return tf.tidy(() => {
    const norm = globalNorm(g)
    if (onGpu())
      return { g: runElements<T>(kernel, [g, norm], { size: g.size, max_norm }, g.shape, g.size), norm }
    return { g: tf.mul<T>(g, tf.minimum(1, tf.div(max_norm, tf.add(norm, 1e-6)))), norm }
  })
}

const kernel: Kernel = {
  name: 'clipByGlobalNorm',
  inputs: ['g', 'norm'],
  uniforms: { size: 'int32', max_norm: 'float32' },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index < uniforms.size) { result[index] = g[index] * min(1.0, uniforms.max_norm / (norm[0] + 1e-6)); }
}`,
}
