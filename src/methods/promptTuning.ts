/**
 * Prompt tuning (Lester et al. 2021) as `adapters` has it: learned rows among the embedded text, after the embeddings'
 * LayerNorm, without positions or dropout of their own. A head that reads token 0 reads the first prompt, unless the
 * prompts stand after `<s>`.
 */
import type { Tensor3D } from '@tensorflow/tfjs-core'
import type { AdapterSetup, PromptTuningConfig, RobertaConfig, TensorMap } from '../config.ts'
import type { Matrix } from '../model/ops.ts'
import { normal } from './draws.ts'
import { refuseLeftPadding } from './leftPadding.ts'
import type { Field, Method, Parameter, Start, Walk } from './method.ts'

/** `PromptTuningConfig()` of the library. */
export const promptTuningConfig: PromptTuningConfig = {
  architecture: 'prompt_tuning',
  prompt_length: 10,
  prompt_init: 'random_uniform',
  prompt_init_text: null,
  combine: 'prefix',
  init_weights_seed: null,
}

/** Random prompts are drawn from ± this; the library has it as a constant of the class. */
const random_uniform_scale = 0.5

const fields: Field[] = [
  {
    key: 'prompt_length',
    kind: 'integer',
    label: 'Prompt length',
    help: 'How many learned tokens stand among the text’s.',
    min: 1,
    first: true,
  },
  {
    key: 'prompt_init',
    kind: 'choice',
    label: 'Start from',
    help: 'Random numbers, or the word embeddings of a text.',
    choices: ['random_uniform', 'from_string'],
    first: true,
  },
  {
    key: 'prompt_init_text',
    kind: 'text',
    label: 'Text to start from',
    help: 'Its tokens, <s> and </s> among them, are repeated until the prompt is full.',
    first: true,
  },
  {
    key: 'combine',
    kind: 'choice',
    label: 'Place',
    help: 'In front of everything, or after <s>, which a classification head then still reads.',
    choices: ['prefix', 'prefix_after_bos'],
    first: true,
  },
  {
    key: 'init_weights_seed',
    kind: 'integer',
    label: 'Own seed',
    help: 'Draw the prompt from this seed instead of the run’s; 0 counts as none.',
  },
]

export const promptTuning: Method<PromptTuningConfig> = {
  architecture: 'prompt_tuning',
  defaults: promptTuningConfig,
  fields,
  problems,
  parameters,
  initialise,
  embeddings,
}

function problems(config: PromptTuningConfig): string[] {
  const { prompt_length, prompt_init, prompt_init_text, combine } = config
  const found: string[] = []
  if (!(Number.isInteger(prompt_length) && prompt_length >= 1))
    found.push(`prompt_length is ${prompt_length}; it must be a whole number of at least 1.`)
  if (prompt_init !== 'random_uniform' && prompt_init !== 'from_string')
    found.push(`prompt_init is “${String(prompt_init)}”; it must be random_uniform or from_string.`)
  if (prompt_init === 'from_string' && prompt_init_text === null)
    found.push('prompt_init is from_string, so prompt_init_text must hold the text to start from.')
  if (combine !== 'prefix' && combine !== 'prefix_after_bos')
    found.push(`combine is “${String(combine)}”; it must be prefix or prefix_after_bos.`)
  return found
}

function promptKey(name: string): string {
  return `roberta.prompt_tuning.prompt_tunings.${name}.prompt_embedding.weight`
}

function parameters(
  { hidden_size }: RobertaConfig,
  { prompt_length }: PromptTuningConfig,
  name: string,
): Parameter[] {
  return [{ key: promptKey(name), shape: [prompt_length, hidden_size] }]
}

/**
 * An embedding's own N(0, 1) is drawn and thrown away; then U(±0.5), or the word embeddings of a text with its `<s>` and
 * `</s>`, repeated and cut to the prompt's length.
 */
async function initialise(start: Start, config: PromptTuningConfig, name: string): Promise<TensorMap> {
  const { generator, base } = start
  const { prompt_length: P, prompt_init, prompt_init_text, init_weights_seed } = config
  const shape = [P, base.hidden_size]
  normal(generator, shape, 1)
  if (init_weights_seed) generator.manual_seed(init_weights_seed)
  if (prompt_init === 'random_uniform') {
    const data = generator.uniform(P * base.hidden_size, -random_uniform_scale, random_uniform_scale)
    return new Map([[promptKey(name), { shape, data }]])
  }
  if (prompt_init_text === null)
    throw new Error('prompt_init is from_string, so prompt_init_text must hold the text to start from.')
  const ids = [base.bos_token_id, ...start.tokens(prompt_init_text), base.eos_token_id]
  const words = await start.weight('roberta.embeddings.word_embeddings.weight')
  const data = new Float32Array(P * base.hidden_size)
  for (let i = 0; i < P; i++) {
    const from = ids[i % ids.length]! * base.hidden_size
    data.set(words.subarray(from, from + base.hidden_size), i * base.hidden_size)
  }
  return new Map([[promptKey(name), { shape, data }]])
}

/**
 * x [B·S,H] -> [B·(P+S),H] with the first active adapter's prompt in every row. In both places the first P keys are seen by
 * all; and when a batch is padded, the first P queries see its padding too, as torch's attention has it there.
 */
function embeddings(walk: Walk, x: Matrix): Matrix {
  const name = walk.setup === null ? null : firstOf(walk.setup)
  const config = name === null ? null : walk.config(promptTuning, name)
  if (name === null || config === null) return x
  refuseLeftPadding(walk, 'prompt tuning')
  const { ops, B, S } = walk
  const P = config.prompt_length
  const H = walk.base.hidden_size
  const rows = ops.reshape<Tensor3D>(x, [B, S, H])
  const prompt = ops.reshape<Tensor3D>(walk.parameter(promptKey(name)), [1, P, H])
  const prompts = ops.repeat(prompt, B)
  const parts =
    config.combine === 'prefix'
      ? [prompts, rows]
      : [ops.slice(rows, 1, 0, 1), prompts, ...(S > 1 ? [ops.slice(rows, 1, 1, S - 1)] : [])]
  if (walk.lengths.some((length) => length < S)) walk.padding = ops.promptPadding(walk.padding, S, P)
  walk.S = P + S
  return ops.reshape(ops.concat(parts, 1), [B * (P + S), H])
}

/** The first adapter of a setup, the only one whose prompt is used. */
function firstOf(setup: AdapterSetup): string {
  return typeof setup === 'string' ? setup : firstOf(setup.children[0]!)
}
