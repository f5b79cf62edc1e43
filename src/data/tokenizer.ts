/**
 * RoBERTa's byte-level BPE as `RobertaTokenizerFast` does it, on top of @huggingface/tokenizers: the library reads
 * tokenizer.json and does the merges; here are truncation, which it lacks, Unicode's notion of white space where
 * JavaScript's differs, and a memory of words already merged, which makes a large file several times faster.
 */
import { ByteLevelPreTokenizer, Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'

export interface Tokenizer {
  /**
   * `tokenizer(text, text_pair, truncation=True, max_length=max_length)["input_ids"]`: special tokens included, pairs
   * cut longest first. Throws when max_length leaves no room for the special tokens.
   */
  encode(text: string, text_pair: string | null, max_length: number): number[]
  /** The number of ids without truncation, special tokens included. */
  lengthOf(text: string, text_pair: string | null): number
  /** The ids of a text alone, without special tokens. */
  pieces(text: string): number[]
  /** One more than the largest id. */
  vocab_size: number
  pad_token_id: number
  /** `<mask>`, or null where the vocabulary has none. */
  mask_token_id: number | null
  /** `all_special_ids`: tokens that are no text, `<mask>` and `<unk>` among them. */
  special_ids: ReadonlySet<number>
}

/** GPT-2's split with `\s` as Unicode's White_Space, which has U+0085 and lacks U+FEFF; JavaScript's is the reverse. */
const space = '\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const wordPattern = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${space}\\p{L}\\p{N}]+|[${space}]+(?![^${space}])|[${space}]+`,
  'gu',
)

/** Words remembered before the memory is emptied: a few MB, and far more than a review set's usual words. */
const MAX_WORDS = 100_000

/**
 * The tokenizer of a model folder. `tokenizerConfigJson` is tokenizer_config.json where there is one; only its
 * special-token names matter.
 * Throws when either text is not JSON of that kind, or names a pad token that has no id.
 */
export function loadTokenizer(tokenizerJson: string, tokenizerConfigJson: string | null): Tokenizer {
  const config = parseObject(tokenizerConfigJson ?? '{}', 'tokenizer_config.json')
  const library = openLibrary(parseObject(tokenizerJson, 'tokenizer.json'), config)
  const textIds = textEncoder(library)
  const single = frame(library, null)
  const pair = frame(library, [])

  return {
    encode(text, text_pair, max_length) {
      const first = textIds(text)
      if (text_pair === null) {
        const room = roomFor(max_length, single.specials)
        return [...single.before, ...first.slice(0, room), ...single.after]
      }
      const second = textIds(text_pair)
      const [keepFirst, keepSecond] = longestFirst(
        first.length,
        second.length,
        roomFor(max_length, pair.specials),
      )
      const ids = [...pair.before, ...first.slice(0, keepFirst), ...pair.between]
      return [...ids, ...second.slice(0, keepSecond), ...pair.after]
    },
    pieces: textIds,
    lengthOf(text, text_pair) {
      if (text_pair === null) return textIds(text).length + single.specials
      return textIds(text).length + textIds(text_pair).length + pair.specials
    },
    vocab_size: vocabSize(library),
    pad_token_id: padTokenId(library, config),
    mask_token_id: library.token_to_id(nameOf(config.mask_token, '<mask>')) ?? null,
    special_ids: specialIds(library),
  }
}

function openLibrary(tokenizer: object, config: object): LibraryTokenizer {
  try {
    return new LibraryTokenizer(tokenizer, config)
  } catch (error) {
    throw new Error(`tokenizer.json is not a tokenizer that can be read: ${sentence(error)}`, {
      cause: error,
    })
  }
}

/** Text to ids without special tokens around it. Text such as `<mask>` becomes its special id, as in Python. */
function textEncoder(library: LibraryTokenizer): (text: string) => number[] {
  const slow = (text: string) => library.encode(text, { add_special_tokens: false }).ids
  const splitter = library.pre_tokenizer
  const plain = splitter instanceof ByteLevelPreTokenizer && splitter.use_regex && !library.normalizer
  if (!plain) return slow
  splitter.pattern = wordPattern
  if (splitter.add_prefix_space) return slow

  const added = [...library.get_added_tokens_decoder().values()].map((token) => token.content)
  const words = new Map<string, number[]>()
  return (text) => {
    if (added.some((token) => text.includes(token))) return slow(text)
    const ids: number[] = []
    for (const word of text.match(wordPattern) ?? []) {
      let known = words.get(word)
      if (!known) {
        if (words.size >= MAX_WORDS) words.clear()
        known = slow(word)
        words.set(word, known)
      }
      for (const id of known) ids.push(id)
    }
    return ids
  }
}

/** The special tokens around and between texts, found by letting the post-processor wrap marker tokens. */
function frame(library: LibraryTokenizer, pair: [] | null) {
  const wrap = library.post_processor
  const [first, second] = ['\u0000first', '\u0000second']
  const tokens = wrap
    ? wrap.post_process([first], pair && [second], true).tokens
    : pair
      ? [first, second]
      : [first]
  const ids = (part: string[]) => part.map((token) => library.token_to_id(token) ?? missing(token))
  const start = tokens.indexOf(first)
  const end = pair ? tokens.indexOf(second) : start
  return {
    before: ids(tokens.slice(0, start)),
    between: ids(tokens.slice(start + 1, end)),
    after: ids(tokens.slice(end + 1)),
    specials: tokens.length - (pair ? 2 : 1),
  }
}

function missing(token: string): never {
  throw new Error(`tokenizer.json wraps texts in "${token}", which is not in its vocabulary`)
}

function roomFor(max_length: number, specials: number): number {
  if (max_length >= specials) return max_length - specials
  throw new Error(`max_length ${max_length} leaves no room for the ${specials} special tokens; raise it`)
}

/** Tokens kept of each text, as `truncate_encodings` of the Rust library with `LongestFirst` has it. */
function longestFirst(first: number, second: number, room: number): [number, number] {
  if (first + second <= room) return [first, second]
  const shorter = Math.min(first, second)
  let a = shorter
  let b = shorter > room ? shorter : Math.max(shorter, room - shorter)
  if (a + b > room) {
    a = Math.floor(room / 2)
    b = a + (room % 2)
  }
  return first > second ? [b, a] : [a, b]
}

function vocabSize(library: LibraryTokenizer): number {
  let largest = -1
  for (const id of library.get_vocab(true).values()) largest = Math.max(largest, id)
  return largest + 1
}

function specialIds(library: LibraryTokenizer): Set<number> {
  const added = [...library.get_added_tokens_decoder().values()]
  return new Set(added.filter(({ special }) => special).map(({ id }) => id))
}

/** A token as tokenizer_config.json names it: plainly, or as an object with its text. */
function nameOf(named: unknown, otherwise: string): string {
  return typeof named === 'string' ? named : isObject(named) ? String(named.content) : otherwise
}

function padTokenId(library: LibraryTokenizer, config: Record<string, unknown>): number {
  const token = nameOf(config.pad_token, '<pad>')
  const id = library.token_to_id(token)
  if (id === undefined) throw new Error(`tokenizer.json has no padding token "${token}"`)
  return id
}

function parseObject(json: string, name: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch (error) {
    throw new Error(`${name} is not JSON: ${sentence(error)}`, { cause: error })
  }
  if (!isObject(value)) throw new Error(`${name} does not hold a JSON object`)
  return value
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const sentence = (error: unknown) => (error instanceof Error ? error.message : String(error))
