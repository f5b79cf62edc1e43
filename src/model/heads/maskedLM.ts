/**
 * `BertStyleMaskedLMHead` of `adapters` (heads/language_modeling.py), which is RoBERTa's own `lm_head`: Linear, gelu,
 * LayerNorm, and a decoder tied to the word embeddings. Only the rows that are asked for are ever decoded.
 */
import type * as tf from '@tensorflow/tfjs-core'
import type { MaskedLMHeadConfig, RobertaConfig, TensorMap } from '../../config.ts'
import type { Parameter, Start } from '../../methods/method.ts'
import type { Batch } from '../batch.ts'
import type { WeightSource } from '../loadRoberta.ts'
import type { Matrix, Vector } from '../ops.ts'
import type { Weights } from '../roberta.ts'
import { Var } from '../tape.ts'
import type { ModelWalk } from '../walk.ts'
import { initLinears, skipNormal, skipUniform } from './draws.ts'

/** Sentences on values that cannot work on this base. */
export function maskedLMProblems(head: MaskedLMHeadConfig, base: RobertaConfig | null): string[] {
  if (!base) return []
  const problems: string[] = []
  const tied = { vocab_size: base.vocab_size, embedding_size: base.hidden_size }
  for (const key of ['vocab_size', 'embedding_size'] as const)
    if (head[key] !== tied[key])
      problems.push(
        `The masked-LM head's ${key} is ${head[key]}, but its decoder is tied to the word embeddings, which need ${tied[key]}.`,
      )
  return problems
}

/**
 * Keys and shapes that are the head's own. The decoder's bias is frozen with the embeddings, as the library does; its
 * weight `heads.{name}.3.weight` is the word table itself.
 */
export function maskedLMParameters(
  { hidden_size: H, vocab_size: V }: RobertaConfig,
  name: string,
): Parameter[] {
  const path = `heads.${name}`
  return [
    { key: `${path}.0.weight`, shape: [H, H] },
    { key: `${path}.0.bias`, shape: [H] },
    { key: `${path}.2.weight`, shape: [H] },
    { key: `${path}.2.bias`, shape: [H] },
    { key: `${path}.3.bias`, shape: [V], role: 'buffer' },
  ]
}

/** Values of a fresh head, draw for draw `add_masked_lm_head`; the decoder's are passed over, since it is tied. */
export function initialiseMaskedLM(start: Start, name: string): TensorMap {
  const { generator, base } = start
  const { hidden_size: H, vocab_size: V } = base
  const [weight, bias, normWeight, normBias, decoderBias] = maskedLMParameters(base, name)
  skipUniform(generator, H * H + H)
  skipUniform(generator, V * H + V)
  const tensors = initLinears(start, [weight!, bias!])
  skipNormal(generator, V * H)
  tensors.set(normWeight!.key, { shape: [H], data: new Float32Array(H).fill(1) })
  tensors.set(normBias!.key, { shape: [H], data: new Float32Array(H) })
  tensors.set(decoderBias!.key, { shape: [V], data: new Float32Array(V) })
  return tensors
}

/** The only masked-LM head that the library makes for RoBERTa without being told otherwise. */
export function maskedLMHead({ vocab_size, hidden_size }: RobertaConfig): MaskedLMHeadConfig {
  return {
    head_type: 'masked_lm',
    vocab_size,
    embedding_size: hidden_size,
    layers: 2,
    activation_function: 'gelu',
    layer_norm: true,
    bias: true,
    shift_labels: false,
  }
}

/**
 * The checkpoint's own `lm_head` as a head named `name`, or null when the file holds none. Throws when it lacks a part
 * or has another shape than `config` calls for.
 */
export async function pretrainedHead(
  config: RobertaConfig,
  source: WeightSource,
  name: string,
): Promise<TensorMap | null> {
  const names = new Set(source.names())
  if (![...names].some((key) => key.startsWith('lm_head.'))) return null
  const bias = names.has('lm_head.bias') ? 'lm_head.bias' : 'lm_head.decoder.bias'
  const keys = ['dense.weight', 'dense.bias', 'layer_norm.weight', 'layer_norm.bias'].map(
    (key) => `lm_head.${key}`,
  )
  const tensors: TensorMap = new Map()
  for (const [i, { key, shape }] of maskedLMParameters(config, name).entries()) {
    const file = keys[i] ?? bias
    if (!names.has(file))
      throw new Error(`The weights hold a masked-LM head without ${file}; take a fresh head instead.`)
    const found = source.shape(file)
    if (found.join() !== shape.join())
      throw new Error(`The tensor ${file} is [${found}], but config.json calls for [${shape}].`)
    tensors.set(key, { shape, data: Float32Array.from(await source.read(file)) })
  }
  return tensors
}

/**
 * What the decoder reads, for some rows of x [B·S,H] alone -> [M,H]. `positions` count in the batch as it was given;
 * prompts in front move them.
 */
export function beforeDecoder(
  walk: ModelWalk,
  name: string,
  x: Matrix,
  batch: Batch,
  positions: Int32Array,
): Matrix {
  const { ops, base, S } = walk
  const path = `heads.${name}`
  const prompts = S - batch.S
  const rows = positions.map((at) => Math.floor(at / batch.S) * S + prompts + (at % batch.S))
  const dense = ops.linear(
    ops.rows(x, rows),
    walk.parameter(`${path}.0.weight`),
    walk.parameter(`${path}.0.bias`),
  )
  const h = ops.layerNorm(
    ops.activation('gelu', dense),
    walk.parameter<Vector>(`${path}.2.weight`),
    walk.parameter<Vector>(`${path}.2.bias`),
    base.layer_norm_eps,
  )
  return walk.place('beforeDecoder')?.(walk, h) ?? h
}

/** h [M,H] -> logits of the whole vocabulary [M,V], for looking at a few positions. */
export function decode(walk: ModelWalk, { embeddings }: Weights, name: string, h: Matrix): Matrix {
  const { ops } = walk
  const bias = walk.parameter<Vector>(`heads.${name}.3.bias`)
  let first = 0
  const parts = embeddings.word_embeddings.weight.map((block) => {
    const part = ops.linear(h, block, ops.slice(bias, 0, first, block.shape[0]))
    first += block.shape[0]
    return part
  })
  return ops.concat(parts, 1)
}

/** h [M,H] -> logits of some words alone (int32 [C]) -> [M,C]. */
export function decodeWords(
  walk: ModelWalk,
  { embeddings }: Weights,
  name: string,
  h: Matrix,
  words: tf.Tensor1D,
): Matrix {
  const { ops } = walk
  const bias = walk.parameter<Vector>(`heads.${name}.3.bias`)
  const column = ops.reshape<tf.Tensor2D>(bias, [bias.shape[0], 1])
  const own = ops.gather(column, new Var(words, false, true))
  const rows = ops.embedding(embeddings.word_embeddings.weight, words, -1)
  return ops.linear(h, rows, ops.reshape<tf.Tensor1D>(own, [words.size]))
}
