/**
 * Reads a RoBERTa-family `config.json` as transformers' `RobertaConfig` does: absent fields take the class defaults,
 * which are not roberta-base's values (512 positions, 2 token types, eps 1e-12).
 */
import type { RobertaConfig } from '../config.ts'

const classDefaults: RobertaConfig = {
  model_type: 'roberta',
  vocab_size: 50265,
  hidden_size: 768,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  intermediate_size: 3072,
  hidden_act: 'gelu',
  hidden_dropout_prob: 0.1,
  attention_probs_dropout_prob: 0.1,
  classifier_dropout: null,
  max_position_embeddings: 512,
  type_vocab_size: 2,
  layer_norm_eps: 1e-12,
  initializer_range: 0.02,
  pad_token_id: 1,
  bos_token_id: 0,
  eos_token_id: 2,
}

const families = ['roberta', 'xlm-roberta', 'camembert']
const activations = ['gelu', 'gelu_new', 'relu', 'silu', 'swish']

/** Parses and checks the text of a config.json. Throws one sentence that names the field at fault. */
export function parseRobertaConfig(text: string): RobertaConfig {
  let fields: Record<string, unknown>
  try {
    fields = JSON.parse(text) as Record<string, unknown>
  } catch (error) {
    throw new Error(`config.json is not JSON: ${(error as Error).message}.`)
  }
  if (!families.includes(String(fields.model_type)))
    throw new Error(
      `config.json says model_type "${String(fields.model_type)}"; Adaptab reads ${families.join(', ')} models only.`,
    )
  const config: RobertaConfig = { ...classDefaults }
  for (const key of Object.keys(classDefaults) as (keyof RobertaConfig)[]) {
    const value = fields[key]
    if (value === undefined || value === null) continue
    const wanted = typeof (classDefaults[key] ?? 0)
    if (typeof value !== wanted)
      throw new Error(`config.json: ${key} is ${JSON.stringify(value)}, not a ${wanted}.`)
    Object.assign(config, { [key]: value })
  }
  check(config, fields)
  return config
}

function check(config: RobertaConfig, fields: Record<string, unknown>): void {
  const sizes = [
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'intermediate_size',
  ] as const
  for (const key of sizes)
    if (!Number.isInteger(config[key]) || config[key] < 1)
      throw new Error(`config.json: ${key} is ${config[key]}, not a positive whole number.`)
  if (config.hidden_size % config.num_attention_heads !== 0)
    throw new Error(
      `config.json: hidden_size ${config.hidden_size} cannot be shared by ${config.num_attention_heads} attention heads.`,
    )
  if (!activations.includes(config.hidden_act))
    throw new Error(
      `config.json: hidden_act "${config.hidden_act}" is not supported (${activations.join(', ')}).`,
    )
  const positions = fields.position_embedding_type
  if (positions !== undefined && positions !== 'absolute')
    throw new Error(
      `config.json: position_embedding_type "${String(positions)}" is not supported, only "absolute".`,
    )
}

/** Tokens that fit one input: position ids start after the padding index. */
export function maxTokens(config: RobertaConfig): number {
  return config.max_position_embeddings - config.pad_token_id - 1
}
