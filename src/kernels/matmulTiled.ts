/**
 * Matrix product for GPUs. A workgroup computes a square tile of the result, each of its invocations 4x4 of it in named
 * variables, over steps of 16 of the inner dimension that pass through workgroup memory; the next step's elements are
 * on their way from global memory meanwhile. Operands are read as vec4s where what is contiguous in them is a multiple
 * of 4. Whatever their order in memory, the invocations of a subgroup read neighbouring vec4s of workgroup memory:
 * operands that are contiguous along the inner dimension are kept as four columns of vec4s for that. Indices beyond the
 * edge are clamped to it and count as zero, so no element outside the matrices is read.
 *
 * In half precision (where the device has the extension f16) the tiles hold f16, four products at a time are made and
 * added in f16, and those sums go to float32. Each row of a passes through multiplied by a power of two that brings its
 * largest element between 4 and 8, so neither the smallest gradients nor the largest activations leave the range of f16;
 * the result is divided by it again. b is taken as it is: what lies beyond ±65504 becomes that, and from ±2048 on sums of
 * four products may become infinite.
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
import { runWorkgroups, type Kernel } from './program.ts'
import { rowScale } from './rowScale.ts'

/** The inner dimension of a step, as vec4s. */
const quads = 4
/** Rows of tiles that are computed together, column by column, so that caches serve what they share. */
const band = 8

/** A product cut up for workgroups. */
export interface TiledPlan extends Split {
  /** Rows and columns of a tile. */
  size: 64 | 32
  tiles: number
}

/** Tiles of 64 where there are enough of them and little of them is empty; few tiles split the inner dimension. */
export function planTiled({ batch, M, N, K }: Product): TiledPlan {
  const count = (size: number) => batch * Math.ceil(M / size) * Math.ceil(N / size)
  const area = (size: number) => count(size) * size * size
  const size = count(64) >= 128 && area(64) <= 1.25 * area(32) ? 64 : 32
  const tiles = count(size)
  return { size, tiles, ...splitInner(K, tiles, { enough: 64, wanted: 256, least: 128 }) }
}

/** a·b as `plan` says, of `shape` [(splits),batch,M,N], with `ending` applied. */
export function runTiled<T extends tf.Tensor>(
  product: Product,
  plan: TiledPlan,
  ending: Ending,
  shape: number[],
): T {
  const { a, b, M, K, block, inHalf } = product
  const scale = inHalf ? rowScale(a, M, K, block ?? K) : null
  const result = runWorkgroups<T>(
    tiledKernel(product, plan.size, ending),
    [a, b, ...ending.tensors, ...(scale ? [scale] : [])],
    { ...valuesOf(product, plan), ...ending.values },
    shape,
    plan.tiles * plan.splits,
    ending.output,
  )
  scale?.dispose()
  return result
}

/** Which bindings are vec4s. */
interface Wide {
  a: boolean
  b: boolean
  result: boolean
}

const kernels = new Map<string, Kernel>()

function tiledKernel(product: Product, size: number, ending: Ending): Kernel {
  const { transposeA, transposeB, M, N, K, block, inHalf } = product
  const wide = {
    a: (transposeA ? M : (block ?? K)) % 4 === 0,
    b: (transposeB ? K : N) % 4 === 0,
    result: N % 4 === 0,
  }
  const name = `matmulTiled ${size} ${layoutKey(product)} ${Object.values(wide)} ${ending.key}`
  let kernel = kernels.get(name)
  if (!kernel) {
    const bound = components(product, ending, wide)
    kernel = {
      name,
      inputs: ['a', 'b', ...ending.inputs, ...(inHalf ? ['scale'] : [])],
      enable: inHalf ? ['f16'] : [],
      writes: ending.writes,
      uniforms: { ...uniforms, ...ending.uniforms },
      workgroupSize: (size * size) / 16,
      ...bound,
      inputComponents: [...bound.inputComponents, ...(inHalf ? [1 as const] : [])],
      code: [
        loadCode(product, wide.a, wide.b),
        ending.code(wide.result),
        tiledCode(product, wide, size),
      ].join('\n'),
    }
    kernels.set(name, kernel)
  }
  return kernel
}

/** One operand in one program. */
interface Operand {
  name: 'a' | 'b'
  wide: boolean
  /** Its outer dimension, not the inner one, is contiguous. */
  across: boolean
  /** WGSL of the size of its outer dimension, and of the first outer index of the tile. */
  outer: string
  first: string
  /** WGSL that turns an inner index into an offset, and the distance of outer indices; where not `across`. */
  along: (k: string) => string
  stride: string
  /** Its tile holds f16. */
  half: boolean
}

