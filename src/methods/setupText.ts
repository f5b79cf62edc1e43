/**
 * Compositions as they are written in Python with `adapters.composition`: `Stack("a", Fuse("b", "c"))`. The page and
 * the command line read and show them in this form. Names may go without quotes; `ac.Stack` is taken for `Stack`.
 */
import type { AdapterSetup } from '../config.ts'

export type Block = Exclude<AdapterSetup, string>
export type BlockType = Block['type']

/** What may stand directly in what: the library's ALLOWED_NESTINGS, without MultiTask. A name may stand anywhere. */
const nestings: Record<BlockType, BlockType[]> = {
  Stack: ['Fuse', 'Split', 'Parallel', 'BatchSplit', 'Average'],
  Fuse: ['Stack'],
  Split: ['Split', 'Stack', 'BatchSplit', 'Average'],
  Parallel: ['Stack', 'BatchSplit', 'Average'],
  BatchSplit: ['Stack', 'Split', 'BatchSplit', 'Average'],
  Average: ['Stack', 'Split', 'BatchSplit'],
}

const blockTypes = Object.keys(nestings) as BlockType[]

/** The words each block may bring besides its children. */
const words: Record<BlockType, string[]> = {
  Stack: [],
  Fuse: [],
  Split: ['splits'],
  Parallel: [],
  BatchSplit: ['batch_sizes'],
  Average: ['weights', 'normalize_weights'],
}

type Value = number[] | number | boolean | null

interface Cursor {
  text: string
  at: number
}

/** The setup as Python has it; blank for none. */
export function formatSetup(setup: AdapterSetup | null): string {
  if (setup === null) return ''
  if (typeof setup === 'string') return `"${setup}"`
  const parts = setup.children.map(formatSetup)
  if (setup.type === 'Split') parts.push(`splits=[${setup.splits.join(', ')}]`)
  if (setup.type === 'BatchSplit') parts.push(`batch_sizes=[${setup.batch_sizes.join(', ')}]`)
  if (setup.type === 'Average' && setup.weights) parts.push(`weights=[${setup.weights.join(', ')}]`)
  if (setup.type === 'Average' && !setup.normalize_weights) parts.push('normalize_weights=False')
  return `${setup.type}(${parts.join(', ')})`
}

/** The inverse of `formatSetup`. Throws one sentence that quotes the place which cannot be read. */
export function parseSetup(text: string): AdapterSetup | null {
  if (text.trim() === '') return null
  const cursor = { text, at: 0 }
  const setup = readChild(cursor)
  skip(cursor)
  if (cursor.at < text.length) throw unreadable(cursor, 'nothing more')
  return setup
}

/** What the library refuses in the shape of a setup, in sentences; empty when it takes it. */
export function nestingProblems(setup: AdapterSetup | null, level = 0): string[] {
  if (setup === null || typeof setup === 'string') return []
  if (level > 1 && setup.type !== 'Stack')
    return [`The setup is too deep: ${setup.type} stands inside two other blocks; only Stack may.`]
  const own = sizesProblem(setup)
  const children = setup.children.flatMap((child) => {
    if (typeof child === 'string') return []
    const allowed = nestings[setup.type]
    if (allowed.includes(child.type)) return nestingProblems(child, level + 1)
    return [
      `${child.type} cannot stand inside ${setup.type}; there go names and ${allowed.join(', ') || 'nothing else'}.`,
    ]
  })
  return [...(own === null ? [] : [own]), ...children]
}

function sizesProblem(block: Block): string | null {
  const n = block.children.length
  const least = block.type === 'Stack' ? 1 : 2
  if (n < least) return `${block.type} needs at least ${least} adapters, and has ${n}.`
  const [what, sizes] =
    block.type === 'Split'
      ? ['splits', block.splits]
      : block.type === 'BatchSplit'
        ? ['batch_sizes', block.batch_sizes]
        : block.type === 'Average'
          ? ['weights', block.weights]
          : ['', null]
  if (sizes && sizes.length !== n)
    return `${block.type} has ${n} parts but ${sizes.length} ${what}; give one for each part.`
  if (sizes && block.type !== 'Average' && sizes.some((size) => !Number.isInteger(size) || size < 1))
    return `${what} of ${block.type} must be whole numbers of at least 1.`
  return null
}

