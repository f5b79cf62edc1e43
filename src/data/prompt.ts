/**
 * Classification without a head: the text stands in a template with one `<mask>`, and each class is a word that may
 * stand there, which the masked-LM head judges (Schick & Schütze 2021; with prompt tuning, Lester et al. 2021).
 */
import type { Encoded } from './batches.ts'
import type { Example } from './dataset.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface PromptTask {
  /** With `{text}`, `{text_pair}` where there are pairs, and one `<mask>`. */
  template: string
  /**
   * The word of each class, in their order: the loss is the negative log-likelihood among these words. Of two words
   * this is the binary loss on the difference of their logits. A single word is that of class 1: the binary loss on its
   * logit alone.
   */
  label_words: string[]
}

const mask = '<mask>'

/** What is wrong with a task for these classes and this tokenizer, one sentence each; empty when nothing is. */
export function promptProblems(
  { template, label_words }: PromptTask,
  classes: number,
  tokenizer: Tokenizer,
): string[] {
  const problems: string[] = []
  const count = (part: string) => template.split(part).length - 1
  if (count('{text}') !== 1) problems.push('The template must hold {text} once, where the text is to stand.')
  if (count('{text_pair}') > 1) problems.push('The template holds {text_pair} more than once.')
  if (count(mask) !== 1)
    problems.push('The template must hold <mask> once, where the label word is to stand.')
  if (tokenizer.mask_token_id === null)
    problems.push('The tokenizer has no <mask> token, so label words need another base model.')
  if (label_words.length !== classes && !(classes === 2 && label_words.length === 1))
    problems.push(
      `There are ${classes} classes but ${label_words.length} label words; give one word for each class.`,
    )
  const ids = label_words.map((word) => tokenizer.pieces(` ${word.trim()}`))
  label_words.forEach((word, i) => {
    if (word.trim() === '') problems.push(`Label word ${i + 1} is empty.`)
    else if (ids[i]!.length !== 1)
      problems.push(
        `The label word “${word}” is ${ids[i]!.length} tokens in this vocabulary, but <mask> stands for one; choose another word.`,
      )
    else if (ids.findIndex(([id]) => id === ids[i]![0]) < i)
      problems.push(`The label word “${word}” stands for two classes.`)
  })
  return problems
}

/** The token of each label word, as it follows a space. */
export function labelWordIds(task: PromptTask, tokenizer: Tokenizer): Int32Array {
  return Int32Array.from(task.label_words, (word) => tokenizer.pieces(` ${word.trim()}`)[0]!)
}

/**
 * Examples in their template. One that is longer than max_length loses the end of its text (of a pair, of the longer
 * one), never of the template. Throws the first of `promptProblems`, or when the template alone is too long.
 */
export function encodePrompt(
  examples: Example[],
  tokenizer: Tokenizer,
  max_length: number,
  task: PromptTask,
  classes: number,
): Encoded {
  const [problem] = promptProblems(task, classes, tokenizer)
  if (problem) throw new Error(problem)
  const rows = examples.map((row) => fill(row, tokenizer, max_length, task.template))
  return {
    input_ids: rows,
    labels: Int32Array.from(examples, ({ label }) => label),
    targets: {
      kind: 'label_words',
      positions: Int32Array.from(rows, (ids) => ids.indexOf(tokenizer.mask_token_id!)),
      words: labelWordIds(task, tokenizer),
    },
  }
}

function fill(row: Example, tokenizer: Tokenizer, max_length: number, template: string): Int32Array {
  // A text that spells the mask would be read as one.
  const plain = (text: string) => text.replaceAll(mask, 'mask')
  const texts = { '{text}': plain(row.text), '{text_pair}': plain(row.text_pair ?? '') }
  const parts = template.split(/(\{text\}|\{text_pair\})/)
  const whole = tokenizer.encode(
    parts.map((part) => (isSlot(part) ? texts[part] : part)).join(''),
    null,
    Infinity,
  )
  return Int32Array.from(whole.length <= max_length ? whole : shorten(parts, texts, tokenizer, max_length))
}

type Slot = '{text}' | '{text_pair}'
const isSlot = (part: string): part is Slot => part === '{text}' || part === '{text_pair}'

/** The template in pieces, its texts cut so that all fits. */
function shorten(
  parts: string[],
  texts: Record<Slot, string>,
  tokenizer: Tokenizer,
  max_length: number,
): number[] {
  const frame = tokenizer.encode('', null, Infinity)
  const before = frame.slice(0, frame.length / 2)
  const pieces = parts.map((part, i) => {
    // The space before a text belongs to its first word.
    if (isSlot(part)) return tokenizer.pieces((parts[i - 1]?.endsWith(' ') ? ' ' : '') + texts[part])
    return tokenizer.pieces(isSlot(parts[i + 1] ?? '') ? part.replace(/ $/, '') : part)
  })
  const fixed = pieces.reduce((sum, ids, i) => sum + (isSlot(parts[i]!) ? 0 : ids.length), frame.length)
  if (fixed >= max_length)
    throw new Error(
      `the template alone is ${fixed} tokens, which leaves no room for a text in a max_length of ${max_length}; shorten one or raise the other`,
    )
  let over = pieces.reduce((sum, ids) => sum + ids.length, frame.length) - max_length
  const slots = pieces.filter((_, i) => isSlot(parts[i]!))
  for (; over > 0; over--) slots.reduce((longest, ids) => (ids.length > longest.length ? ids : longest)).pop()
  return [...before, ...pieces.flat(), ...frame.slice(before.length)]
}
