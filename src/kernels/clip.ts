/** torch.nn.utils.clip_grad_norm_ over one flat gradient: here as an operation, and as WGSL for the optimiser's kernels. */
import * as tf from '@tensorflow/tfjs-core'

/** g * min(1, max_norm / (norm + 1e-6)), or g itself where max_norm is 0. Keeps `g` and the norm. */
export function clipped<T extends tf.Tensor>(g: T, norm: tf.Scalar, max_norm: number): T {
  if (max_norm === 0) return tf.clone(g)
  return tf.tidy(() => tf.mul<T>(g, tf.minimum(1, tf.div(max_norm, tf.add(norm, 1e-6)))))
}

/** What a gradient of `norm` is multiplied by; of a uniform `max_norm`. */
export const clipFactor = (norm: string) =>
  `select(1.0, min(1.0, uniforms.max_norm / (${norm} + 1e-6)), uniforms.max_norm > 0.0)`
