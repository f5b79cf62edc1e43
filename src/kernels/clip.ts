/** torch.nn.utils.clip_grad_norm_ over one flat gradient: here as an operation, and as WGSL for the optimiser's kernels. */
import * as tf from '@tensorflow/tfjs-core'

/** What the norm of all gradients, `sum.ts`'s l2Norm, is clipped to. */
export interface Clip {
  norm: tf.Scalar
  max_norm: number
}

/** g * min(1, max_norm / (norm + 1e-6)). Keeps `g` and the norm. */
export function clipped<T extends tf.Tensor>(g: T, { norm, max_norm }: Clip): T {
  return tf.tidy(() => tf.mul<T>(g, tf.minimum(1, tf.div(max_norm, tf.add(norm, 1e-6)))))
}

/** The same for element `at`, of inputs `g` and `norm` and a uniform `max_norm`; 0: the element as it is. */
export const clippedCode = (at: string) =>
  `(g[${at}] * select(1.0, min(1.0, uniforms.max_norm / (norm[0] + 1e-6)), uniforms.max_norm > 0.0))`