function tiledCode(product: Product, wide: Wide, size: number): string {
  const jump = (k: string) => `${k} + ${k} / uniforms.block * uniforms.block * (uniforms.M - 1)`
  const a: Operand = {
    name: 'a',
    wide: wide.a,
    across: product.transposeA,
    outer: 'uniforms.M',
    first: 'row',
    along: product.block === null ? (k) => k : jump,
    stride: 'uniforms.block',
    half: product.inHalf,
  }
  const b: Operand = {
    name: 'b',
    wide: wide.b,
    across: !product.transposeB,
    outer: 'uniforms.N',
    first: 'column',
    along: (k) => k,
    stride: 'uniforms.K',
    half: product.inHalf,
  }
  return `
${quadCode(a)}
${quadCode(b)}
var<workgroup> aTile : array<${quadType(a)}, ${tileLength(a, size)}>;
var<workgroup> bTile : array<${quadType(b)}, ${tileLength(b, size)}>;
${mainCode(a, b, wide.result, size)}`
}

function mainCode(a: Operand, b: Operand, wideResult: boolean, size: number): string {
  const threads = (size * size) / 16
  const moves = [a, b].map((x) => loadMoves(x, size))
  return `
fn main(index : i32) {
  let local = index % ${threads};
  ${placeCode(size)}
  ${moves.flatMap(({ places }) => places).join('\n  ')}
  ${range(4)
    .map((i) => `var c${i} = vec4<f32>();`)
    .join(' ')}
  for (var step = 0; step <= steps; step++) {
    ${moves.flatMap(({ variables }) => variables).join('\n    ')}
    if (step < steps) {
      let k = first + step * 16;
      ${moves.flatMap(({ loads }) => loads).join('\n      ')}
    }
    if (step > 0) {
      for (var q = 0; q < ${quads}; q++) {
        ${tileReads(a, size).join('\n        ')}
        ${tileReads(b, size).join('\n        ')}
        ${range(4)
          .map((k) => `let row${k} = ${rowOf(b, k)};`)
          .join('\n        ')}
        ${sums(a).join('\n        ')}
      }
    }
    workgroupBarrier();
    if (step < steps) {
      ${moves.flatMap(({ stores }) => stores).join('\n      ')}
    }
    workgroupBarrier();
  }
  if (group >= count) { return; }
  ${a.half ? range(4).map(unscale).join('\n  ') : ''}
  ${range(4)
    .map((i) => storeRow(i, wideResult))
    .join('\n  ')}
}`
}

/** Which tile of which slice this workgroup computes, and which 4x4 of it this invocation does. */
function placeCode(size: number): string {
  const threads = (size * size) / 16
  const side = size / 4
  return `
  let M = uniforms.M; let N = uniforms.N;
  let across = (N + ${size - 1}) / ${size};
  let down = (M + ${size - 1}) / ${size};
  let tiles = across * down;
  let count = tiles * uniforms.batch * uniforms.splits;
  let group = index / ${threads};
  let slice = min(group, count - 1) / tiles;
  let place = min(group, count - 1) % tiles;
  let item = slice % uniforms.batch;
  let top = place / (${band} * across) * ${band};
  let high = min(${band}, down - top);
  let inBand = place - top * across;
  let row = (top + inBand % high) * ${size};
  let column = inBand / high * ${size};
  let aStart = item * uniforms.aItem;
  let bStart = item * uniforms.K * N;
  let first = slice / uniforms.batch * uniforms.chunk;
  let end = min(uniforms.K, first + uniforms.chunk);
  let steps = (uniforms.chunk + 15) / 16;
  let x = local % ${side};
  let y = local / ${side};`
}

/**
 * `aQuad(start, o, k, end)` with the inner indices k … k + 3 of outer index o or, across, outer indices o … o + 3 of inner
 * index k; inner indices from `end` on give zeros.
 */
function quadCode({ name, wide, across, outer, along, stride }: Operand): string {
  const load = (index: string) => `${name}Load(${index})`
  const lanes = (index: (lane: number) => string) =>
    `vec4<f32>(${range(4)
      .map((lane) => load(index(lane)))
      .join(', ')})`
  const inner = (k: string) => `start + o * ${stride} + ${along(k)}`
  let value: string
  let inside = 'k < end'
  if (across) {
    const base = `start + min(k, end - 1) * ${outer}`
    value = wide ? load(`${base} + o`) : lanes((lane) => `${base} + min(o + ${lane}, ${outer} - 1)`)
  } else if (wide) {
    value = `${load(inner('at'))}`
  } else {
    value = lanes((lane) => inner(`at${lane}`))
    inside = 'vec4<i32>(k, k + 1, k + 2, k + 3) < vec4<i32>(end)'
  }
  const ats = range(4).map((lane) => `let at${lane} = min(k + ${lane}, end - 1);`)
  return `
fn ${name}Quad(start : i32, o : i32, k : i32, end : i32) -> vec4<f32> {
  ${across ? '' : wide ? 'let at = min(k, end - 4);' : ats.join(' ')}
  return select(vec4<f32>(), ${value}, ${inside});
}`
}

