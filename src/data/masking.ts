/**
 * Words hidden for masked-LM training, draw for draw as transformers' DataCollatorForLanguageModeling does after
 * `torch.manual_seed`: the batches of an epoch are masked one after another by one generator.
 */
import { TorchGenerator } from '../random.ts'
import { evalBatches, trainBatches, type Batch, type Encoded, type TrainBatchArguments } from './batches.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface MaskingArguments {
  /** Share of the text's tokens that are hidden. */
  mlm_probability: number
  /** Of these, the share that `<mask>` stands for, and the share that a random token does; the rest stay. */
  mask_replace_prob: number
  random_replace_prob: number
}

export const maskingDefaults: MaskingArguments = {
  mlm_probability: 0.15,
  mask_replace_prob: 0.8,
  random_replace_prob: 0.1,
}

/** What masking must know of the vocabulary. */
export type MaskVocabulary = Pick<Tokenizer, 'mask_token_id' | 'special_ids' | 'vocab_size'>

/** What is wrong with masking arguments for this vocabulary, one sentence each; empty when nothing is. */
export function maskingProblems(args: MaskingArguments, { mask_token_id }: MaskVocabulary): string[] {
  const problems: string[] = []
  const { mlm_probability, mask_replace_prob, random_replace_prob } = args
  if (!(mlm_probability > 0 && mlm_probability <= 1))
    problems.push(`mlm_probability is ${mlm_probability}; it must be above 0 and at most 1.`)
  for (const key of ['mask_replace_prob', 'random_replace_prob'] as const)
    if (!(args[key] >= 0 && args[key] <= 1))
      problems.push(`${key} is ${args[key]}; it must be between 0 and 1.`)
  if (mask_replace_prob + random_replace_prob > 1 + 1e-9)
    problems.push('mask_replace_prob and random_replace_prob add up to more than 1.')
  if (mask_token_id === null)
    problems.push(
      'The tokenizer has no <mask> token, so no word can be hidden; masked-LM needs another base model.',
    )
  return problems
}

/** One epoch's batches (`trainBatches`), masked by a generator of their own from seed and epoch. */
export function maskedTrainBatches(
  encoded: Encoded,
  args: TrainBatchArguments,
  vocabulary: MaskVocabulary,
  masking: MaskingArguments = maskingDefaults,
): Batch[] {
  const generator = new TorchGenerator(epochSeed(args.seed, args.epoch))
  return trainBatches(encoded, args).map((batch) => maskBatch(batch, generator, vocabulary, masking))
}

/** Batches for evaluation (`evalBatches`), masked alike every time that the seed is the same. */
export function maskedEvalBatches(
  encoded: Encoded,
  batch_size: number,
  pad_token_id: number,
  seed: number,
  vocabulary: MaskVocabulary,
  masking: MaskingArguments = maskingDefaults,
): Batch[] {
  const generator = new TorchGenerator(seed)
  const batches = evalBatches(encoded, batch_size, pad_token_id)
  return batches.map((batch) => maskBatch(batch, generator, vocabulary, masking))
}

/** The seed under which Python repeats an epoch's masks; evaluation has the run's seed itself. */
export function epochSeed(seed: number, epoch: number): number {
  return (seed + 1_000_003 * (epoch + 1)) >>> 0
}

/**
 * A batch with words hidden, and what they were. Special tokens and padding are never chosen. Where the draw hides
 * nothing, which Python answers with a loss that is not a number, the token whose draw was lowest is hidden. Throws
 * when a batch has no token to hide, or the vocabulary no `<mask>`.
 */
export function maskBatch(
  batch: Batch,
  generator: TorchGenerator,
  { mask_token_id, special_ids, vocab_size }: MaskVocabulary,
  { mlm_probability, mask_replace_prob, random_replace_prob }: MaskingArguments,
): Batch {
  if (mask_token_id === null) throw new Error('The tokenizer has no <mask> token, so no word can be hidden.')
  const { input_ids, attention_mask } = batch
  const n = input_ids.length
  const isText = (i: number) => attention_mask[i] === 1 && !special_ids.has(input_ids[i]!)
  const chosen = choose(generator.uniform(n), Math.fround(mlm_probability), isText)
  const masked = generator.uniform(n).map((u) => (u < Math.fround(mask_replace_prob) ? 1 : 0))
  const hidden = input_ids.slice()
  for (const i of chosen) if (masked[i]) hidden[i] = mask_token_id
  if (mask_replace_prob !== 1 && random_replace_prob !== 0) {
    const share = Math.fround(random_replace_prob / (1 - mask_replace_prob))
    const random = generator.uniform(n).map((u) => (u < share ? 1 : 0))
    const words = Int32Array.from({ length: n }, () => generator.next32() % vocab_size)
    for (const i of chosen) if (!masked[i] && random[i]) hidden[i] = words[i]!
  }
  const positions = Int32Array.from(chosen)
  const ids = positions.map((i) => input_ids[i]!)
  return { ...batch, input_ids: hidden, targets: { kind: 'masked_lm', positions, ids } }
}

/** Positions of text whose draw is below `share`; the lowest draw's where none is. */
function choose(draws: Float32Array, share: number, isText: (i: number) => boolean): number[] {
  const text = Array.from(draws.keys()).filter(isText)
  const chosen = text.filter((i) => draws[i]! < share)
  if (chosen.length > 0) return chosen
  if (text.length === 0)
    throw new Error(
      'A batch has no token that could be hidden, only special ones; leave out texts without words.',
    )
  return [text.reduce((lowest, i) => (draws[i]! < draws[lowest]! ? i : lowest))]
}

/** One epoch of training batches, with words hidden where the rows ask for it. */
export function epochBatches(encoded: Encoded, args: TrainBatchArguments): Batch[] {
  const { masking } = encoded
  if (!masking) return trainBatches(encoded, args)
  return maskedTrainBatches(encoded, args, masking.vocabulary, masking)
}

/** Batches for evaluation, with the same words hidden every time where the rows ask for it. */
export function judgedBatches(encoded: Encoded, batch_size: number, pad_token_id: number): Batch[] {
  const { masking } = encoded
  if (!masking) return evalBatches(encoded, batch_size, pad_token_id)
  return maskedEvalBatches(encoded, batch_size, pad_token_id, masking.seed, masking.vocabulary, masking)
}
