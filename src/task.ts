/**
 * What a run is asked to learn, from the data's task and the page's options: which head answers, how rows are encoded,
 * and what a fresh head starts from.
 */
import type { Base } from './base.ts'
import {
  classificationHead,
  type HeadConfig,
  type HeadOptions,
  type RobertaConfig,
  type TensorMap,
} from './config.ts'
import { encode, type Encoded } from './data/batches.ts'
import type { Dataset, Example } from './data/dataset.ts'
import { maskingDefaults, maskingProblems } from './data/masking.ts'
import { encodeBlocks } from './data/packing.ts'
import { encodePrompt, type PromptTask } from './data/prompt.ts'
import { openSafetensors } from './io/safetensors.ts'
import { maskedLMHead, pretrainedHead } from './model/heads/maskedLM.ts'
import type { LabelWordsOptions, MaskedLMOptions } from './protocol.ts'
import type { TrainingArguments } from './trainingArguments.ts'

/** What the page may say besides the data; both null: a head that the data's labels ask for. */
export interface TaskOptions {
  masked_lm: MaskedLMOptions | null
  label_words: LabelWordsOptions | null
}

export const plainTask: TaskOptions = { masked_lm: null, label_words: null }

/** What a command says of it. */
export function taskOf({ masked_lm, label_words }: Partial<TaskOptions>): TaskOptions {
  return { masked_lm: masked_lm ?? null, label_words: label_words ?? null }
}

/** 15 % hidden, texts joined into blocks a thousand at a time, the pretrained head. */
const maskedDefaults: MaskedLMOptions = {
  ...maskingDefaults,
  packing: { texts_at_once: 1000 },
  fresh_head: false,
}

/** The head for a data set: of classes, several labels, a number, or the words of the language. */
export function headFor(
  config: RobertaConfig,
  { task = 'classes', id2label }: Pick<Dataset, 'task' | 'id2label'>,
  head: Partial<HeadOptions> | undefined,
  { label_words }: TaskOptions,
): HeadConfig {
  if (task === 'masked_lm' || label_words) return maskedLMHead(config)
  const plain = { ...classificationHead(task === 'regression' ? 1 : id2label.length), ...head }
  return task === 'multilabel' ? { ...plain, head_type: 'multilabel_classification' } : plain
}

/** Rows of a split as the head reads them. Throws one sentence when texts and options do not fit. */
export function encodeFor(
  { tokenizer }: Base,
  { task = 'classes', id2label }: Pick<Dataset, 'task' | 'id2label'>,
  rows: Example[],
  args: TrainingArguments,
  { masked_lm, label_words }: TaskOptions,
): Encoded {
  if (rows.length === 0) return { input_ids: [], labels: new Int32Array(0) }
  if (label_words)
    return encodePrompt(rows, tokenizer, args.max_length, promptOf(label_words), id2label.length)
  if (task !== 'masked_lm') return encode(rows, tokenizer, args.max_length)
  const { packing, fresh_head: _fresh, ...masking } = masked_lm ?? maskedDefaults
  const [problem] = maskingProblems(masking, tokenizer)
  if (problem !== undefined) throw new Error(problem)
  const encoded = packing
    ? encodeBlocks(rows, tokenizer, { block_size: args.max_length, ...packing })
    : encode(rows, tokenizer, args.max_length)
  return { ...encoded, masking: { ...masking, seed: args.seed, vocabulary: tokenizer } }
}

/** The labels that a head's files carry: an LM head has none of its own, whatever its words stand for in a prompt. */
export function labelsOf({
  own,
  dataset,
}: {
  own: { head: HeadConfig }
  dataset: Pick<Dataset, 'id2label'>
}): string[] {
  return own.head.head_type === 'masked_lm' ? [] : dataset.id2label
}

/** Label words as data/prompt.ts takes them. */
export function promptOf({ template, words }: LabelWordsOptions): PromptTask {
  return { template, label_words: words }
}

/**
 * The base's own masked-LM head under the name `name`, where the task uses one; empty otherwise, and for a fresh head.
 * Throws when the base's file has none.
 */
export async function givenHead(
  { config, folder }: Base,
  head: HeadConfig,
  name: string,
  { masked_lm }: TaskOptions,
): Promise<TensorMap> {
  if (head.head_type !== 'masked_lm' || masked_lm?.fresh_head) return new Map()
  const tensors = await pretrainedHead(config, await openSafetensors(folder.weights), name)
  if (tensors) return tensors
  throw new Error(
    'This base model has no masked-LM head in its file (lm_head); choose a fresh head, which must be trained first.',
  )
}
