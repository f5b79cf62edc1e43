/**
 * Protocol buffers' wire format (proto3), as much of it as an ONNX file needs. Messages are lists of parts, so that
 * weights are never copied; reading goes through a Blob field by field, so that a file never has to be in memory.
 */

/** Bytes in memory or, for weights, wherever the browser keeps a Blob. */
export type Part = Uint8Array<ArrayBuffer> | Blob

/** An encoded message: its parts in order, and their bytes together. */
export interface Message {
  parts: Part[]
  size: number
}

const varintType = 0
const fixed64Type = 1
const bytesType = 2
const fixed32Type = 5

/** Fields of one message, in the order in which they are added. */
export class MessageWriter {
  readonly #parts: Part[] = []
  #bytes: number[] = []
  #size = 0

  /** int32, int64, bool or enum. Throws for what is no whole number. */
  integer(field: number, value: number): this {
    this.#tag(field, varintType)
    pushInteger(this.#bytes, value)
    return this
  }

  float(field: number, value: number): this {
    this.#tag(field, fixed32Type)
    this.#bytes.push(...new Uint8Array(Float32Array.of(value).buffer))
    return this
  }

  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value))
  }

  bytes(field: number, value: Part): this {
    const size = value instanceof Blob ? value.size : value.length
    return this.message(field, { parts: [value], size })
  }

  /** Repeated integers, packed. */
  integers(field: number, values: number[]): this {
    const bytes: number[] = []
    for (const value of values) pushInteger(bytes, value)
    return this.bytes(field, Uint8Array.from(bytes))
  }

  message(field: number, { parts, size }: Message): this {
    this.#tag(field, bytesType)
    pushInteger(this.#bytes, size)
    this.#flush()
    this.#parts.push(...parts)
    this.#size += size
    return this
  }

  finish(): Message {
    this.#flush()
    return { parts: this.#parts, size: this.#size }
  }

  #tag(field: number, type: number): void {
    pushInteger(this.#bytes, field * 8 + type)
  }

  #flush(): void {
    if (this.#bytes.length === 0) return
    this.#parts.push(Uint8Array.from(this.#bytes))
    this.#size += this.#bytes.length
    this.#bytes = []
  }
}

/** Base-128, least significant first; a negative number takes the ten bytes of its 64-bit two's complement. */
function pushInteger(bytes: number[], value: number): void {
  if (!Number.isSafeInteger(value)) throw new Error(`${value} is no whole number that protobuf can hold.`)
  let rest = value < 0 ? BigInt.asUintN(64, BigInt(value)) : BigInt(value)
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128)
  bytes.push(Number(rest))
}

/** One field as it stands in a file: a number, or where its bytes lie. */
export interface FieldRead {
  field: number
  /** Of an integer or float; for bytes, 0. */
  value: number
  /** Of bytes: the first, and the one after the last, within the file. */
  begin: number
  end: number
}

/** Bytes read from a file at a time; what is asked for beyond them is read by itself. */
const windowBytes = 64 << 10

/** Reads messages of a file. Throws one sentence when it is cut off or no protobuf. */
export class MessageReader {
  #window = new Uint8Array(0)
  #start = 0

  constructor(readonly file: Blob) {}

  /** The fields of the message at [begin, end), in order. */
  async *fields(begin = 0, end = this.file.size): AsyncGenerator<FieldRead> {
    let at = begin
    const next = async (): Promise<number> => {
      if (at >= end) throw damaged('a field is cut off')
      return this.#byte(at++)
    }
    while (at < end) {
      const tag = await readInteger(next)
      const field = Math.floor(tag / 8)
      const type = tag % 8
      if (type === varintType) {
        yield { field, value: await readInteger(next), begin: at, end: at }
      } else if (type === bytesType) {
        const length = await readInteger(next)
        if (length < 0 || at + length > end) throw damaged(`field ${field} is longer than its message`)
        const first = at
        at += length
        yield { field, value: 0, begin: first, end: at }
      } else if (type === fixed32Type) {
        const bits = Uint8Array.of(await next(), await next(), await next(), await next())
        yield { field, value: new Float32Array(bits.buffer)[0]!, begin: at - 4, end: at }
      } else {
        throw damaged(`field ${field} has the wire type ${type === fixed64Type ? 'fixed64' : type}`)
      }
    }
  }

  async bytes({ begin, end }: { begin: number; end: number }): Promise<Uint8Array<ArrayBuffer>> {
    return new Uint8Array(await this.file.slice(begin, end).arrayBuffer())
  }

  async text(field: FieldRead): Promise<string> {
    return new TextDecoder('utf-8', { fatal: true }).decode(await this.bytes(field))
  }

  /** Repeated integers, packed. */
  async integers(field: FieldRead): Promise<number[]> {
    const bytes = await this.bytes(field)
    const values: number[] = []
    let at = 0
    const next = () => {
      const byte = bytes[at++]
      if (byte === undefined) throw damaged('a list of numbers is cut off')
      return Promise.resolve(byte)
    }
    while (at < bytes.length) values.push(await readInteger(next))
    return values
  }

  async #byte(at: number): Promise<number> {
    if (at < this.#start || at >= this.#start + this.#window.length) {
      this.#start = at
      this.#window = await this.bytes({ begin: at, end: Math.min(at + windowBytes, this.file.size) })
    }
    return this.#window[at - this.#start]!
  }
}

async function readInteger(next: () => Promise<number>): Promise<number> {
  let value = 0n
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const byte = await next()
    value |= BigInt(byte & 127) << shift
    if (byte < 128) return Number(BigInt.asIntN(64, value))
  }
  throw damaged('a number has more than ten bytes')
}

function damaged(what: string): Error {
  return new Error(`The ONNX file is damaged: ${what}; export it again.`)
}
