/**
 * An ONNX model (IR 8, operator set 17) in the making: nodes in the order of their computation, weights as float32
 * initialisers. Names follow the model's own modules. Operators beyond onnx.ai's default domain are never used.
 */
import { MessageWriter, type Message, type Part } from './protobuf.ts'

export const opset = 17
const irVersion = 8

/** TensorProto.DataType */
export const FLOAT = 1
export const INT64 = 7

/** AttributeProto.AttributeType */
const attributeTypes = { float: 1, integer: 2, integers: 7 } as const

/** A whole number, a list of them, or a float that is told from a whole number by being wrapped. */
export type Attribute = number | number[] | { float: number }

/** A value of the graph; only a graph's methods make them. */
export type Value = string & { readonly value: unique symbol }

/** What a stored weight must read back as. */
export interface Stored {
  shape: number[]
  dtype: number
  /** See `fingerprint`. */
  print: number
}

/** An input or output: its dimensions are numbers or, where they vary, names. */
export interface Port {
  name: string
  dtype: number
  shape: (number | string)[]
}

/** Protobuf's own limit for one message, which an ONNX file with its weights inside is. */
const maxBytes = 2 ** 31 - 1

export class OnnxGraph {
  readonly #graph = new MessageWriter()
  readonly #constants = new Map<string, Value>()
  readonly #used = new Map<string, number>()
  /** Every weight and constant by name, for reading back. */
  readonly stored = new Map<string, Stored>()
  /** Operators by how often they occur. */
  readonly operators = new Map<string, number>()
  #scope: string[] = []

  constructor(name: string) {
    this.#graph.text(2, name)
  }

  /** Names of nodes made within are under `scope`, as a module's are. */
  within<T>(scope: string, build: () => T): T {
    this.#scope.push(scope)
    try {
      return build()
    } finally {
      this.#scope.pop()
    }
  }

  /** Adds a node and returns its first output. */
  node(operator: string, inputs: Value[], attributes: Record<string, Attribute> = {}): Value {
    return this.nodes(operator, inputs, attributes, 1)[0]!
  }

  /** Adds a node with `count` outputs. */
  nodes(operator: string, inputs: Value[], attributes: Record<string, Attribute>, count: number): Value[] {
    const name = this.#fresh(`/${[...this.#scope, operator].join('/')}`)
    const outputs = Array.from({ length: count }, (_, i) => `${name}_output_${i}` as Value)
    const node = new MessageWriter()
    for (const input of inputs) node.text(1, input)
    for (const output of outputs) node.text(2, output)
    node.text(3, name).text(4, operator)
    for (const [key, value] of Object.entries(attributes)) node.message(5, attributeMessage(key, value))
    this.#graph.message(1, node.finish())
    this.operators.set(operator, (this.operators.get(operator) ?? 0) + 1)
    return outputs
  }

  /** Stores a float32 weight under its own name. Throws when the name is taken or the values do not fill the shape. */
  weight(name: string, shape: number[], data: Float32Array<ArrayBuffer>): Value {
    return this.#store(name, shape, FLOAT, data)
  }

  /** A weight that is asked for more than once is stored once. */
  hasWeight(name: string): Value | null {
    return this.stored.has(name) ? (name as Value) : null
  }

  /** A float32 constant without dimensions. */
  scalar(value: number): Value {
    return this.#constant(`constant/float/${value}`, [], FLOAT, Float32Array.of(value))
  }

  /** A list of int64. */
  integers(values: number[]): Value {
    const data = BigInt64Array.from(values, BigInt)
    return this.#constant(`constant/int64/${values.join('_')}`, [values.length], INT64, data)
  }

  /** An int64 without dimensions. */
  integer(value: number): Value {
    return this.#constant(`constant/index/${value}`, [], INT64, BigInt64Array.of(BigInt(value)))
  }

  input(port: Port): Value {
    this.#graph.message(11, portMessage(port))
    return port.name as Value
  }

  /** Gives `value` the name of an output. */
  output(value: Value, port: Port): void {
    const node = new MessageWriter().text(1, value).text(2, port.name).text(3, port.name).text(4, 'Identity')
    this.#graph.message(1, node.finish()).message(12, portMessage(port))
  }

  /** The whole file. Throws when it is too large to be one file. */
  finish(about: Record<string, string>): Blob {
    const model = new MessageWriter()
      .integer(1, irVersion)
      .text(2, 'Adaptab')
      .message(7, this.#graph.finish())
    model.message(8, new MessageWriter().text(1, '').integer(2, opset).finish())
    for (const [key, value] of Object.entries(about))
      model.message(14, new MessageWriter().text(1, key).text(2, value).finish())
    const { parts, size } = model.finish()
    if (size > maxBytes)
      throw new Error(
        'The model is over 2 GB as float32, more than one ONNX file can hold; export the full model instead.',
      )
    return new Blob(parts)
  }

  #constant(name: string, shape: number[], dtype: number, data: Float32Array | BigInt64Array): Value {
    const known = this.#constants.get(name)
    if (known) return known
    const value = this.#store(name, shape, dtype, data as Float32Array<ArrayBuffer>)
    this.#constants.set(name, value)
    return value
  }

  #store(name: string, shape: number[], dtype: number, data: Float32Array<ArrayBuffer>): Value {
    const size = shape.reduce((product, dim) => product * dim, 1)
    if (size !== data.length)
      throw new Error(`The weight ${name} has ${data.length} values, which do not fill [${shape}].`)
    if (this.stored.has(name)) throw new Error(`The ONNX graph has the weight ${name} already.`)
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    this.stored.set(name, { shape, dtype, print: fingerprint(bytes, 0) })
    const tensor = new MessageWriter()
    if (shape.length > 0) tensor.integers(1, shape)
    tensor.integer(2, dtype).text(8, name).bytes(9, keep(bytes))
    this.#graph.message(5, tensor.finish())
    return name as Value
  }

  #fresh(name: string): string {
    const count = this.#used.get(name) ?? 0
    this.#used.set(name, count + 1)
    return count === 0 ? name : `${name}_${count}`
  }
}

/** Bytes above which a weight is handed to the browser to keep instead of lying in memory until the end. */
const blobBytes = 64 << 10

function keep(bytes: Uint8Array<ArrayBuffer>): Part {
  return bytes.length > blobBytes ? new Blob([bytes]) : bytes.slice()
}

/** A checksum of bytes in runs of four, continued from `print`, by which a weight is known when it is read back. */
export function fingerprint(bytes: Uint8Array<ArrayBuffer>, print: number): number {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice()
  const words = new Int32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength >> 2)
  for (let i = 0; i < words.length; i++) print = (Math.imul(print, 31) + words[i]!) | 0
  return print
}

function attributeMessage(name: string, value: Attribute): Message {
  const message = new MessageWriter().text(1, name)
  if (Array.isArray(value)) {
    for (const item of value) message.integer(8, item)
    return message.integer(20, attributeTypes.integers).finish()
  }
  if (typeof value === 'number') return message.integer(3, value).integer(20, attributeTypes.integer).finish()
  return message.float(2, value.float).integer(20, attributeTypes.float).finish()
}

function portMessage({ name, dtype, shape }: Port): Message {
  const dims = new MessageWriter()
  for (const dim of shape) {
    const one = new MessageWriter()
    dims.message(1, (typeof dim === 'string' ? one.text(2, dim) : one.integer(1, dim)).finish())
  }
  const tensor = new MessageWriter().integer(1, dtype).message(2, dims.finish()).finish()
  return new MessageWriter()
    .text(1, name)
    .message(2, new MessageWriter().message(1, tensor).finish())
    .finish()
}
