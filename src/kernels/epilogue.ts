/**
 * What a matrix product does with its sums before they are stored, in WGSL: each part is compiled into a program only
 * where it is used, and the program's name says which parts that is.
 */
import type * as tf from '@tensorflow/tfjs-core'
import { activationCode, type Activation } from './activations.ts'
import { dropCode, dropUniforms, dropValues, type Drop } from './dropout.ts'
import type { Kernel } from './program.ts'

/**
 * residual + (drop(act(factor·(a·b + bias))) ∘ activation'(pre)); parts left out do nothing. `pre`, `residual` and
 * `output` have the shape of the result.
 */
export interface Epilogue {
  /** [N], added to every row. */
  bias?: tf.Tensor1D | null
  factor?: number
  /**
   * act; what it is applied to goes to `pre` where that is given, which only webgpu can do: a tensor with memory of its
   * own, as `emptyTensor` makes one, that is no other operand's and not the result's.
   */
  activation?: { name: Activation; pre: tf.Tensor | null } | null
  /** The mask that `dropout` would draw for the flat result. */
  dropout?: Drop | null
  /** The way back through `activation` at `pre`. */
  through?: { activation: Activation; pre: tf.Tensor } | null
  residual?: tf.Tensor | null
  /**
   * On webgpu the result is written here, and this tensor is returned; it may be `through.pre` or `residual` itself, and
   * no other operand's memory. On wasm and cpu, where nothing can be written in place, the result is a new tensor.
   */
  output?: tf.Tensor | null
}

/** An epilogue as part of a program. */
export interface Ending {
  /** Part of the program's name. */
  key: string
  inputs: string[]
  tensors: tf.Tensor[]
  /** Inputs that `finish` writes to. */
  writes: string[]
  uniforms: Kernel['uniforms']
  values: Record<string, number>
  /**
   * WGSL of `finish(sum, at, biasAt)` for f32 or, where `wide`, vec4<f32>: the value to store at element `at` of the
   * result (a multiple of 4 where wide), whose bias is element `biasAt`.
   */
  code(wide: boolean): string
  output: tf.Tensor | undefined
}

/** For a result of `size` elements whose bias has `biasSize`. Throws when an operand has another size. */
export function endingOf(epilogue: Epilogue, size: number, biasSize: number): Ending {
  assertFits(epilogue, size, biasSize)
  const parts = partsOf(epilogue)
  return {
    key: parts.map(({ key }) => key).join(', '),
    inputs: parts.flatMap(({ inputs }) => Object.keys(inputs)),
    tensors: parts.flatMap(({ inputs }) => Object.values(inputs)),
    writes: parts.flatMap(({ writes }) => writes),
    uniforms: Object.assign({}, ...parts.map(({ uniforms }) => uniforms)),
    values: Object.assign({}, ...parts.map(({ values }) => values)),
    code: (wide) => finishCode(parts, wide),
    output: epilogue.output ?? undefined,
  }
}

/** One part: WGSL functions it needs and a statement that changes `value`. */
interface Part {
  key: string
  inputs: Record<string, tf.Tensor>
  /** Those of the inputs that it writes to. */
  writes: string[]
  uniforms: Kernel['uniforms']
  values: Record<string, number>
  functions: string[]
  statement(wide: boolean): string
}

const nothing = { inputs: {}, writes: [], uniforms: {}, values: {}, functions: [] }

/** The parts that do something, in the order in which they are applied. */
function partsOf(epilogue: Epilogue): Part[] {
  const { bias, factor = 1, activation, dropout, through, residual, output } = epilogue
  const parts: Part[] = []
  if (bias) {
    const statement = (wide: boolean) => `value += bias[biasAt${wide ? ' >> 2u' : ''}];`
    parts.push({ ...nothing, key: 'bias', inputs: { bias }, statement })
  }
  if (factor !== 1) {
    const uniforms = { factor: 'float32' } as const
    const statement = () => 'value *= uniforms.factor;'
    parts.push({ ...nothing, key: 'factor', uniforms, values: { factor }, statement })
  }
  if (activation && (activation.pre || activation.name !== 'linear')) parts.push(activationPart(activation))
  if (dropout && dropout.rate !== 0) parts.push(dropPart(dropout))
  if (through && through.activation !== 'linear') parts.push(throughPart(through, output))
  if (residual) {
    const { from, inputs } = readBeside('residual', residual, output)
    const statement = (wide: boolean) => `value += ${from}[at${wide ? ' >> 2u' : ''}];`
    parts.push({ ...nothing, key: `residual ${from}`, inputs, statement })
  }
  return parts
}

