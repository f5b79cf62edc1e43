/**
 * What the two programs for matrix products share: the product itself, how its operands are read, and the split of a
 * long inner dimension over several partial results, which a second program adds up in a fixed order.
 */
import type * as tf from '@tensorflow/tfjs-core'
import type { Ending } from './epilogue.ts'
import { runElements, type Kernel } from './program.ts'

/** a·b for each of `batch` items: [M,K]·[K,N] -> [M,N]. */
export interface Product {
  a: tf.Tensor
  b: tf.Tensor
  /** An item of a is [K,M]. */
  transposeA: boolean
  /** An item of b is [N,K]. */
  transposeB: boolean
  batch: number
  M: number
  N: number
  K: number
  /** All items have one a. */
  sharedA: boolean
  /** Each item has its own N elements of the bias. */
  biasByItem: boolean
  /** a, not transposed and of one item, lies as [K/block,M,block]; null where it is a plain matrix. */
  block: number | null
  /** Products of elements are made in half precision: b is [K,N] or [N,K] for all items, a is not transposed. */
  inHalf: boolean
}

/** Partial results over parts of the inner dimension, `chunk` long but for the last. */
export interface Split {
  splits: number
  chunk: number
}

/** Uniforms of both programs; `valuesOf` gives them. A slice is one item in one split. */
export const uniforms: Kernel['uniforms'] = {
  batch: 'int32',
  M: 'int32',
  N: 'int32',
  K: 'int32',
  aItem: 'int32',
  biasItem: 'int32',
  block: 'int32',
  chunk: 'int32',
  splits: 'int32',
}

export function valuesOf(product: Product, { splits, chunk }: Split): Record<string, number> {
  const { batch, M, N, K, sharedA, biasByItem, block } = product
  const [aItem, biasItem] = [sharedA ? 0 : M * K, biasByItem ? N : 0]
  return { batch, M, N, K, aItem, biasItem, block: block ?? K, chunk, splits }
}

/** Whether b holds half-precision words; see half.ts. */
export function isHalf({ b }: Product): boolean {
  return b.dtype === 'int32'
}

/** The part of a program's name that says how the operands lie. */
export function layoutKey(product: Product): string {
  const { transposeA, transposeB, block, inHalf } = product
  const letters = `${transposeA ? 'T' : 'N'}${transposeB ? 'T' : 'N'}`
  return `${letters}${block === null ? '' : ' blocks'}${isHalf(product) ? ' half' : ''}${inHalf ? ' f16' : ''}`
}

/**
 * Parts of at least `least` elements, rounded to whole steps of 16, enough of them for `wanted` programs in all; one
 * part where there are `enough` tiles already or the inner dimension is short.
 */
export function splitInner(
  K: number,
  tiles: number,
  { enough, wanted, least }: { enough: number; wanted: number; least: number },
): Split {
  const parts = tiles < enough && K >= 1024 ? Math.min(Math.ceil(wanted / tiles), Math.floor(K / least)) : 1
  const chunk = Math.ceil(K / parts / 16) * 16
  return { splits: Math.ceil(K / chunk), chunk }
}

/**
 * WGSL of `aLoad(i)` and `bLoad(i)`: the operand's elements i … i + 3 as vec4<f32> where it is bound wide (i is then a
 * multiple of 4), otherwise element i.
 */
export function loadCode(product: Product, wideA: boolean, wideB: boolean): string {
  return `${floatLoad('a', wideA)}\n${isHalf(product) ? halfLoad(wideB) : floatLoad('b', wideB)}`
}

function floatLoad(x: string, wide: boolean): string {
  return wide
    ? `fn ${x}Load(i : i32) -> vec4<f32> { return ${x}[i >> 2u]; }`
    : `fn ${x}Load(i : i32) -> f32 { return ${x}[i]; }`
}

function halfLoad(wide: boolean): string {
  return wide
    ? `fn bLoad(i : i32) -> vec4<f32> {
  let words = bitcast<vec2<u32>>(b[i >> 2u]);
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}`
    : `fn bLoad(i : i32) -> f32 {
  let pair = unpack2x16float(bitcast<u32>(b[i >> 1u]));
  return select(pair.x, pair.y, (i & 1) == 1);
}`
}

/** How the inputs of a product and its ending are bound. */
export function components(
  product: Product,
  ending: Ending,
  wide: { a: boolean; b: boolean; result: boolean },
) {
  const whole = wide.result ? 4 : 1
  return {
    components: whole,
    inputComponents: [
      wide.a ? 4 : 1,
      wide.b ? (isHalf(product) ? 2 : 4) : 1,
      ...ending.inputs.map(() => whole),
    ],
  } satisfies Partial<Kernel>
}

const folds = new Map<string, Kernel>()

/** partials [splits,batch,M,N] -> their sum with `ending` applied, of `shape`. */
export function foldSplits<T extends tf.Tensor>(
  partials: tf.Tensor,
  { batch, M, N, biasByItem }: Product,
  splits: number,
  ending: Ending,
  shape: number[],
): T {
  const wide = N % 4 === 0
  const name = `matmul fold ${wide} ${ending.key}`
  const kernel = folds.get(name) ?? foldKernel(name, wide, ending)
  folds.set(name, kernel)
  const size = (batch * M * N) / (wide ? 4 : 1)
  const values = { ...ending.values, size, splits, rows: M, N, biasItem: biasByItem ? N : 0 }
  return runElements(kernel, [partials, ...ending.tensors], values, shape, size, ending.output)
}

function foldKernel(name: string, wide: boolean, ending: Ending): Kernel {
  return {
    name,
    inputs: ['partials', ...ending.inputs],
    writes: ending.writes,
    uniforms: {
      size: 'int32',
      splits: 'int32',
      rows: 'int32',
      N: 'int32',
      biasItem: 'int32',
      ...ending.uniforms,
    },
    workgroupSize: 64,
    components: wide ? 4 : 1,
    code: `${ending.code(wide)}
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  var total = partials[index];
  for (var s = 1; s < uniforms.splits; s++) { total += partials[s * uniforms.size + index]; }
  let at = index${wide ? ' * 4' : ''};
  let item = at / (uniforms.rows * uniforms.N);
  result[index] = finish(total, at, item * uniforms.biasItem + at % uniforms.N);
}`,
  }
}

export function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i)
}
