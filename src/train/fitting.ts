/**
 * Whether a run fits the device, and which change of its arguments makes it fit: each one that is offered has been tried
 * on paper first. A part of a step that one program must see as a whole is bounded by the device's own limits; the memory
 * in all is bounded by what the user says that there is, since WebGPU does not tell.
 */
import type { ModelSetup } from '../config.ts'
import type { Encoded } from '../data/batches.ts'
import type { MaskingArguments } from '../data/masking.ts'
import { openedDevice } from '../kernels/backend.ts'
import { bytesInWords } from '../methods/memory.ts'
import { cuttable } from '../methods/padding.ts'
import type { Roberta } from '../model/roberta.ts'
import { rowsAtOnce, type TrainingArguments } from '../trainingArguments.ts'
import { needOf, type Need, type Sizes } from './need.ts'

/** A change with which the run fits, and the bytes that it takes then. */
export interface Remedy {
  change: Partial<TrainingArguments>
  total: number
}

export interface Fit {
  need: Need
  /** Why the run does not fit, in one sentence; null when it does. */
  problem: string | null
  /** The mildest first; empty when it fits, or when nothing that can be changed here helps. */
  remedies: Remedy[]
}

/** More than this few devices have: where nobody knows how much there is, it alone is said. */
const fewHave = 16e9

/**
 * Whether a run of `sizes`, which takes `need`, fits `available` bytes (null: nobody knows), and where it does not, what
 * would.
 */
export function fitOf(
  roberta: Roberta,
  sizes: Sizes,
  available: number | null,
  need = needOf(roberta, sizes).need,
): Fit {
  const problem = problemOf(need, available)
  return { need, problem, remedies: problem === null ? [] : remediesOf(roberta, sizes, available) }
}

/**
 * Throws, on WebGPU, when a program would have to see more at once than this device lets it: with a batch that fits.
 * `random`: AdapterDrop draws its layers.
 */
export function refuseOversize(
  roberta: Roberta,
  setup: ModelSetup,
  train: Encoded,
  args: TrainingArguments,
  random = false,
): void {
  if (openedDevice().backend !== 'webgpu') return
  const { problem, remedies } = fitOf(roberta, sizesOf(setup, train, args, random), Infinity)
  if (problem === null) return
  const [first] = remedies
  const advice = first
    ? `it fits with ${changeText(first.change)}`
    : 'lower max_length, or train fewer values'
  throw new Error(`${problem} Nothing was begun: ${advice}.`)
}

/** The sizes of a run whose rows are known. */
export function sizesOf(
  setup: ModelSetup,
  { input_ids, masking, targets }: Encoded,
  args: TrainingArguments,
  random: boolean,
): Sizes {
  const longest = input_ids.reduce((most, { length }) => Math.max(most, length), 1)
  const words = targets?.kind === 'label_words' ? { label_words: targets.words.length } : null
  const tokens = input_ids.reduce((sum, { length }) => sum + length, 0)
  const texts = { count: input_ids.length, tokens }
  return { setup, args, lengths: [longest], hidden: masking ?? words, random, texts }
}

/**
 * The same before anything is encoded: `lengths` are tokens of every row, those of the test last; null where no data is
 * open. Batches of a middling length stand beside the longest, since the pool keeps a little of each.
 */
export function plannedSizes(
  setup: ModelSetup,
  args: TrainingArguments,
  {
    masked_lm,
    label_words,
  }: { masked_lm: (MaskingArguments & { packing: unknown }) | null; label_words: { words: string[] } | null },
  mapped: { lengths: Int32Array; dataset: { test: unknown[] } } | null,
  random = false,
): Sizes {
  const lengths = mapped?.lengths
  const sorted = (lengths ?? new Int32Array(0)).toSorted()
  const cut = (length: number | undefined) =>
    Math.max(1, Math.min(args.max_length, length ?? args.max_length))
  // A prompt around the text is not in these lengths.
  const whole = label_words !== null || masked_lm?.packing != null || sorted.length === 0
  const longest = whole ? args.max_length : cut(sorted.at(-1))
  const middle = whole ? longest : cut(sorted[sorted.length >> 1])
  const hidden = masked_lm ?? (label_words && { label_words: label_words.words.length })
  const learnt = mapped?.lengths.subarray(0, mapped.lengths.length - mapped.dataset.test.length)
  const tokens = learnt?.reduce((sum, length) => sum + (whole ? longest : cut(length)), 0) ?? 0
  const texts = learnt ? { count: learnt.length, tokens } : null
  return { setup, args, lengths: middle < longest ? [longest, middle] : [longest], hidden, random, texts }
}

