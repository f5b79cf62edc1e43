/**
 * Matrix product without workgroup memory or barriers, for software adapters: they run a barrier by switching threads,
 * which makes tfjs's packed program many times slower than this one there. Each invocation keeps a square tile of the
 * result in named variables (arrays would go to memory), loads vec4s where the sizes that are contiguous in memory are
 * multiples of 4, and sums over the inner dimension in order, so a result repeats bit for bit. Indices beyond the edge
 * are clamped to it and their results dropped: no element outside the matrices is ever read.
 */
import type * as tf from '@tensorflow/tfjs-core'
import { runElements, type Kernel } from './program.ts'

/** Sizes of one product: a is [batch,M,K] or [batch,K,M] transposed, b is [batch,K,N] or [batch,N,K] transposed. */
export interface MatmulSizes {
  batch: number
  M: number
  N: number
  K: number
}

/** a·b (+ bias [N] on every row) as a new tensor of `shape`, which has batch·M·N elements. */
export function matmulTiled<T extends tf.Tensor>(
  a: tf.Tensor,
  b: tf.Tensor,
  transposeA: boolean,
  transposeB: boolean,
  { batch, M, N, K }: MatmulSizes,
  shape: number[],
  bias: tf.Tensor1D | null = null,
): T {
  const wide = K % 4 === 0 && N % 4 === 0 && (!transposeA || M % 4 === 0)
  const size = wide ? 8 : 4
  const kernel = tileKernel({ wide, size, transposeA, transposeB, biased: bias !== null })
  const tiles = batch * Math.ceil(M / size) * Math.ceil(N / size)
  return runElements(kernel, bias ? [a, b, bias] : [a, b], { batch, M, N, K }, shape, tiles)
}

interface Tile {
  /** Operands and result are bound as vec4. */
  wide: boolean
  /** Rows and columns of the result that one invocation computes. */
  size: number
  transposeA: boolean
  transposeB: boolean
  biased: boolean
}

const kernels = new Map<string, Kernel>()

function tileKernel(tile: Tile): Kernel {
  const { wide, size, transposeA, transposeB, biased } = tile
  const name = `matmulTiled ${wide} ${size} ${transposeA} ${transposeB} ${biased}`
  let kernel = kernels.get(name)
  if (!kernel) {
    kernel = {
      name,
      inputs: biased ? ['a', 'b', 'bias'] : ['a', 'b'],
      uniforms: { batch: 'int32', M: 'int32', N: 'int32', K: 'int32' },
      workgroupSize: 64,
      components: wide ? 4 : 1,
      code: tileCode(tile),
    }
    kernels.set(name, kernel)
  }
  return kernel
}

function tileCode(tile: Tile): string {
  const { wide, size, transposeA, transposeB } = tile
  const each = range(size)
  const products = (i: number, j: number) =>
    range(wide ? 4 : 1)
      .map((k) => `${element('a', i, k, wide, transposeA)} * ${element('b', j, k, wide, !transposeB)}`)
      .join(' + ')
  return `
fn main(index : i32) {
  let M = uniforms.M; let N = uniforms.N; let K = uniforms.K;
  let across = (N + ${size - 1}) / ${size};
  let down = (M + ${size - 1}) / ${size};
  let item = index / (across * down);
  if (item >= uniforms.batch) { return; }
  let row = index / across % down * ${size};
  let column = index % across * ${size};
  let aStart = item * M * K; let bStart = item * K * N; let start = item * M * N;
  ${each.map((i) => `let i${i} = min(row + ${i}, M - 1); let j${i} = min(column + ${i}, N - 1);`).join('\n  ')}
  ${each.map((i) => each.map((j) => `var c${i}_${j} = 0.0;`).join(' ')).join('\n  ')}
  for (var k = 0; k < K; k += ${wide ? 4 : 1}) {
    ${loads('a', 'i', size, wide, transposeA, 'M').join('\n    ')}
    ${loads('b', 'j', size, wide, !transposeB, 'N').join('\n    ')}
    ${each.flatMap((i) => each.map((j) => `c${i}_${j} += ${products(i, j)};`)).join('\n    ')}
  }
  ${each.map((i) => `if (row + ${i} < M) { ${stores(i, tile)} }`).join('\n  ')}
}`
}

/**
 * Loads of one step of k from operand `x`, whose outer index is `o`0…: `across` says that the outer index is the
 * contiguous one (x[k, o]); otherwise k is (x[o, k]).
 */
function loads(x: string, o: string, size: number, wide: boolean, across: boolean, width: string): string[] {
  const at = (index: string) => (wide ? `${x}[(${x}Start + ${index}) >> 2u]` : `${x}[${x}Start + ${index}]`)
  if (!across) return range(size).map((i) => `let ${x}${i} = ${at(`${o}${i} * K + k`)};`)
  if (!wide) return range(size).map((i) => `let ${x}${i} = ${at(`k * ${width} + ${o}${i}`)};`)
  return range(4).flatMap((k) =>
    range(size / 4).map((quad) => `let ${x}${quad}_${k} = ${at(`(k + ${k}) * ${width} + ${o}${quad * 4}`)};`),
  )
}

/** The loaded value of operand `x` at outer index `i` and step k + `k`. */
function element(x: string, i: number, k: number, wide: boolean, across: boolean): string {
  if (!wide) return `${x}${i}`
  return across ? `${x}${i >> 2}_${k}.${'xyzw'[i & 3]}` : `${x}${i}.${'xyzw'[k]}`
}

function stores(i: number, { wide, size, biased }: Tile): string {
  const to = (j: number) => `result[(start + (row + ${i}) * N + column + ${j})${wide ? ' >> 2u' : ''}]`
  const value = (j: number) =>
    wide ? `vec4<f32>(c${i}_${j}, c${i}_${j + 1}, c${i}_${j + 2}, c${i}_${j + 3})` : `c${i}_${j}`
  const bias = (j: number) => (biased ? ` + bias[(column + ${j})${wide ? ' >> 2u' : ''}]` : '')
  return range(wide ? size / 4 : size)
    .map((quad) => (wide ? quad * 4 : quad))
    .map((j) => `if (column + ${j} < N) { ${to(j)} = ${value(j)}${bias(j)}; }`)
    .join(' ')
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i)
}
