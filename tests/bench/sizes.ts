/** Model shapes that the counts are taken at. */
import { parseRobertaConfig } from '../../src/model/robertaConfig.ts'

/** roberta-base's published config.json, the fields that shape it. */
export const robertaBase = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    max_position_embeddings: 514,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)

/** Two small layers: seconds, and every call that the large one makes. */
export const twoLayers = parseRobertaConfig(
  JSON.stringify({
    model_type: 'roberta',
    vocab_size: 300,
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    intermediate_size: 128,
    max_position_embeddings: 66,
    type_vocab_size: 1,
    layer_norm_eps: 1e-5,
  }),
)
