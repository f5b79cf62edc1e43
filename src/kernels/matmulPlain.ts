/**
 * Matrix product without workgroup memory or barriers, for software adapters: they run a barrier by switching threads,
 * which makes the program for GPUs many times slower than this one there. Each invocation keeps a square tile of the
 * result in named variables (arrays would go to memory), loads vec4s where the sizes that are contiguous in memory are
 * multiples of 4, and sums over the inner dimension in order, so a result repeats bit for bit. Indices beyond the edge
 * are clamped to it and their results dropped: no element outside the matrices is ever read.
 */
import type * as tf from '@tensorflow/tfjs-core'
import type { Ending } from './epilogue.ts'
import {
  components,
  layoutKey,
  loadCode,
  range,
  splitInner,
  uniforms,
  valuesOf,
  type Product,
  type Split,
} from './matmulForm.ts'
import { runElements, type Kernel } from './program.ts'

/** A product cut up for invocations. */
export interface PlainPlan extends Split {
  /** Everything is bound as vec4s. */
  wide: boolean
  /** Rows and columns of the result that one invocation computes. */
  size: 8 | 4
  tiles: number
}

/** Few tiles split a long inner dimension, so that every core has work. */
export function planPlain({ batch, M, N, K, transposeA, block }: Product): PlainPlan {
  const wide = (block ?? K) % 4 === 0 && K % 4 === 0 && N % 4 === 0 && (!transposeA || M % 4 === 0)
  const size = wide ? 8 : 4
  const tiles = batch * Math.ceil(M / size) * Math.ceil(N / size)
  return { wide, size, tiles, ...splitInner(K, tiles, { enough: 256, wanted: 512, least: 256 }) }
}

/** a·b as `plan` says, of `shape` [(splits),batch,M,N], with `ending` applied. */
export function runPlain<T extends tf.Tensor>(
  product: Product,
  plan: PlainPlan,
  ending: Ending,
  shape: number[],
): T {
  return runElements(
    plainKernel(product, plan, ending),
    [product.a, product.b, ...ending.tensors],
    { ...valuesOf(product, plan), ...ending.values },
    shape,
    plan.tiles * plan.splits,
    ending.output,
  )
}

const kernels = new Map<string, Kernel>()

function plainKernel(product: Product, { wide, size }: PlainPlan, ending: Ending): Kernel {
  const name = `matmulPlain ${wide} ${layoutKey(product)} ${ending.key}`
  let kernel = kernels.get(name)
  if (!kernel) {
    kernel = {
      name,
      inputs: ['a', 'b', ...ending.inputs],
      writes: ending.writes,
      uniforms: { ...uniforms, ...ending.uniforms },
      workgroupSize: 64,
      ...components(product, ending, { a: wide, b: wide, result: wide }),
      code: [loadCode(product, wide, wide), ending.code(wide), tileCode(product, wide, size)].join('\n'),
    }
    kernels.set(name, kernel)
  }
  return kernel
}

function tileCode({ transposeA, transposeB, block }: Product, wide: boolean, size: number): string {
  const each = range(size)
  const products = (i: number, j: number) =>
    range(wide ? 4 : 1)
      .map((k) => `${element('a', i, k, wide, transposeA)} * ${element('b', j, k, wide, !transposeB)}`)
      .join(' + ')
  const a = operand({ name: 'a', o: 'i', across: transposeA, wide, size, width: 'M', stride: 'block' })
  const b = operand({ name: 'b', o: 'j', across: !transposeB, wide, size, width: 'N', stride: 'K' })
  return `
fn main(index : i32) {
  let M = uniforms.M; let N = uniforms.N; let K = uniforms.K; let block = uniforms.block;
  let across = (N + ${size - 1}) / ${size};
  let down = (M + ${size - 1}) / ${size};
  let slice = index / (across * down);
  if (slice >= uniforms.batch * uniforms.splits) { return; }
  let item = slice % uniforms.batch;
  let row = index / across % down * ${size};
  let column = index % across * ${size};
  let aStart = item * uniforms.aItem; let bStart = item * K * N;
  let first = slice / uniforms.batch * uniforms.chunk;
  let end = min(K, first + uniforms.chunk);
  ${each.map((i) => `let i${i} = min(row + ${i}, M - 1); let j${i} = min(column + ${i}, N - 1);`).join('\n  ')}
  ${[...a.starts, ...b.starts].join('\n  ')}
  ${each.map((i) => each.map((j) => `var c${i}_${j} = 0.0;`).join(' ')).join('\n  ')}
  for (var k = first; k < end; k += ${wide ? 4 : 1}) {
    let ak = k${block === null ? '' : ' + k / block * block * (M - 1)'};
    let bk = k;
    ${[...a.loads, ...b.loads].join('\n    ')}
    ${each.flatMap((i) => each.map((j) => `c${i}_${j} += ${products(i, j)};`)).join('\n    ')}
  }
  ${each.map((i) => `if (row + ${i} < M) { ${stores(i, wide, size)} }`).join('\n  ')}
}`
}

/** One operand in one program. */
interface Operand {
  name: 'a' | 'b'
  /** Its outer indices are o0, o1, …; across, they are contiguous, and `width` of them make a row. */
  o: string
  across: boolean
  width: string
  /** From one outer index to the next where they are not contiguous. */
  stride: string
  wide: boolean
  size: number
}

/** Where an operand's loads start, and the loads of one step of k. */
function operand({ name: x, o, across, width, stride, wide, size }: Operand) {
  const quads = across && wide ? range(size / 4).map((quad) => quad * 4) : range(size)
  const starts = quads.map((i) => `let ${x}At${i} = ${x}Start + ${o}${i}${across ? '' : ` * ${stride}`};`)
  if (!across) return { starts, loads: quads.map((i) => `let ${x}${i} = ${x}Load(${x}At${i} + ${x}k);`) }
  const loads = range(wide ? 4 : 1).flatMap((k) => [
    `let ${x}Row${k} = (k + ${k}) * ${width};`,
    ...quads.map(
      (i) => `let ${wide ? `${x}${i / 4}_${k}` : `${x}${i}`} = ${x}Load(${x}At${i} + ${x}Row${k});`,
    ),
  ])
  return { starts, loads }
}

/** The loaded value of operand `x` at outer index `i` and step k + `k`. */
function element(x: string, i: number, k: number, wide: boolean, across: boolean): string {
  if (!wide) return `${x}${i}`
  return across ? `${x}${i >> 2}_${k}.${'xyzw'[i & 3]}` : `${x}${i}.${'xyzw'[k]}`
}

function stores(i: number, wide: boolean, size: number): string {
  const at = `let at = (slice * M + row + ${i}) * N + column;`
  const biasAt = 'item * uniforms.biasItem + column'
  const quad = (j: number) => `vec4<f32>(c${i}_${j}, c${i}_${j + 1}, c${i}_${j + 2}, c${i}_${j + 3})`
  const cells = range(wide ? size / 4 : size)
    .map((n) => (wide ? n * 4 : n))
    .map((j) => {
      const value = `finish(${wide ? quad(j) : `c${i}_${j}`}, at + ${j}, ${biasAt} + ${j})`
      return `if (column + ${j} < N) { result[(at + ${j})${wide ? ' >> 2u' : ''}] = ${value}; }`
    })
  return [at, ...cells].join(' ')
}
