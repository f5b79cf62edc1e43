/** The fields of a LoRA configuration for forms, and what cannot work among their values. */
import type { LoRAConfig, RobertaConfig } from '../config.ts'
import type { Field } from './method.ts'

export const loraFields: Field[] = [
  {
    key: 'r',
    kind: 'integer',
    label: 'Rank',
    help: 'Width of the two small matrices whose product is added to a large one.',
    min: 1,
    first: true,
  },
  {
    key: 'alpha',
    kind: 'number',
    label: 'Alpha',
    help: 'The added part is multiplied by alpha / r; with a gate it has no effect.',
    first: true,
  },
  {
    key: 'attn_matrices',
    kind: 'matrices',
    label: 'Attention matrices',
    help: 'Which projections of the self-attention change: q (query), k (key), v (value).',
    choices: ['q', 'k', 'v'],
    first: true,
  },
  {
    key: 'dropout',
    kind: 'number',
    label: 'Dropout',
    help: 'Share of the input that is left out of the added part while training.',
    min: 0,
    max: 1,
    first: true,
  },
  {
    key: 'selfattn_lora',
    kind: 'switch',
    label: 'In the self-attention',
    help: 'Change the projections that attn_matrices names.',
  },
  {
    key: 'intermediate_lora',
    kind: 'switch',
    label: 'In the first feed-forward matrix',
    help: 'Change the matrix that widens each token before the activation.',
  },
  {
    key: 'output_lora',
    kind: 'switch',
    label: 'In the second feed-forward matrix',
    help: 'Change the matrix that narrows each token after the activation.',
  },
  {
    key: 'leave_out',
    kind: 'layers',
    label: 'Layers left out',
    help: 'Layers, from 0, that stay as they are.',
  },
  {
    key: 'use_dora',
    kind: 'switch',
    label: 'DoRA',
    help: 'Train the length of each row of the changed matrix apart from its direction.',
  },
  {
    key: 'use_gating',
    kind: 'switch',
    label: 'Gate',
    help: 'A trained gate decides for each text how much of the change it gets, in place of alpha / r.',
  },
  {
    key: 'composition_mode',
    kind: 'choice',
    label: 'Composition',
    help: 'add: a low-rank matrix is added (LoRA); scale: each output is multiplied by a trained number ((IA)³).',
    choices: ['add', 'scale'],
  },
  {
    key: 'init_weights',
    kind: 'choice',
    label: 'Initial values',
    help: 'lora: starts as no change; bert: all drawn from N(0, 0.02); ia3: all ones.',
    choices: ['lora', 'bert', 'ia3'],
  },
  {
    key: 'init_weights_seed',
    kind: 'integer',
    label: 'Seed of the initial values',
    help: 'When set and not 0, every matrix of the adapter starts from the same draws of this seed.',
    min: 0,
  },
]

/**
 * Why the library's VeRA, DVoRA or MTL-LoRA, or a number type, is not taken: one sentence, or null when `config`, as
 * read from a file, is none of them.
 */
export function loraRefusal(config: Record<string, unknown>): string | null {
  const given = (key: string) => config[key] !== undefined && config[key] !== null
  if (config['architecture'] === 'mtl_lora' || given('n_up_projection') || given('task_specific_matrix_type'))
    return 'MTL-LoRA needs a task id with every text, which no data here has; train a LoRA for each task.'
  if (given('vera_d') || given('vera_b') || config['init_weights'] === 'vera') {
    const field = given('vera_d') ? 'vera_d' : given('vera_b') ? 'vera_b' : 'init_weights'
    const what = config['use_dora'] === true ? 'DVoRA' : 'VeRA'
    return `${field} asks for ${what}, in the library two full matrices at each place (14 million values on roberta-base) and not the published method; use LoRA or DoRA.`
  }
  if (given('dtype') && config['dtype'] !== 'float32')
    return `dtype is ${String(config['dtype'])}; here adapters are float32, so leave dtype out.`
  return null
}

/** What is wrong with a configuration, one sentence each; empty when nothing is. */
export function loraProblems(config: LoRAConfig, base: RobertaConfig | null): string[] {
  const refusal = loraRefusal({ ...config })
  if (refusal) return [refusal]
  const { r, alpha, dropout, init_weights, init_weights_seed, composition_mode, leave_out } = config
  const problems: string[] = []
  if (!(Number.isInteger(r) && r >= 1)) problems.push(`r is ${r}; it must be a whole number of at least 1.`)
  if (!Number.isFinite(alpha)) problems.push(`alpha is ${alpha}; it must be a number.`)
  if (!(dropout >= 0 && dropout < 1))
    problems.push(`dropout is ${dropout}; it must be at least 0 and below 1.`)
  if (!['lora', 'bert', 'ia3'].includes(init_weights))
    problems.push(`init_weights is “${init_weights}”; it may be lora, bert or ia3.`)
  if (init_weights_seed !== null && !(Number.isInteger(init_weights_seed) && init_weights_seed >= 0))
    problems.push(`init_weights_seed is ${init_weights_seed}; it must be a whole number of at least 0.`)
  if (!leave_out.every((layer) => Number.isInteger(layer) && layer >= 0))
    problems.push('leave_out must list layers by number, from 0.')
  if (composition_mode === 'scale') problems.push(...scaleProblems(config))
  else if (composition_mode !== 'add')
    problems.push(`composition_mode is “${String(composition_mode)}”; it may be add or scale.`)
  return [...problems, ...placeProblems(config, base)]
}

function scaleProblems({ r, dropout, use_dora }: LoRAConfig): string[] {
  const problems: string[] = []
  if (r > 1) problems.push(`composition_mode scale ((IA)³) needs r = 1, but r is ${r}.`)
  if (dropout > 0) problems.push(`composition_mode scale ((IA)³) has no dropout, but dropout is ${dropout}.`)
  if (use_dora) problems.push('use_dora needs composition_mode add; DoRA and (IA)³ do not go together.')
  return problems
}

function placeProblems(
  { attn_matrices, selfattn_lora, intermediate_lora, output_lora, leave_out }: LoRAConfig,
  base: RobertaConfig | null,
): string[] {
  const unknown = attn_matrices.find((matrix) => !['q', 'k', 'v'].includes(matrix))
  if (unknown !== undefined) return [`attn_matrices names ${unknown}; it may name q, k and v.`]
  if (!(selfattn_lora && attn_matrices.length > 0) && !intermediate_lora && !output_lora)
    return ['LoRA changes no matrix; choose at least one of q, k, v, intermediate_lora, output_lora.']
  if (base && Array.from({ length: base.num_hidden_layers }, (_, l) => l).every((l) => leave_out.includes(l)))
    return [`leave_out names all ${base.num_hidden_layers} layers, so LoRA changes nothing.`]
  return []
}
