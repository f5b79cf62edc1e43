/**
 * A reader for Python pickles that can only build dicts, lists, tuples, numbers, strings and torch tensors. A pickle
 * is a program; this one knows six globals and calls none of them: any other name, or any opcode a tensor file does not
 * need, ends the reading with a sentence.
 */

/** Storage classes by element type. */
const storageTypes = {
  'torch.FloatStorage': 'float32',
  'torch.HalfStorage': 'float16',
  'torch.BFloat16Storage': 'bfloat16',
  'torch.DoubleStorage': 'float64',
  'torch.LongStorage': 'int64',
} as const

export type StorageType = (typeof storageTypes)[keyof typeof storageTypes]

const callables = [
  'collections.OrderedDict',
  'torch._utils._rebuild_tensor_v2',
  'torch._utils._rebuild_tensor',
  'torch._utils._rebuild_parameter',
] as const

/** Tensors nested deeper, or pickles longer than this many objects, are not weights. */
const maxStack = 1 << 20

/** The elements that several tensors may share; its bytes lie elsewhere in the file. */
export interface Storage {
  kind: 'storage'
  key: string
  type: StorageType
  elements: number
}

/** A view of a storage, not yet read. */
export interface PickledTensor {
  kind: 'tensor'
  storage: Storage
  offset: number
  shape: number[]
  stride: number[]
}

interface Global {
  kind: 'global'
  name: string
}

class Tuple {
  readonly items: Value[]
  constructor(items: Value[]) {
    this.items = items
  }
}

class Mark {}

/** Python dict; keys compare as JavaScript's Map does, which is right for strings and numbers. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | Value[]
  | Map<Value, Value>
  | Tuple
  | Mark
  | Global
  | Storage
  | PickledTensor

/** Reads one pickle that starts at `start`; returns its value and the position after it. */
export function unpickle(bytes: Uint8Array, start = 0): { value: Value; end: number } {
  const machine = new Machine(bytes, start)
  try {
    return machine.run()
  } catch (cause) {
    if (cause instanceof RangeError) throw damaged('it ends in the middle', cause)
    throw cause
  }
}

function damaged(what: string, cause?: unknown): Error {
  return new Error(`The torch file is damaged: ${what}; get it again.`, { cause })
}

class Machine {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at: number
  readonly #stack: Value[] = []
  readonly #memo = new Map<number, Value>()