/** A change as the arguments name it. */
function changeText(change: Partial<TrainingArguments>): string {
  return Object.entries(change)
    .map(([key, value]) => `${key} ${String(value)}`)
    .join(' and ')
}

function problemOf({ total, largest }: Need, available: number | null): string | null {
  const limit = atOnce()
  if (largest > limit)
    return `One step has a piece of ${bytesInWords(largest)} that a program must see as a whole, and this device lets it see ${bytesInWords(limit)}.`
  const room = available ?? fewHave
  if (total <= room) return null
  const whose = available === null ? 'few devices have more than' : 'you say that the device has'
  return `This run needs about ${bytesInWords(total)}, and ${whose} ${bytesInWords(room)}.`
}

/** Bytes of one buffer that one program can see here. */
function atOnce(): number {
  const { maxBufferSize, maxStorageBufferBindingSize } = openedDevice().limits
  return Math.min(maxBufferSize, maxStorageBufferBindingSize)
}

/**
 * Fewer rows at a time, as parts of the batch or as accumulated batches; layers computed twice; and, where neither is
 * enough, both, with packed activations at last. Evaluation goes down with them where it takes more than training.
 */
function remediesOf(roberta: Roberta, sizes: Sizes, available: number | null): Remedy[] {
  const tried = (change: Partial<TrainingArguments>): Remedy | null => {
    const { need } = needOf(roberta, { ...sizes, args: { ...sizes.args, ...change } })
    return problemOf(need, available) === null ? { change, total: need.total } : null
  }
  const fewer = (more: Partial<TrainingArguments>) => fewerRows(sizes, more, tried)
  const checkpointing = { gradient_checkpointing: true }
  if (!tried(least(sizes))) return []
  const mild = [fewer({}), tried(checkpointing)].filter((one) => one !== null)
  const found =
    mild.length > 0
      ? mild
      : [fewer(checkpointing) ?? fewer({ ...checkpointing, half_precision_activations: true })]
  return found
    .filter((one) => one !== null)
    .flatMap((one) => [one, accumulated(sizes, one, tried)])
    .filter((one) => one !== null)
}

/** All that can be saved at once. */
function least({ setup, args, lengths: [longest] }: Sizes): Partial<TrainingArguments> {
  return {
    gradient_checkpointing: true,
    half_precision_activations: true,
    per_device_eval_batch_size: 1,
    max_tokens_per_batch: cuttable(setup) === 'never' ? args.max_tokens_per_batch : longest,
  }
}

/** The most rows at a time, halving from what it has, with which the run fits; null: not even one row does. */
function fewerRows(
  { setup, args, lengths: [longest] }: Sizes,
  more: Partial<TrainingArguments>,
  tried: (change: Partial<TrainingArguments>) => Remedy | null,
): Remedy | null {
  const cut = cuttable(setup) !== 'never'
  const { per_device_train_batch_size: B, per_device_eval_batch_size: E } = args
  const most = cut ? Math.min(B, rowsAtOnce(args.max_tokens_per_batch, longest)) : B
  for (let rows = most; rows >= 1; rows = Math.floor(rows / 2)) {
    const parts = cut && rows < most ? { max_tokens_per_batch: rows * longest } : {}
    const change = { ...more, ...parts }
    const found = Object.keys(change).length > 0 ? tried(change) : null
    if (found) return found
    let smaller: Remedy | null = null
    for (let evaluated = rows; evaluated < E; evaluated *= 2) {
      const next = tried({ ...change, per_device_eval_batch_size: evaluated })
      if (!next) break
      smaller = next
    }
    if (smaller) return smaller
    if (!cut) return null
  }
  return null
}

/** The same memory by smaller batches, of which a step takes more; null where the rows cannot be shared out evenly. */
function accumulated(
  { args, lengths: [longest] }: Sizes,
  { change: { max_tokens_per_batch, ...rest } }: Remedy,
  tried: (change: Partial<TrainingArguments>) => Remedy | null,
): Remedy | null {
  const { per_device_train_batch_size: B, gradient_accumulation_steps: k } = args
  if (max_tokens_per_batch === undefined) return null
  const rows = rowsAtOnce(max_tokens_per_batch, longest)
  if (B % rows !== 0) return null
  return tried({ ...rest, per_device_train_batch_size: rows, gradient_accumulation_steps: (k * B) / rows })
}
