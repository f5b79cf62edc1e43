/**
 * Texts to blocks of one length, as transformers' run_mlm.py does without --line_by_line: whole texts with their special
 * tokens, one after another, cut into blocks; what is left at the end is no block and is dropped.
 */
import type { Encoded } from './batches.ts'
import type { Example } from './dataset.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface PackingArguments {
  /** Tokens in a block. */
  block_size: number
  /**
   * Texts that are joined before they are cut, each time dropping the rest: 1000 in the script, which maps over its
   * data in groups of that many. null: all texts, so that only one rest is dropped.
   */
  texts_at_once: number | null
}

/** Rows of ids -> blocks of `block_size` ids in the same order, and how many ids were left over. */
export function pack(
  input_ids: Int32Array[],
  { block_size, texts_at_once }: PackingArguments,
): { blocks: Int32Array[]; dropped: number } {
  if (!(Number.isInteger(block_size) && block_size >= 1))
    throw new Error(`the block size is ${block_size}; it must be a whole number of at least 1`)
  const step = texts_at_once ?? Math.max(input_ids.length, 1)
  if (!(Number.isInteger(step) && step >= 1))
    throw new Error(`texts are joined ${step} at a time; it must be a whole number of at least 1`)
  const blocks: Int32Array[] = []
  let dropped = 0
  for (let i = 0; i < input_ids.length; i += step) {
    const joined = join(input_ids.slice(i, i + step))
    const whole = joined.length - (joined.length % block_size)
    for (let start = 0; start < whole; start += block_size)
      blocks.push(joined.slice(start, start + block_size))
    dropped += joined.length - whole
  }
  return { blocks, dropped }
}

/**
 * Examples as blocks for a masked-LM head. Throws when there are too few tokens for a single block.
 */
export function encodeBlocks(
  examples: Example[],
  tokenizer: Tokenizer,
  args: PackingArguments,
): Encoded & { dropped: number } {
  const rows = examples.map((row) => Int32Array.from(tokenizer.encode(row.text, row.text_pair, Infinity)))
  const { blocks, dropped } = pack(rows, args)
  if (blocks.length === 0)
    throw new Error(
      `the texts have ${dropped} tokens together, which fill no block of ${args.block_size}; choose shorter blocks or add texts`,
    )
  return { input_ids: blocks, labels: new Int32Array(blocks.length), dropped }
}

function join(rows: Int32Array[]): Int32Array {
  const joined = new Int32Array(rows.reduce((sum, row) => sum + row.length, 0))
  let at = 0
  for (const row of rows) {
    joined.set(row, at)
    at += row.length
  }
  return joined
}
