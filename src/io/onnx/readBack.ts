/** Reads an ONNX file that was just written, as a stranger would, and compares it with what was meant. */
import { FLOAT, fingerprint, opset, type OnnxGraph, type Stored } from './graph.ts'
import { MessageReader, type FieldRead } from './protobuf.ts'

/** What an ONNX file holds, values aside. */
export interface OnnxSummary {
  opset: number
  inputs: Port[]
  outputs: Port[]
  weights: Map<string, Stored>
  /** Operators by how often they occur. */
  operators: Map<string, number>
}

interface Port {
  name: string
  dtype: number
  /** Dimensions that are free have their names. */
  shape: (number | string)[]
}

/** Bytes of a weight that are read at a time. */
const pieceBytes = 16 << 20

/** Throws unless the file holds exactly the graph's weights, bit for bit, and every node reads what is there before it. */
export async function readBack(file: Blob, graph: OnnxGraph): Promise<void> {
  const fail = (what: string) =>
    new Error(`The ONNX export was stopped: ${what} does not read back as written.`)
  const found = await readOnnx(file)
  if (found.opset !== opset) throw fail('the operator set')
  if (found.weights.size !== graph.stored.size) throw fail('the list of weights')
  for (const [name, { shape, dtype, print }] of graph.stored) {
    const back = found.weights.get(name)
    if (back?.dtype !== dtype || back.shape.join() !== shape.join() || back.print !== print) throw fail(name)
  }
  const names = (ports: Port[]) => ports.map(({ name }) => name).join()
  if (names(found.inputs) !== 'input_ids,attention_mask' || names(found.outputs) !== 'logits')
    throw fail('the list of inputs and outputs')
}

/**
 * Reads a model. Throws when it is no ONNX file, when a weight's bytes do not fill its shape, when a name stands twice,
 * or when a node or output reads a value that nothing before it makes.
 */
export async function readOnnx(file: Blob): Promise<OnnxSummary> {
  const reader = new MessageReader(file)
  const summary: OnnxSummary = { opset: 0, inputs: [], outputs: [], weights: new Map(), operators: new Map() }
  let graph: FieldRead | null = null
  for await (const field of reader.fields()) {
    if (field.field === 7) graph = field
    if (field.field === 8)
      for await (const part of reader.fields(field.begin, field.end))
        if (part.field === 2) summary.opset = part.value
  }
  if (!graph) throw new Error('This is not an ONNX model: it has no graph.')
  const nodes: FieldRead[] = []
  for await (const field of reader.fields(graph.begin, graph.end)) {
    if (field.field === 1) nodes.push(field)
    if (field.field === 5) await readWeight(reader, field, summary.weights)
    if (field.field === 11) summary.inputs.push(await readPort(reader, field))
    if (field.field === 12) summary.outputs.push(await readPort(reader, field))
  }
  await checkNodes(reader, nodes, summary)
  return summary
}

async function readWeight(reader: MessageReader, at: FieldRead, weights: Map<string, Stored>): Promise<void> {
  let [name, dtype, print, bytes] = ['', 0, 0, 0]
  let shape: number[] = []
  for await (const field of reader.fields(at.begin, at.end)) {
    if (field.field === 1) shape = await reader.integers(field)
    if (field.field === 2) dtype = field.value
    if (field.field === 8) name = await reader.text(field)
    if (field.field !== 9) continue
    bytes = field.end - field.begin
    for (let begin = field.begin; begin < field.end; begin += pieceBytes) {
      const piece = await reader.bytes({ begin, end: Math.min(begin + pieceBytes, field.end) })
      print = fingerprint(piece, print)
    }
  }
  const size = shape.reduce((product, dim) => product * dim, 1) * (dtype === FLOAT ? 4 : 8)
  if (bytes !== size)
    throw new Error(`The ONNX weight ${name} is [${shape}], which its ${bytes} bytes do not fill.`)
  if (weights.has(name)) throw new Error(`The ONNX file has the weight ${name} twice.`)
  weights.set(name, { shape, dtype, print })
}

async function readPort(reader: MessageReader, at: FieldRead): Promise<Port> {
  const port: Port = { name: '', dtype: 0, shape: [] }
  const inside = async (from: FieldRead, field: number): Promise<FieldRead[]> => {
    const found: FieldRead[] = []
    for await (const part of reader.fields(from.begin, from.end)) if (part.field === field) found.push(part)
    return found
  }
  for (const name of await inside(at, 1)) port.name = await reader.text(name)
  for (const type of await inside(at, 2))
    for (const tensor of await inside(type, 1)) {
      for (const { value } of await inside(tensor, 1)) port.dtype = value
      for (const shape of await inside(tensor, 2))
        for (const dim of await inside(shape, 1))
          for await (const part of reader.fields(dim.begin, dim.end))
            port.shape.push(part.field === 2 ? await reader.text(part) : part.value)
    }
  return port
}

async function checkNodes(reader: MessageReader, nodes: FieldRead[], summary: OnnxSummary): Promise<void> {
  const made = new Set([...summary.weights.keys(), ...summary.inputs.map(({ name }) => name)])
  for (const node of nodes) {
    const outputs: string[] = []
    for await (const field of reader.fields(node.begin, node.end)) {
      if (field.field > 4 || field.field === 3) continue
      const text = await reader.text(field)
      if (field.field === 1 && !made.has(text))
        throw new Error(`A node of the ONNX file reads ${text}, which nothing before it makes.`)
      if (field.field === 2) outputs.push(text)
      if (field.field === 4) summary.operators.set(text, (summary.operators.get(text) ?? 0) + 1)
    }
    for (const output of outputs) {
      if (made.has(output)) throw new Error(`The ONNX file makes ${output} twice.`)
      made.add(output)
    }
  }
  for (const { name } of summary.outputs)
    if (!made.has(name)) throw new Error(`The ONNX file gives out ${name}, which no node makes.`)
}