function activationPart({ name, pre }: NonNullable<Epilogue['activation']>): Part {
  const { functions, forward } = activationCode(name)
  const keep = (wide: boolean) => (pre ? `before[at${wide ? ' >> 2u' : ''}] = value; ` : '')
  return {
    ...nothing,
    key: `${pre ? 'kept ' : ''}${name}`,
    inputs: pre ? { before: pre } : {},
    writes: pre ? ['before'] : [],
    functions: [functions, `fn activated(v : f32) -> f32 { return ${forward}; }`],
    statement: (wide) => `${keep(wide)}value = ${eachLane(wide, (lane) => `activated(value${lane})`)};`,
  }
}

/** One expression, or a vec4 of what it is for each lane and its index. */
function eachLane(wide: boolean, value: (lane: string, i: number) => string): string {
  return wide ? `vec4<f32>(${['.x', '.y', '.z', '.w'].map(value).join(', ')})` : value('', 0)
}

function dropPart(drop: Drop): Part {
  const statement = (wide: boolean) =>
    `value = ${eachLane(wide, (lane, i) => `dropped(value${lane}, u32(at + ${i}))`)};`
  const values = dropValues(drop)
  return { ...nothing, key: 'drop', uniforms: dropUniforms, values, functions: [dropCode], statement }
}

function throughPart(
  { activation, pre }: { activation: Activation; pre: tf.Tensor },
  output: tf.Tensor | null | undefined,
): Part {
  const { functions, derivative } = activationCode(activation)
  const { from, inputs } = readBeside('pre', pre, output)
  const slopes = (wide: boolean) => eachLane(wide, (lane) => `slope(x${lane})`)
  return {
    ...nothing,
    key: `through ${activation} ${from}`,
    inputs,
    functions: [functions, `fn slope(v : f32) -> f32 { return ${derivative}; }`],
    statement: (wide) => `{ let x = ${from}[at${wide ? ' >> 2u' : ''}]; value *= ${slopes(wide)}; }`,
  }
}

/** Where a program reads an operand: under its own name, or in the result where that is the same tensor. */
function readBeside(name: string, x: tf.Tensor, output: tf.Tensor | null | undefined) {
  const inPlace = x.dataId === output?.dataId
  return { from: inPlace ? 'result' : name, inputs: inPlace ? {} : { [name]: x } }
}

function finishCode(parts: Part[], wide: boolean): string {
  const type = wide ? 'vec4<f32>' : 'f32'
  return `
${[...new Set(parts.flatMap(({ functions }) => functions))].join('\n')}
fn finish(sum : ${type}, at : i32, biasAt : i32) -> ${type} {
  var value = sum;
  ${parts.map(({ statement }) => statement(wide)).join('\n  ')}
  return value;
}`
}

/** Throws when an operand has another size than a result of `size` elements needs. */
export function assertFits(epilogue: Epilogue, size: number, biasSize: number): void {
  const { bias, activation, through, residual, output } = epilogue
  assertSize('bias', bias, biasSize)
  assertSize('activation.pre', activation?.pre, size)
  assertSize('pre', through?.pre, size)
  assertSize('residual', residual, size)
  assertSize('output', output, size)
}

function assertSize(name: string, x: tf.Tensor | null | undefined, size: number): void {
  if (x && x.size !== size)
    throw new Error(`The ${name} of a matrix product has ${x.size} elements; ${size} are needed.`)
}
