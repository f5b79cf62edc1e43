/**
 * Prediction heads: their tensors, their logits and their losses, chosen by `head_type`. The walk calls these; each
 * kind of head has a file beside this one.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { HeadConfig, ModelSetup, RobertaConfig, TensorMap } from '../../config.ts'
import { crossEntropy } from '../../kernels/crossEntropy.ts'
import type { Parameter, Start } from '../../methods/method.ts'
import type { Batch } from '../batch.ts'
import type { Matrix, Vector } from '../ops.ts'
import type { Weights } from '../roberta.ts'
import type { Var } from '../tape.ts'
import type { ModelWalk } from '../walk.ts'
import {
  classificationForward,
  classificationLoss,
  classificationParameters,
  classificationProblems,
  recordLoss,
} from './classification.ts'
import { drawLinears } from './draws.ts'
import {
  beforeDecoder,
  decode,
  decodeWords,
  initialiseMaskedLM,
  maskedLMParameters,
  maskedLMProblems,
} from './maskedLM.ts'
import { vocabularyLoss, vocabularyScores } from './vocabularyLoss.ts'

/** Sentences on a head that cannot work on this base; `pooler`: whether its file holds one. null: not known yet. */
export function headProblems(head: HeadConfig, base: RobertaConfig | null, pooler: boolean | null): string[] {
  return head.head_type === 'masked_lm' ? maskedLMProblems(head, base) : classificationProblems(head, pooler)
}

/** Key and shape of every tensor of a head; `buffer`: saved with it, but never trained. */
export function headParameters(base: RobertaConfig, head: HeadConfig, name: string): Parameter[] {
  if (head.head_type === 'masked_lm') return maskedLMParameters(base, name)
  return classificationParameters(base, head, name)
}

/** Values of a fresh head, draw for draw the library's `add_classification_head` and `add_masked_lm_head`. */
export function initialiseHead(start: Start, head: HeadConfig, name: string): TensorMap {
  if (head.head_type === 'masked_lm') return initialiseMaskedLM(start, name)
  return drawLinears(start, classificationParameters(start.base, head, name))
}

/**
 * What a head says of x [B·S,H], the last hidden state: classification [B,C]; masked-LM, for the batch's hidden words,
 * [M,V], or for its label words [B,C], where a single word stands against a logit of 0: [B,2]. Throws when a pooler is
 * wanted that the base lacks, or a masked-LM head is not told which positions to read.
 */
export function headForward(
  walk: ModelWalk,
  weights: Weights,
  head: HeadConfig,
  name: string,
  x: Matrix,
  batch: Batch,
): Matrix {
  if (head.head_type !== 'masked_lm') return classificationForward(walk, weights, head, name, x)
  const { targets } = batch
  if (targets?.kind === 'masked_lm')
    return decode(walk, weights, name, beforeDecoder(walk, name, x, batch, targets.positions))
  if (targets?.kind !== 'label_words')
    throw new Error(
      `The masked-LM head “${name}” got texts without hidden words; mask them, or use a prompt.`,
    )
  const h = beforeDecoder(walk, name, x, batch, targets.positions)
  const logits = decodeWords(walk, weights, name, h, targets.words)
  if (targets.words.size > 1) return logits
  return walk.ops.linear(logits, walk.constant([0, 1], [2, 1]), null)
}

/**
 * Mean loss of one head on x [B·S,H], a step on the tape: cross-entropy of classes or label words, binary cross-entropy
 * of several labels, squared error of a number, or cross-entropy of the hidden words over the vocabulary. Throws when
 * the batch is not for this head.
 */
export function headLoss(
  walk: ModelWalk,
  weights: Weights,
  head: HeadConfig,
  name: string,
  x: Matrix,
  batch: Batch,
  label_smoothing: number,
): Var<tf.Scalar> {
  const { targets, labels } = batch
  if (head.head_type === 'masked_lm' && targets?.kind === 'masked_lm') {
    const h = beforeDecoder(walk, name, x, batch, targets.positions)
    return vocabularyLoss(walk.ops, h, decoderOf(walk, weights, name), targets.ids, label_smoothing)
  }
  const logits = headForward(walk, weights, head, name, x, batch)
  if (head.head_type !== 'masked_lm') return classificationLoss(walk, head, logits, batch, label_smoothing)
  return recordLoss(walk.ops, logits, () => {
    const { loss, dLogits } = crossEntropy(logits.tensor, labels, label_smoothing)
    return { loss, gradient: dLogits }
  })
}

/** Loss of each hidden word and whether it was the likeliest guess (0 or 1), [M] each; for evaluation, the caller's. */
export function maskedLMScores(
  walk: ModelWalk,
  weights: Weights,
  name: string,
  x: Matrix,
  batch: Batch,
): { losses: tf.Tensor1D; hits: tf.Tensor1D } {
  const { targets } = batch
  if (targets?.kind !== 'masked_lm')
    throw new Error(`The masked-LM head “${name}” got texts without hidden words; mask them first.`)
  const h = beforeDecoder(walk, name, x, batch, targets.positions)
  return vocabularyScores(h.tensor, decoderOf(walk, weights, name), targets.ids)
}

function decoderOf(
  walk: ModelWalk,
  { embeddings }: Weights,
  name: string,
): { blocks: Matrix[]; bias: Vector } {
  const blocks = embeddings.word_embeddings.weight
  return { blocks, bias: walk.parameter<Vector>(`heads.${name}.3.bias`) }
}

/** What one head reads: the last hidden state of its rows [B·S,H], and those rows' labels. */
export interface HeadInput {
  x: Matrix
  batch: Batch
}

/**
 * The sum of the active heads' losses, as the library adds them up, and where the way down begins. `inputs`: what each
 * active head reads, in their order. A batch that is for one head leaves the others out: their gradients are 0.
 */
export function lossOf(
  walk: ModelWalk,
  weights: Weights,
  { heads, active_heads }: ModelSetup,
  inputs: HeadInput[],
  batch: Batch,
  label_smoothing: number,
): { loss: tf.Scalar; seeds: [Var, tf.Tensor][] } {
  if (batch.head !== null && !active_heads.includes(batch.head))
    throw new Error(
      `A batch is for the head “${batch.head}”, which is not active; make it active or leave its data out.`,
    )
  const isFor = (name: string) => batch.head === null || batch.head === name
  const losses = active_heads.flatMap((name, i) =>
    isFor(name)
      ? [
          walk.tape.scope(() =>
            headLoss(walk, weights, heads[name]!, name, inputs[i]!.x, inputs[i]!.batch, label_smoothing),
          ),
        ]
      : [],
  )
  const resting = active_heads
    .filter((name) => !isFor(name))
    .flatMap((name) => headParameters(walk.base, heads[name]!, name))
    .map(({ key }) => walk.parameter<Var>(key))
    .filter(({ trained }) => trained)
  return {
    loss: losses.map(({ tensor }) => tensor).reduce((a, b) => tf.add<tf.Scalar>(a, b)),
    seeds: [
      ...losses.map((one): [Var, tf.Tensor] => [one, tf.ones<tf.Rank.R0>([])]),
      ...resting.map((one): [Var, tf.Tensor] => [one, tf.zeros(one.shape)]),
    ],
  }
}
