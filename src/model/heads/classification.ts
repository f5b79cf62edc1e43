/**
 * `ClassificationHead` and `MultiLabelClassificationHead` of `adapters` (heads/base.py): for each layer dropout, Linear
 * and, but for the last, an activation, on one vector a text.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { ClassificationHeadConfig, RobertaConfig } from '../../config.ts'
import { activations, type Activation } from '../../kernels/activations.ts'
import { crossEntropy } from '../../kernels/crossEntropy.ts'
import { binaryCrossEntropy, meanSquaredError, type Loss } from '../../kernels/losses.ts'
import type { Parameter } from '../../methods/method.ts'
import type { Batch } from '../batch.ts'
import type { Matrix, Vector } from '../ops.ts'
import type { Weights } from '../roberta.ts'
import { Var } from '../tape.ts'
import type { ModelWalk } from '../walk.ts'

/** Index of each Linear within the head's Sequential, which counts dropouts and activations too. */
function linearIndices({ layers, activation_function }: ClassificationHeadConfig): number[] {
  const step = activation_function ? 3 : 2
  return Array.from({ length: layers }, (_, l) => l * step + 1)
}

/** Sentences on values that cannot work; `pooler`: whether the base file holds one (null: not known yet). */
export function classificationProblems(head: ClassificationHeadConfig, pooler: boolean | null): string[] {
  const problems: string[] = []
  const whole = { num_labels: head.num_labels, layers: head.layers }
  for (const [key, value] of Object.entries(whole))
    if (!(Number.isInteger(value) && value >= 1))
      problems.push(`The head's ${key} is ${value}; it must be a whole number of at least 1.`)
  const { activation_function: name, dropout_prob: rate } = head
  if (name && !(activations as readonly string[]).includes(name.toLowerCase()))
    problems.push(
      `The head's activation_function "${name}" is not known here; known are ${activations.join(', ')}.`,
    )
  if (rate !== null && !(rate >= 0 && rate < 1))
    problems.push(`The head's dropout_prob is ${rate}; it must be at least 0 and below 1.`)
  if (head.use_pooler && pooler === false)
    problems.push(
      'The head wants the pooler (use_pooler), but the base file holds none: Python would read the text through random weights. Use the first token or the mean instead.',
    )
  return problems
}

/** Keys and shapes, in the library's order. */
export function classificationParameters(
  { hidden_size: H }: RobertaConfig,
  head: ClassificationHeadConfig,
  name: string,
): Parameter[] {
  return linearIndices(head).flatMap((index, l) => {
    const last = l === head.layers - 1
    const out = last ? head.num_labels : H
    const weight: Parameter = { key: `heads.${name}.${index}.weight`, shape: [out, H] }
    return last && !head.bias ? [weight] : [weight, { key: `heads.${name}.${index}.bias`, shape: [out] }]
  })
}

/** Logits [B,C] of x [B·S,H]. */
export function classificationForward(
  walk: ModelWalk,
  weights: Weights,
  head: ClassificationHeadConfig,
  name: string,
  x: Matrix,
): Matrix {
  const { ops, base } = walk
  const rate = head.dropout_prob ?? base.classifier_dropout ?? base.hidden_dropout_prob
  const act = head.activation_function?.toLowerCase() as Activation | undefined
  const drops = ops.noise !== null && rate > 0
  let y = pooled(walk, weights, head, x)
  linearIndices(head).forEach((index, l) => {
    const path = `heads.${name}.${index}`
    const bias = l === head.layers - 1 && !head.bias ? null : walk.parameter<Vector>(`${path}.bias`)
    const weight = walk.parameter(`${path}.weight`)
    if (l > 0 && act && !drops) y = ops.activatedLinear(act, y, weight, bias)
    else y = ops.linear(ops.dropout(l > 0 && act ? ops.activation(act, y) : y, rate), weight, bias)
  })
  return y
}

/** One vector a text [B,H]: the pooler's, token 0's (a prompt's, where one stands first), or the mean of its tokens. */
function pooled(walk: ModelWalk, { pooler }: Weights, head: ClassificationHeadConfig, x: Matrix): Matrix {
  const { ops, S } = walk
  const B = x.shape[0] / S
  if (!head.use_pooler && head.pooling === 'mean') return mean(walk, x)
  const first = ops.firstToken(x, B)
  if (!head.use_pooler) return first
  if (!pooler) throw new Error(classificationProblems(head, false)[0])
  return ops.activation('tanh', ops.linear(first, pooler.dense.weight, pooler.dense.bias))
}

/** The mean over each text's own tokens, `<s>` and `</s>` among them, prompts and padding not: [B,H]. */
export function mean(walk: ModelWalk, x: Matrix): Matrix {
  const { ops, S, textLength, first, lengths } = walk
  const H = x.shape[1]
  const B = x.shape[0] / S
  const shares = new Float32Array(B * S)
  for (let b = 0; b < B; b++) {
    const [from, count] = [b * S + (S - textLength) + first[b]!, lengths[b]!]
    shares.fill(1 / count, from, from + count)
  }
  const weights = walk.constant<Var<tf.Tensor3D>>(shares, [B, 1, S])
  return ops.reshape(ops.matmul(weights, ops.reshape<tf.Tensor3D>(x, [B, S, H])), [B, H])
}

/**
 * Mean loss of logits [B,C]: binary cross-entropy for several labels at once, squared error for a single number, else
 * cross-entropy, which alone knows label smoothing.
 */
export function classificationLoss(
  { ops }: ModelWalk,
  head: ClassificationHeadConfig,
  logits: Matrix,
  { targets, labels }: Batch,
  label_smoothing: number,
): Var<tf.Scalar> {
  const wanted =
    head.head_type === 'multilabel_classification'
      ? 'multilabel'
      : head.num_labels === 1
        ? 'regression'
        : null
  if ((targets?.kind ?? null) !== wanted)
    throw new Error(
      `A head for ${nouns[wanted ?? 'classes']} got a batch with ${nouns[targets?.kind ?? 'classes']}; choose data and head that belong together.`,
    )
  return recordLoss(ops, logits, () => {
    if (targets?.kind === 'multilabel') return binaryCrossEntropy(logits.tensor, targets.labels)
    if (targets?.kind === 'regression')
      return meanSquaredError(logits.tensor, tf.reshape<tf.Rank.R2>(targets.labels, logits.shape))
    const { loss, dLogits } = crossEntropy(logits.tensor, labels, label_smoothing)
    return { loss, gradient: dLogits }
  })
}

const nouns = {
  classes: 'one class a text',
  multilabel: 'several labels a text',
  regression: 'a number a text',
  masked_lm: 'hidden words',
  label_words: 'label words',
}

/** A loss whose gradient comes with it, as the step on the tape where the way down begins: its own gradient is 1. */
export function recordLoss(
  { tape }: ModelWalk['ops'],
  logits: Matrix,
  compute: () => Loss<tf.Tensor2D>,
): Var<tf.Scalar> {
  const { loss, gradient } = compute()
  const kept = new Var(gradient, false, false)
  return tape.record(loss, [logits], [kept], () => [kept.tensor])
}