  constructor(bytes: Uint8Array, start: number) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#at = start
  }

  run(): { value: Value; end: number } {
    for (;;) {
      const opcode = this.#uint(1)
      if (opcode === 0x2e) return { value: this.#pop(), end: this.#at } // STOP
      if (!this.#literal(opcode) && !this.#container(opcode) && !this.#object(opcode))
        throw new Error(
          `This is not a torch weights file: opcode 0x${opcode.toString(16)} at byte ${this.#at - 1} is none that tensors need. Nothing in it was executed.`,
        )
      if (this.#stack.length > maxStack || this.#memo.size > maxStack)
        throw new Error('The torch file holds more objects than any weights file needs: it was refused.')
    }
  }

  /** Opcodes that push a number, string or constant. */
  #literal(opcode: number): boolean {
    switch (opcode) {
      case 0x80: // PROTO
        this.#uint(1)
        return true
      case 0x95: // FRAME
        this.#take(8)
        return true
      case 0x4e: // NONE
        return this.#push(null)
      case 0x88: // NEWTRUE
        return this.#push(true)
      case 0x89: // NEWFALSE
        return this.#push(false)
      case 0x4a: // BININT
        return this.#push(this.#int32())
      case 0x4b: // BININT1
        return this.#push(this.#uint(1))
      case 0x4d: // BININT2
        return this.#push(this.#uint(2))
      case 0x8a: // LONG1
        return this.#push(this.#long(this.#uint(1)))
      case 0x47: // BINFLOAT, big-endian
        return this.#push(this.#double())
      case 0x58: // BINUNICODE
        return this.#push(this.#text(this.#uint(4)))
      case 0x8c: // SHORT_BINUNICODE
        return this.#push(this.#text(this.#uint(1)))
      case 0x54: // BINSTRING, of Python 2
        return this.#push(this.#text(this.#uint(4)))
      case 0x55: // SHORT_BINSTRING, of Python 2
        return this.#push(this.#text(this.#uint(1)))
      default:
        return false
    }
  }

  /** Opcodes that build lists, tuples and dicts, and the memo. */
  #container(opcode: number): boolean {
    switch (opcode) {
      case 0x28: // MARK
        return this.#push(new Mark())
      case 0x29: // EMPTY_TUPLE
        return this.#push(new Tuple([]))
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.#push(new Tuple(this.#popCount(opcode - 0x84)))
      case 0x74: // TUPLE
        return this.#push(new Tuple(this.#popMark()))
      case 0x5d: // EMPTY_LIST
        return this.#push([])
      case 0x61: // APPEND
        return this.#append([this.#pop()])
      case 0x65: // APPENDS
        return this.#append(this.#popMark())
      case 0x7d: // EMPTY_DICT
        return this.#push(new Map())
      case 0x73: // SETITEM
        return this.#setItems(this.#popCount(2))
      case 0x75: // SETITEMS
        return this.#setItems(this.#popMark())
      case 0x71: // BINPUT
        return this.#remember(this.#uint(1))
      case 0x72: // LONG_BINPUT
        return this.#remember(this.#uint(4))
      case 0x94: // MEMOIZE
        return this.#remember(this.#memo.size)
      case 0x68: // BINGET
        return this.#recall(this.#uint(1))
      case 0x6a: // LONG_BINGET
        return this.#recall(this.#uint(4))
      default:
        return false
    }
  }

  /** Opcodes that name or build an object: only the allow-list gets past them. */
  #object(opcode: number): boolean {
    switch (opcode) {
      case 0x63: // GLOBAL
      case 0x69: // INST
        return this.#push(global(`${this.#line()}.${this.#line()}`))
      case 0x93: {
        // STACK_GLOBAL
        const [module, name] = this.#popCount(2)
        return this.#push(global(`${String(module)}.${String(name)}`))
      }
      case 0x51: // BINPERSID
        return this.#push(storageOf(this.#pop()))
      case 0x52: {
        // REDUCE
        const [callable, args] = this.#popCount(2)
        return this.#push(build(callable!, args!))
      }
      case 0x62: // BUILD: attributes of an OrderedDict, such as _metadata, which weights do not need
        this.#pop()
        if (!(this.#stack.at(-1) instanceof Map))
          throw damaged('it sets attributes of something that has none')
        return true
      default:
        return false
    }
  }

  #push(value: Value): true {
    this.#stack.push(value)
    return true
  }

  #pop(): Value {
    const value = this.#stack.pop()
    if (value === undefined || value instanceof Mark)
      throw damaged('its stack is empty where a value is needed')
    return value
  }

  #popCount(count: number): Value[] {
    return Array.from({ length: count }, () => this.#pop()).reverse()
  }

  #popMark(): Value[] {
    const mark = this.#stack.findLastIndex((value) => value instanceof Mark)
    if (mark < 0) throw damaged('a list or dict has no beginning')
    const items = this.#stack.splice(mark)
    return items.slice(1)
  }

  #append(items: Value[]): true {
    const list = this.#stack.at(-1)
    if (!Array.isArray(list)) throw damaged('it appends to something that is no list')
    for (const item of items) list.push(item)
    return true
  }

  #setItems(items: Value[]): true {
    const dict = this.#stack.at(-1)
    if (!(dict instanceof Map) || items.length % 2 !== 0)
      throw damaged('it sets items of something that is no dict')
    for (let i = 0; i < items.length; i += 2) dict.set(items[i]!, items[i + 1]!)
    return true
  }

  #remember(index: number): true {
    const value = this.#stack.at(-1)
    if (value === undefined) throw damaged('it remembers a value that is not there')
    this.#memo.set(index, value)
    return true
  }

  #recall(index: number): true {
    const value = this.#memo.get(index)
    if (value === undefined) throw damaged('it recalls a value that was never there')
    return this.#push(value)
  }

  #take(length: number): Uint8Array {
    if (this.#at + length > this.#bytes.length) throw damaged('it ends in the middle')
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  #uint(width: 1 | 2 | 4): number {
    return this.#take(width).reduceRight((value, byte) => value * 256 + byte, 0)
  }

  #int32(): number {
    this.#take(4)
    return this.#view.getInt32(this.#at - 4, true)
  }

  #double(): number {
    this.#take(8)
    return this.#view.getFloat64(this.#at - 8, false)
  }

  /** Little-endian two's complement of any length up to 255 bytes. */
  #long(length: number): number | bigint {
    const digits = this.#take(length)
    let value = 0n
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(digits[i]!)
    if (length > 0 && digits[length - 1]! >= 128) value -= 1n << BigInt(8 * length)
    const small = Number(value)
    return Number.isSafeInteger(small) ? small : value
  }

  #text(length: number): string {
    return new TextDecoder().decode(this.#take(length))
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at)
    if (end < 0) throw damaged('it ends in the middle of a name')
    const line = new TextDecoder().decode(this.#bytes.subarray(this.#at, end))
    this.#at = end + 1
    return line
  }
}