/**
 * How far apart vec4s lie in workgroup memory. Across: 4·q + k rows of neighbours. Along the inner dimension: q blocks of
 * four rows of neighbours, the rows and blocks padded so that eight invocations that write eight vec4s of two rows of
 * the operand hit different banks.
 */
function spacing(size: number): { row: number; block: number } {
  const row = size / 4 + 4
  return { row, block: 4 * row + 1 }
}

function quadType({ half }: Operand): string {
  return half ? 'vec4<f16>' : 'vec4<f32>'
}

function tileLength({ across }: Operand, size: number): number {
  return across ? 4 * size : quads * spacing(size).block
}

/** How one invocation brings its share of a step's vec4s to workgroup memory. */
function loadMoves(operand: Operand, size: number) {
  const { name, wide, across, outer, first, half } = operand
  const threads = (size * size) / 16
  const each = range((4 * size) / threads)
  const { row, block } = spacing(size)
  const places = each.map((n) => {
    const item = `(local + ${n * threads})`
    const [o, k] = across
      ? [`${item} % ${size / 4} * 4`, `${item} / ${size / 4}`]
      : [`${item} / 4`, `${item} % 4 * 4`]
    const to = across ? item : `${item} % 4 * ${block} + ${item} / 4 % 4 * ${row} + ${item} / 16`
    const last = across && wide ? `${outer} - 4` : `${outer} - 1`
    const scale = half && name === 'a' ? ` let aScale${n} = scale[aO${n}];` : ''
    return `let ${name}O${n} = min(${first} + ${o}, ${last}); let ${name}K${n} = ${k}; let ${name}To${n} = ${to};${scale}`
  })
  return {
    places,
    variables: each.map((n) => `var ${name}Next${n} = vec4<f32>();`),
    loads: each.map(
      (n) => `${name}Next${n} = ${name}Quad(${name}Start, ${name}O${n}, k + ${name}K${n}, end);`,
    ),
    stores: each.map((n) => `${name}Tile[${name}To${n}] = ${stored(operand, n)};`),
  }
}

/** What goes to workgroup memory of the `n`th vec4 that was loaded. */
function stored({ name, half }: Operand, n: number): string {
  const next = `${name}Next${n}`
  if (!half) return next
  return `vec4<f16>(${name === 'a' ? `${next} * aScale${n}` : `clamp(${next}, vec4<f32>(-65504.0), vec4<f32>(65504.0))`})`
}

/** Statements that add a step's four inner indices to each row of the 4x4. */
function sums(a: Operand): string[] {
  if (!a.half) return range(4).flatMap((k) => range(4).map((i) => `c${i} += ${part(a, i, k)} * row${k};`))
  const products = (i: number) => range(4).map((k) => `${part(a, i, k)} * row${k}`)
  return range(4).map((i) => `c${i} += vec4<f32>(${products(i).join(' + ')});`)
}

/** Row `i` of the 4x4 over its power of two, whose stored exponent and that of its inverse make 254. */
function unscale(i: number): string {
  const scale = `scale[min(row + y * 4 + ${i}, M - 1)]`
  return `c${i} *= bitcast<f32>(0x7f000000u - bitcast<u32>(${scale}));`
}

/** The four vec4s that an invocation needs of an operand in step q. */
function tileReads({ name, across }: Operand, size: number): string[] {
  const { row, block } = spacing(size)
  const group = name === 'a' ? 'y' : 'x'
  return range(4).map((n) =>
    across
      ? `let ${name}${n} = ${name}Tile[(q * 4 + ${n}) * ${size / 4} + ${group}];`
      : `let ${name}${n} = ${name}Tile[q * ${block} + ${n * row} + ${group}];`,
  )
}

/** Inner index `k` of what `tileReads` read of b, for its four outer indices. */
function rowOf(operand: Operand, k: number): string {
  const { name, across } = operand
  const elements = range(4).map((j) => `${name}${j}.${'xyzw'[k]}`)
  return across ? `${name}${k}` : `${quadType(operand)}(${elements.join(', ')})`
}

/** The element of an operand at outer index `i` and inner index `k` of what `tileReads` read. */
function part({ name, across }: Operand, i: number, k: number): string {
  return across ? `${name}${k}.${'xyzw'[i]}` : `${name}${i}.${'xyzw'[k]}`
}

function storeRow(i: number, wide: boolean): string {
  const at = `(slice * M + row + y * 4 + ${i}) * N + column + x * 4`
  const biasAt = 'item * uniforms.biasItem + column + x * 4'
  const cell = (j: number) =>
    `if (column + x * 4 + ${j} < N) { result[at + ${j}] = finish(c${i}.${'xyzw'[j]}, at + ${j}, ${biasAt} + ${j}); }`
  const store = wide
    ? `if (column + x * 4 < N) { result[at >> 2u] = finish(c${i}, at, ${biasAt}); }`
    : range(4).map(cell).join(' ')
  return `if (row + y * 4 + ${i} < M) { let at = ${at}; ${store} }`
}
