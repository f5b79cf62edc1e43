/**
 * Gradients of the bottleneck's four parameters in two dispatches: all of them over each chunk of rows, side by side, then
 * the sum of the chunks in their order, written where the gradients belong. This file has the layout of a chunk, the first
 * program and the second one.
 */
import * as tf from '@tensorflow/tfjs-core'
import { webgpuBackend } from './backend.ts'
import {
  accumulators,
  eachResult,
  foldLanes,
  lines,
  momentNames,
  perRow,
  range,
  rowMoments,
  step,
  vec4,
  zero,
} from './bottleneckTiles.ts'
import { runElements, type Kernel } from './program.ts'
import { aligned, viewOf, whereOf } from './views.ts'

/** Gradients of down weight [R,H], down bias [R], up weight [H,R] and up bias [H], as everywhere here in this order. */
export type BottleneckGradients = [tf.Tensor2D, tf.Tensor1D, tf.Tensor2D, tf.Tensor1D]

/** Where each of the four begins in a chunk, and the size of a chunk. */
export interface Layout {
  shapes: number[][]
  starts: number[]
  size: number
}

export function layoutOf(H: number, R: number): Layout {
  const shapes = [[R, H], [R], [H, R], [H]]
  let size = 0
  const starts = shapes.map((shape) => {
    const start = size
    size += aligned(tf.util.sizeFromShape(shape))
    return start
  })
  return { shapes, starts, size }
}

/** The uniforms with which the first program finds its way in a chunk; their values come from `layoutValues`. */
export const layoutUniforms = {
  size: 'int32',
  downBiasAt: 'int32',
  upWeightAt: 'int32',
  upBiasAt: 'int32',
} as const

export function layoutValues({ starts, size }: Layout): Record<keyof typeof layoutUniforms, number> {
  const [, downBiasAt = 0, upWeightAt = 0, upBiasAt = 0] = starts
  return { size, downBiasAt, upWeightAt, upBiasAt }
}

/** A workgroup takes a multiple of `step` rows, up to the most that it has room for moments of. */
export const chunkRows = { step: 64, most: 256 }

const threads = 256
/** Rows of the inner dimension in workgroup memory; the vec4 more than a row of the tile has spreads them over the banks. */
const [depth, width] = [16, 17]

/**
 * For R up to 64. One workgroup makes one of the two products for a chunk of rows, in tiles of 64 by 64, over every
 * `groups`-th part of the columns: dpreᵀ·LN(x), or aᵀ·dt, which is written transposed.
 */
export function weightKernel(normed: boolean): Kernel {
  return {
    name: `bottleneckWeightBackward tiled ${normed}`,
    inputs: ['dpre', 'a', 'dt', 'x', ...(normed ? ['weight', 'bias'] : [])],
    uniforms: {
      ...layoutUniforms,
      ...{
        N: 'int32',
        H: 'int32',
        R: 'int32',
        eps: 'float32',
        rows: 'int32',
        chunks: 'int32',
        groups: 'int32',
      },
    },
    workgroupSize: threads,
    code: `
var<workgroup> left : array<vec4<f32>, ${depth * width}>;
var<workgroup> right : array<vec4<f32>, ${depth * width}>;
${normed ? foldLanes + perRow(momentNames, chunkRows.most) : ''}${reading(normed)}${putting}
fn main(index : i32) {
  let thread = i32(localIndex);
  let rowQuad = thread / 16; let columnQuad = thread % 16;
  let block = index / ${threads};
  let group = block % uniforms.groups;
  let up = block / uniforms.groups % 2 == 1;
  let chunk = block / uniforms.groups / 2;
  ${normed ? chunkMoments : ''}
  let tiles = ((uniforms.H + 63) / 64 + uniforms.groups - 1) / uniforms.groups;
  for (var i = 0; i < tiles; i++) {
    let column = (group * tiles + i) * 64 + 4 * columnQuad;
    ${accumulators}
    var sum = ${zero};
    ${chunkProduct}
    if (chunk < uniforms.chunks) {
      let start = chunk * uniforms.size;
      ${lines(
        eachResult((i, j, c) => `put(start, 4 * rowQuad + ${i}, column + ${j}, ${c}, up);`),
        6,
      )}
      ${lines(
        range(4).map((i) => `putSum(start, 4 * rowQuad, column, ${i}, sum[${i}], up);`),
        6,
      )}
    }
  }
}`,
  }
}

/** An element of the narrow matrix, dpre or a, and of the wide one, LN(x) or dt; `n` is the row's place in its chunk. */
function reading(normed: boolean): string {
  const z = '(x[at] - means[n / 4][n % 4]) * rstds[n / 4][n % 4] * weight[h] + bias[h]'
  return `
fn narrowAt(row : i32, column : i32, up : bool) -> f32 {
  let at = row * uniforms.R + min(column, uniforms.R - 1);
  if (up) { return a[at]; }
  return dpre[at];
}
fn wideAt(row : i32, column : i32, up : bool, n : i32) -> f32 {
  let h = min(column, uniforms.H - 1);
  let at = row * uniforms.H + h;
  if (up) { return dt[at]; }
  return ${normed ? z : 'x[at]'};
}`
}

