/**
 * RoBERTa's weights on the device, and its embeddings (transformers `RobertaEmbeddings`). The tree's paths are the
 * checkpoint's keys; its leaves are constants unless a run trains the base itself.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { RobertaConfig } from '../config.ts'
import type { FrozenNorm } from '../methods/method.ts'
import type { Batch } from './batch.ts'
import type { Matrix, Ops, Vector } from './ops.ts'
import type { Var } from './tape.ts'

export interface Linear {
  weight: Matrix // [out,in]
  bias: Vector // [out]
}

/** `RobertaLayer`. */
export interface Layer {
  attention: {
    self: { query: Linear; key: Linear; value: Linear }
    output: { dense: Linear; LayerNorm: FrozenNorm }
  }
  intermediate: { dense: Linear }
  output: { dense: Linear; LayerNorm: FrozenNorm }
}

/** `RobertaModel` as a tree. */
export interface Weights {
  embeddings: {
    /** Row blocks, because the whole table may be larger than a device lets one shader see. */
    word_embeddings: { weight: Matrix[] }
    position_embeddings: { weight: Matrix }
    token_type_embeddings: { weight: Matrix }
    LayerNorm: FrozenNorm
  }
  encoder: { layer: Layer[] }
  /** null: the checkpoint has none, as roberta-base's has. */
  pooler: { dense: Linear } | null
}

/** A base model as it was loaded. */
export interface Roberta extends Weights {
  config: RobertaConfig
  /** Every tensor but the word table by its key, `roberta.` in front. */
  vars: ReadonlyMap<string, Var>
}

/** The key of the word table, the one tensor that may come in blocks. */
export const wordTable = 'roberta.embeddings.word_embeddings.weight'

/** Arranges weights as a tree; `get` is asked for every key but the word table's. */
export function assemble(
  config: RobertaConfig,
  words: Matrix[],
  has: (key: string) => boolean,
  get: (key: string) => Var,
): Weights {
  const linear = (path: string): Linear => ({
    weight: get(`${path}.weight`) as Matrix,
    bias: get(`${path}.bias`) as Vector,
  })
  const norm = (path: string): FrozenNorm => ({
    weight: get(`${path}.weight`) as Vector,
    bias: get(`${path}.bias`) as Vector,
    eps: config.layer_norm_eps,
  })
  const layer = (path: string): Layer => ({
    attention: {
      self: {
        query: linear(`${path}.attention.self.query`),
        key: linear(`${path}.attention.self.key`),
        value: linear(`${path}.attention.self.value`),
      },
      output: {
        dense: linear(`${path}.attention.output.dense`),
        LayerNorm: norm(`${path}.attention.output.LayerNorm`),
      },
    },
    intermediate: { dense: linear(`${path}.intermediate.dense`) },
    output: { dense: linear(`${path}.output.dense`), LayerNorm: norm(`${path}.output.LayerNorm`) },
  })
  const embeddings = 'roberta.embeddings'
  return {
    embeddings: {
      word_embeddings: { weight: words },
      position_embeddings: { weight: get(`${embeddings}.position_embeddings.weight`) as Matrix },
      token_type_embeddings: { weight: get(`${embeddings}.token_type_embeddings.weight`) as Matrix },
      LayerNorm: norm(`${embeddings}.LayerNorm`),
    },
    encoder: {
      layer: Array.from({ length: config.num_hidden_layers }, (_, l) => layer(`roberta.encoder.layer.${l}`)),
    },
    pooler: has('roberta.pooler.dense.weight') ? { dense: linear('roberta.pooler.dense') } : null,
  }
}

/** Sum of word, position and type embeddings, normalised: [N,H] for N = B·S tokens. */
export function embed(ops: Ops, config: RobertaConfig, { embeddings }: Weights, batch: Batch): Matrix {
  return ops.dropout(normedEmbeddings(ops, config, embeddings, batch), config.hidden_dropout_prob)
}

function normedEmbeddings(
  ops: Ops,
  { pad_token_id: pad }: RobertaConfig,
  embeddings: Weights['embeddings'],
  { input_ids, position_ids }: Batch,
): Matrix {
  const { word_embeddings, position_embeddings, token_type_embeddings, LayerNorm } = embeddings
  const { weight, bias, eps } = LayerNorm
  const [words, positions, types] = [
    word_embeddings.weight,
    position_embeddings.weight,
    token_type_embeddings.weight,
  ]
  if (![...words, positions, types, weight, bias].some(({ trained }) => trained))
    return ops.embeddingNorm(words, input_ids, { positions, position_ids, types, norm: LayerNorm })
  const word = ops.embedding(words, input_ids, pad) // [N,H]
  const position = ops.embedding([positions], position_ids, pad) // [N,H]
  const type = ops.slice(types, 0, 0, 1) // [1,H]
  return ops.layerNorm(ops.add(ops.addBroadcast(word, type), position), weight, bias, eps)
}

/** Frees every weight. */
export function disposeRoberta({ embeddings, vars }: Roberta): void {
  tf.dispose([...embeddings.word_embeddings.weight, ...vars.values()].map(({ tensor }) => tensor))
}