function skip(cursor: Cursor): void {
  while (/\s/.test(cursor.text[cursor.at] ?? '')) cursor.at++
}

/** What `pattern` matches here, or null; the cursor moves past it. */
function take(cursor: Cursor, pattern: RegExp): string | null {
  skip(cursor)
  const match = pattern.exec(cursor.text.slice(cursor.at))
  if (!match || match.index > 0) return null
  cursor.at += match[0].length
  return match[0]
}

function unreadable({ text, at }: Cursor, expected: string): Error {
  const rest = text.slice(at).trim().slice(0, 20)
  return new Error(
    `The setup cannot be read at ${rest === '' ? 'its end' : `“${rest}”`}; expected ${expected}.`,
  )
}

function readChild(cursor: Cursor): AdapterSetup {
  const quoted = take(cursor, /^"[^"]*"|^'[^']*'/)
  if (quoted !== null) return quoted.slice(1, -1)
  const word = take(cursor, /^[^\s()[\],="']+/)
  if (word === null) throw unreadable(cursor, 'a name or a block such as Stack(')
  if (take(cursor, /^\(/) === null) return word
  const type = blockTypes.find((known) => known === word.replace(/^ac\./, ''))
  if (!type) throw new Error(`“${word}” is no composition block; there are ${blockTypes.join(', ')}.`)
  return readBlock(cursor, type)
}

function readBlock(cursor: Cursor, type: BlockType): Block {
  const children: AdapterSetup[] = []
  const given = new Map<string, Value>()
  while (take(cursor, /^\)/) === null) {
    const word = take(cursor, /^\w+\s*=/)
    if (word === null) children.push(readChild(cursor))
    else {
      const key = word.replace(/\s*=$/, '')
      if (!words[type].includes(key)) throw new Error(`${type} has no “${key}”.`)
      given.set(key, readValue(cursor, key))
    }
    if (take(cursor, /^,/) === null && !/^\s*\)/.test(cursor.text.slice(cursor.at)))
      throw unreadable(cursor, 'a comma or a closing bracket')
  }
  return blockOf(type, children, given)
}

function readValue(cursor: Cursor, key: string): Value {
  const word = take(cursor, /^\[[^\]]*\]|^[\w.+-]+/)
  if (word === null) throw unreadable(cursor, `the value of ${key}`)
  if (word === 'True' || word === 'False') return word === 'True'
  if (word === 'None') return null
  const numbers = word.replace(/^\[|\]$/g, '').split(',')
  const values = numbers.filter((one) => one.trim() !== '').map(Number)
  if (values.some((value) => !Number.isFinite(value)))
    throw new Error(`${key} is ${word}; it takes numbers, as in ${key}=[1, 2].`)
  return word.startsWith('[') ? values : values[0]!
}

/** A block from its parts. A single number stands for every child, as in Python. */
function blockOf(type: BlockType, children: AdapterSetup[], given: Map<string, Value>): Block {
  const numbers = (key: string): number[] => {
    const value = given.get(key)
    if (Array.isArray(value)) return value
    if (typeof value === 'number') return children.map(() => value)
    throw new Error(`${type} needs ${key}, as in ${key}=[${children.map(() => 64).join(', ')}].`)
  }
  if (type === 'Split') return { type, children, splits: numbers('splits') }
  if (type === 'BatchSplit') return { type, children, batch_sizes: numbers('batch_sizes') }
  if (type !== 'Average') return { type, children }
  const weights = given.get('weights') == null ? null : numbers('weights')
  return { type, children, weights, normalize_weights: given.get('normalize_weights') !== false }
}
