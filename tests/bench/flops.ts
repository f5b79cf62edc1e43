/**
 * Floating-point operations of the matrix products that were dispatched, from each dispatch's own sizes. Every kernel is
 * either in the table of products or in that of the others; one that is in neither is reported, so that a new kernel
 * cannot slip past the audit.
 */
import { activations } from '../../src/kernels/activations.ts'
import type { Seen } from './observe.ts'

type Flops = (uniforms: (name: string) => number, seen: Seen) => number

const product = (batch: number, M: number, N: number, K: number) => 2 * batch * M * N * K

/** Products over B·N heads of S queries, T keys and D features each; D is part of the name. */
const attention =
  (count: number): Flops =>
  (u, { kernel }) =>
    count * product(u('B') * u('N'), u('S'), u('T'), Number(/ (\d+) /.exec(kernel)![1]))

const bottleneck =
  (count: number): Flops =>
  (u) =>
    count * product(1, u('N'), u('H'), u('R'))

const matmul: Flops = (u) => product(u('batch'), u('M'), u('N'), u('K'))

/** By the beginning of the name; the first that fits counts. */
const products: [string, Flops][] = [
  ['matmulTiled', matmul],
  ['matmulPlain', matmul],
  ['attention tiled', attention(2)],
  ['attention plain', attention(2)],
  // Scores and their gradients are made for the queries and again for the keys: 3 + 4 products.
  ['attentionBackward tiled', attention(7)],
  ['attentionBackward plain', attention(7)],
  ['bottleneckDown ', bottleneck(1)],
  ['bottleneckUp ', bottleneck(1)],
  ['bottleneckUpBackward ', bottleneck(1)],
  ['bottleneckWeightBackward ', bottleneck(2)],
  ['bottleneckDownBackward ', bottleneck(1)],
  ['MatMul', (_, seen) => ofTfjs(seen)],
]

/** Element by element, along rows, or moving data: no product in them. The beginnings of their names. */
const others = [
  ...activations.flatMap((name) => [`${name} forward`, `${name} backward`]),
  'adamw',
  'addScaled',
  'attentionPrefix',
  'bottleneckFold',
  'placesOf',
  'rowScale',
  'columnSum',
  'copy',
  'crossEntropy',
  'dropout',
  'embedding',
  'fill',
  'gate',
  'firstToken',
  'halfToFloat',
  'floatToHalf',
  'layerNorm',
  'matmul fold',
  'scale',
  'segmentSum',
  'sum',
  'swapMiddle',
  // tfjs's own.
  'BiasActivationProgram',
  'BinaryOpProgram',
  'ClipProgram',
  'ConcatProgram',
  'FillProgram',
  'GatherProgram',
  'OneHotProgram',
  'PadProgram',
  'ReduceProgram',
  'SelectProgram',
  'SliceProgram',
  'SoftmaxProgram',
  'TileProgram',
  'TransposeProgram',
  'TransposeSharedProgram',
  'UnaryOpProgram',
]

/** tfjs's products read a [batch,…], b [batch,…] and write [batch,M,N]; a batch of one is stretched. */
function ofTfjs({ inputs, output, transposeA }: Seen): number {
  const [batch = 1, M = 1, N = 1] = output
  const K = inputs[0]!.at(transposeA ? -2 : -1)!
  return product(batch, M, N, K)
}

/** What the dispatches of one piece of work came to. */
export interface Audit {
  dispatches: number
  flops: number
  /** Kernels of neither table. */
  unknown: string[]
}

export function audit(log: Seen[]): Audit {
  const unknown = new Set<string>()
  let flops = 0
  for (const seen of log) {
    const { kernel, uniforms } = seen
    const known = products.find(([start]) => kernel.startsWith(start))
    if (known) flops += known[1]((name) => uniformOf(kernel, uniforms, name), seen)
    else if (!others.some((start) => kernel.startsWith(start))) unknown.add(kernel)
  }
  return { dispatches: log.length, flops, unknown: [...unknown].sort() }
}

function uniformOf(kernel: string, uniforms: Record<string, number>, name: string): number {
  const value = uniforms[name]
  if (value === undefined)
    throw new Error(`The kernel ${kernel} has no uniform ${name}; see tests/bench/flops.ts.`)
  return value
}
