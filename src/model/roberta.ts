/**
 * RoBERTa's frozen weights on the device, and its embeddings (transformers `RobertaEmbeddings`). The tree's paths are
 * the checkpoint's keys. Nothing here is ever trained, so nothing here has a gradient.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../config.ts'
import { embedding } from '../kernels/embedding.ts'
import { layerNorm } from '../kernels/layerNorm.ts'
import { dropBase, sites, type Pass } from './pass.ts'

export interface Linear {
  weight: tf.Tensor2D // [out,in]
  bias: tf.Tensor1D // [out]
}

export interface LayerNorm {
  weight: tf.Tensor1D
  bias: tf.Tensor1D
}

/** `RobertaLayer`. */
export interface Layer {
  attention: {
    self: { query: Linear; key: Linear; value: Linear }
    output: { dense: Linear; LayerNorm: LayerNorm }
  }
  intermediate: { dense: Linear }
  output: { dense: Linear; LayerNorm: LayerNorm }
}

/** `RobertaModel` without its pooler, which no head of ours reads. */
export interface Roberta {
  config: RobertaConfig
  embeddings: {
    /** Row blocks, because the whole table may be larger than a device lets one shader see. */
    word_embeddings: { weight: tf.Tensor2D[] }
    position_embeddings: { weight: tf.Tensor2D }
    token_type_embeddings: { weight: tf.Tensor2D }
    LayerNorm: LayerNorm
  }
  encoder: { layer: Layer[] }
}

/** Sum of word, position and type embeddings, normalised: [N,H] for N = B·S tokens. */
export function embed({ config, batch, noise }: Pass, { embeddings }: Roberta): tf.Tensor2D {
  return tf.tidy(() => {
    const words = embedding(embeddings.word_embeddings.weight, batch.input_ids) // [N,H]
    const positions = embedding([embeddings.position_embeddings.weight], batch.position_ids) // [N,H]
    const type = tf.slice(embeddings.token_type_embeddings.weight, [0, 0], [1, -1]) // [1,H]
    const sum = tf.add(tf.add(words, type), positions) as tf.Tensor2D
    const { weight, bias } = embeddings.LayerNorm
    const x = layerNorm(sum, weight, bias, config.layer_norm_eps)
    return dropBase(noise, x, config.hidden_dropout_prob, sites.embeddings)
  })
}

/** Frees every weight. */
export function disposeRoberta({ embeddings, encoder }: Roberta): void {
  tf.dispose({ embeddings, encoder } as unknown as tf.TensorContainer)
}
