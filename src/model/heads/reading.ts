/** The one vector of a text that a head reads: all that must be kept of a text for which nothing below the head changes. */
import * as tf from '@tensorflow/tfjs-core'
import type { HeadConfig } from '../../config.ts'
import { firstToken } from '../../kernels/firstToken.ts'
import type { Batch } from '../batch.ts'
import type { Matrix } from '../ops.ts'
import type { ModelWalk } from '../walk.ts'
import { mean } from './classification.ts'

/** The first token's, which the pooler reads as well; the mean of its tokens; the one where a label word is to stand. */
export type Reading = 'first' | 'mean' | 'label_word'

export function readingOf(head: HeadConfig): Reading {
  if (head.head_type === 'masked_lm') return 'label_word'
  return !head.use_pooler && head.pooling === 'mean' ? 'mean' : 'first'
}

/** That vector of each text, of the last hidden state x [B·S,H] -> [B,H]. Throws when the batch asks for no label words. */
export function readVectors(walk: ModelWalk, reading: Reading, x: Matrix, { targets }: Batch): tf.Tensor2D {
  if (reading === 'first') return firstToken(x.tensor, walk.B)
  if (reading === 'mean') return mean(walk, x).tensor
  if (targets?.kind !== 'label_words')
    throw new Error('A masked-LM head reads the places of label words, but the batch has none; use a prompt.')
  return tf.gather(x.tensor, tf.tensor1d(targets.positions, 'int32'))
}