/** c0…c3 and the sums for a bias, over the rows of a chunk. */
const chunkProduct = `for (var n0 = 0; n0 < uniforms.rows; n0 += ${depth}) {
      let n = n0 + rowQuad;
      let inside = chunk * uniforms.rows + n < uniforms.N;
      let row = select(uniforms.N - 1, chunk * uniforms.rows + n, inside);
      let narrow = ${vec4((j) => `narrowAt(row, 4 * columnQuad + ${j}, up)`)};
      let wide = ${vec4((j) => `wideAt(row, column + ${j}, up, n)`)};
      workgroupBarrier();
      left[rowQuad * ${width} + columnQuad] = select(${zero}, narrow, inside);
      right[rowQuad * ${width} + columnQuad] = select(${zero}, wide, inside);
      workgroupBarrier();
      if (4 * rowQuad < uniforms.R) {
        for (var k = 0; k < ${depth}; k += 4) {
          ${lines(
            range(4).map((s) => {
              const [l, r] = [
                `left[(k + ${s}) * ${width} + rowQuad]`,
                `right[(k + ${s}) * ${width} + columnQuad]`,
              ]
              return step(l, r, 'sum += select(l, r, up);')
            }),
            10,
          )}
        }
      }
    }`

/** The moments of a chunk, 64 rows at a time; a workgroup for the up-projection needs none and goes over no columns. */
const chunkMoments = `for (var n0 = 0; n0 < uniforms.rows; n0 += ${chunkRows.step}) {
    let first = chunk * uniforms.rows + n0;
    ${rowMoments('x', null, 'n0', 'select(uniforms.H, 0, up)')}
  }`

/** An element of a chunk's product; the sums of its rows or columns, which the lanes at the product's edge have. */
const putting = `
fn put(start : i32, r : i32, h : i32, product : f32, up : bool) {
  if ((r < uniforms.R) & (h < uniforms.H)) {
    result[start + select(r * uniforms.H + h, uniforms.upWeightAt + h * uniforms.R + r, up)] = product;
  }
}
fn putSum(start : i32, r : i32, h : i32, i : i32, sum : f32, up : bool) {
  if (up & (r == 0) & (h + i < uniforms.H)) { result[start + uniforms.upBiasAt + h + i] = sum; }
  if (!up & (h == 0) & (r + i < uniforms.R)) { result[start + uniforms.downBiasAt + r + i] = sum; }
}`

/**
 * Adds up `chunks` chunks and writes the four gradients, the last two times `factor`, into `outputs`: one dispatch for all
 * outputs that lie in one memory, and one for those that are null, which become new tensors.
 */
export function foldChunks(
  partial: tf.Tensor,
  layout: Layout,
  { chunks, factor }: { chunks: number; factor: number },
  outputs: readonly (tf.Tensor | null)[],
): BottleneckGradients {
  const fold = (targets: number[], flat: tf.TensorInfo | null) => {
    const uniforms: Record<string, number> = { size: layout.size, chunks, factor }
    layout.shapes.forEach((shape, i) => {
      uniforms[`from${i}`] = layout.starts[i]!
      uniforms[`length${i}`] = tf.util.sizeFromShape(shape)
      uniforms[`to${i}`] = targets[i]!
    })
    return runElements<tf.Tensor1D>(foldKernel, [partial], uniforms, [layout.size], layout.size, flat)
  }
  const targets = new Map<tf.DataId, { flat: tf.TensorInfo; to: number[] }>()
  outputs.forEach((output, i) => {
    if (!output) return
    const { flat, offset } = whereOf(output) ?? { flat: output, offset: 0 }
    const target = targets.get(flat.dataId) ?? { flat, to: outputs.map(() => -1) }
    target.to[i] = offset
    targets.set(flat.dataId, target)
    forget(output)
  })
  for (const { flat, to } of targets.values()) fold(to, flat)
  if (outputs.every((output) => output !== null)) return outputs as unknown as BottleneckGradients
  const packed = fold(
    layout.starts.map((start, i) => (outputs[i] ? -1 : start)),
    null,
  )
  const gradients = layout.shapes.map((shape, i) => outputs[i] ?? viewOf(packed, layout.starts[i]!, shape))
  packed.dispose()
  return gradients as unknown as BottleneckGradients
}

/** What tfjs once read of a tensor whose memory is written under another name. */
function forget({ dataId }: tf.Tensor): void {
  webgpuBackend().tensorMap.get(dataId).values = undefined as unknown as tf.backend_util.TypedArray
}

const parts = [0, 1, 2, 3]

/** Parts that go nowhere have a `to` of -1. */
const foldKernel: Kernel = {
  name: 'bottleneckFold',
  inputs: ['partial'],
  uniforms: {
    ...{ size: 'int32', chunks: 'int32', factor: 'float32' },
    ...Object.fromEntries(parts.flatMap((i) => [`from${i}`, `length${i}`, `to${i}`].map((key) => [key, 'int32' as const]))), // prettier-ignore
  },
  workgroupSize: 64,
  code: `
fn main(index : i32) {
  if (index >= uniforms.size) { return; }
  var to = -1;
  var factor = 1.0;
  ${lines(
    parts.map(
      (i) => `{
    let at = index - uniforms.from${i};
    if ((uniforms.to${i} >= 0) & (at >= 0) & (at < uniforms.length${i})) {
      to = uniforms.to${i} + at;
      factor = ${i < 2 ? '1.0' : 'uniforms.factor'};
    }
  }`,
    ),
  )}
  if (to < 0) { return; }
  var total = 0.0;
  for (var chunk = 0; chunk < uniforms.chunks; chunk++) { total += partial[chunk * uniforms.size + index]; }
  result[to] = total * factor;
}`,
}