/** The one gate: a name outside the allow-list ends the reading. */
function global(name: string): Global {
  if (!(callables as readonly string[]).includes(name) && !Object.hasOwn(storageTypes, name))
    throw new Error(
      `The torch file names ${name.slice(0, 100)}, which weights of an adapter never need: it was refused, and nothing in it was executed.`,
    )
  return { kind: 'global', name }
}

/** The storage that a persistent id `('storage', class, key, location, elements)` names. */
function storageOf(id: Value): Storage {
  if (!(id instanceof Tuple)) throw damaged('a storage is not described by a tuple')
  const [word, type, key, , elements, view = null] = id.items
  if (word !== 'storage' || typeof key !== 'string' || !isGlobal(type) || !isSize(elements))
    throw damaged('a storage is not described as torch does')
  if (view !== null)
    throw new Error(
      'The torch file uses storage views of versions before 0.4; save it again with a newer torch.',
    )
  if (!Object.hasOwn(storageTypes, type.name)) throw damaged(`${type.name} is no storage`)
  return { kind: 'storage', key, type: storageTypes[type.name as keyof typeof storageTypes], elements }
}

/** What calling an allowed global would give. */
function build(callable: Value, args: Value): Value {
  if (!isGlobal(callable) || !(args instanceof Tuple)) throw damaged('it calls something that is no function')
  const { items } = args
  if (callable.name === 'collections.OrderedDict') return orderedDict(items)
  if (callable.name === 'torch._utils._rebuild_parameter') {
    if (!isTensor(items[0])) throw damaged('a parameter holds no tensor')
    return items[0]
  }
  if (callable.name.startsWith('torch._utils._rebuild_tensor')) return tensor(items)
  throw damaged(`it calls ${callable.name}, which is no function`)
}

function orderedDict(items: Value[]): Map<Value, Value> {
  const dict = new Map<Value, Value>()
  const pairs = items[0] ?? []
  if (!Array.isArray(pairs) || items.length > 1) throw damaged('an OrderedDict is not built as Python does')
  for (const pair of pairs) {
    const [key, value] =
      pair instanceof Tuple || Array.isArray(pair) ? (Array.isArray(pair) ? pair : pair.items) : []
    if (key === undefined || value === undefined)
      throw damaged('an OrderedDict is built from something else than pairs')
    dict.set(key, value)
  }
  return dict
}

/** `_rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks)`. */
function tensor([storage, offset, size, strides]: Value[]): PickledTensor {
  const shape = size instanceof Tuple ? size.items : null
  const stride = strides instanceof Tuple ? strides.items : null
  if (!isStorage(storage) || !isSize(offset) || !shape?.every(isSize) || !stride?.every(isSize))
    throw damaged('a tensor is not described as torch does')
  if (shape.length !== stride.length) throw damaged('a tensor has not as many strides as dimensions')
  return { kind: 'tensor', storage, offset, shape: shape as number[], stride: stride as number[] }
}

function isSize(value: Value | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function isObject(value: Value | undefined): value is Global | Storage | PickledTensor {
  return typeof value === 'object' && value !== null && 'kind' in value
}

function isGlobal(value: Value | undefined): value is Global {
  return isObject(value) && value.kind === 'global'
}

function isStorage(value: Value | undefined): value is Storage {
  return isObject(value) && value.kind === 'storage'
}

export function isTensor(value: Value | undefined): value is PickledTensor {
  return isObject(value) && value.kind === 'tensor'
}
