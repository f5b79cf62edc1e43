/**
 * What an adapter is held against, not of the library: a head alone on the frozen model, its biases (BitFit, Ben Zaken
 * et al. 2022), or every weight. They have no tensors under a name of their own: what they train is the base's.
 */
import type { ComparisonConfig, RobertaConfig } from '../config.ts'
import type { Method, Parameter } from './method.ts'

/** Key and shape of every weight of RoBERTa, in a checkpoint's order; the pooler only where it is asked for. */
export function baseParameters(base: RobertaConfig, pooler = false): Parameter[] {
  const { hidden_size: H, intermediate_size: I } = base
  const embeddings = 'roberta.embeddings'
  const parameters: Parameter[] = [
    { key: `${embeddings}.word_embeddings.weight`, shape: [base.vocab_size, H] },
    { key: `${embeddings}.position_embeddings.weight`, shape: [base.max_position_embeddings, H] },
    { key: `${embeddings}.token_type_embeddings.weight`, shape: [base.type_vocab_size, H] },
    ...affine(`${embeddings}.LayerNorm`, [H]),
  ]
  for (let l = 0; l < base.num_hidden_layers; l++) {
    const layer = `roberta.encoder.layer.${l}`
    for (const name of ['query', 'key', 'value'])
      parameters.push(...affine(`${layer}.attention.self.${name}`, [H, H]))
    parameters.push(...affine(`${layer}.attention.output.dense`, [H, H]))
    parameters.push(...affine(`${layer}.attention.output.LayerNorm`, [H]))
    parameters.push(...affine(`${layer}.intermediate.dense`, [I, H]))
    parameters.push(...affine(`${layer}.output.dense`, [H, I]))
    parameters.push(...affine(`${layer}.output.LayerNorm`, [H]))
  }
  return pooler ? [...parameters, ...affine('roberta.pooler.dense', [H, H])] : parameters
}

/** The library's “Full model”: RobertaModel with its pooler, without any head or adapter. */
export function fullModelCount(base: RobertaConfig): number {
  return baseParameters(base, true).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
}

/** Which of the model's own weights train: `train.base` of a setup. */
export function trainedBase({ architecture }: ComparisonConfig): 'none' | 'bias' | 'all' {
  if (architecture === 'head') return 'none'
  return architecture === 'bitfit' ? 'bias' : 'all'
}

/** Why full fine-tuning cannot begin on a base whose weights were rounded; null for everything else. */
export function roundedProblem(trains: 'none' | 'bias' | 'all', rounded: boolean): string | null {
  if (!rounded || trains !== 'all') return null
  return 'Full fine-tuning would start from weights that were rounded to half precision; load the model again with precision float32 for it.'
}

function affine(path: string, weight: number[]): Parameter[] {
  return [
    { key: `${path}.weight`, shape: weight },
    { key: `${path}.bias`, shape: [weight[0]!] },
  ]
}

/** `parameters` are the base's own keys that train; a fresh one starts from the base, so there is nothing to draw. */
function comparison(architecture: ComparisonConfig['architecture']): Method<ComparisonConfig> {
  const base = trainedBase({ architecture })
  return {
    architecture,
    defaults: { architecture },
    fields: [],
    problems: () => [],
    parameters: (config) =>
      base === 'none'
        ? []
        : baseParameters(config).filter(({ key }) => base === 'all' || key.endsWith('.bias')),
    initialise: () => new Map(),
  }
}

export const head = comparison('head')
export const bitfit = comparison('bitfit')
export const full = comparison('full')
