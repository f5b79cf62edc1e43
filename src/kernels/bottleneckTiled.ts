/**
 * The programs of bottleneck.ts for GPUs, but for the weight gradients. A workgroup of 128 takes 32 rows: it finds their
 * moments, then multiplies tiles of 32 steps in workgroup memory; LayerNorm and its gradient are applied as a tile is
 * read, so that neither is ever stored unless it is a result.
 */
import { activationCode, type Activation } from './activations.ts'
import {
  accumulators,
  component,
  eachResult,
  foldLanes,
  folding,
  gradientNames,
  lines,
  momentNames,
  perRow,
  range,
  rowMoments,
  rowsOf,
  step,
  vec4,
  zero,
} from './bottleneckTiles.ts'
import type { Kernel } from './program.ts'

/** Rows of a workgroup, and columns of a product that it makes at once. */
export const tile = { rows: 32, columns: 64 }

const threads = 128
const sizes = { N: 'int32', H: 'int32', R: 'int32', eps: 'float32' } as const

/** LN(x)·weightᵀ + bias and its activation, the one behind the other: [pre | a]. */
export function downKernel(normed: boolean, activation: Activation): Kernel {
  const { functions, forward } = activationCode(activation)
  const value = normed ? '(v - means[quad]) * rstds[quad] * weight[k] + vec4<f32>(bias[k])' : 'v'
  return {
    name: `bottleneckDown tiled ${normed} ${activation}`,
    inputs: ['x', 'downWeight', 'downBias', ...(normed ? ['weight', 'bias'] : [])],
    uniforms: { ...sizes, aAt: 'int32' },
    workgroupSize: threads,
    code: `${functions}${memory}${normed ? foldLanes + perRow(momentNames, tile.rows) : ''}
fn leftAt(row : i32, k : i32, quad : i32) -> vec4<f32> {
  if (k >= uniforms.H) { return ${zero}; }
  let v = ${rowsOf('x', 'uniforms.H')};
  return ${value};
}
fn rightAt(column : i32, k : i32) -> vec4<f32> {
  let inside = min(k, uniforms.H - 1);
  return ${vec4((j) => `downWeight[min(column + ${j}, uniforms.R - 1) * uniforms.H + inside]`)};
}
fn put(row : i32, column : i32, product : f32) {
  if ((row < uniforms.N) & (column < uniforms.R)) {
    let at = row * uniforms.R + column;
    let v = product + downBias[column];
    result[at] = v;
    result[uniforms.aAt + at] = ${forward};
  }
}
fn main(index : i32) {
  let thread = i32(localIndex);
  let first = index / ${threads} * ${tile.rows};
  ${normed ? rowMoments('x', null) : ''}
  let rowQuad = thread % 8; let columnQuad = thread / 8;
  ${accumulators}
  ${product('uniforms.H', '0', 'uniforms.R', 'k')}
  ${lines(eachResult((i, j, c) => `put(first + 4 * rowQuad + ${i}, 4 * columnQuad + ${j}, ${c});`))}
}`,
  }
}

/** t = residual + factor·(a·weightᵀ + bias), and its LayerNorm: [t | y], or y over t where `yAt` is 0. */
export function upKernel(): Kernel {
  return {
    name: 'bottleneckUp tiled',
    inputs: ['a', 'upWeight', 'upBias', 'residual', 'weight', 'bias'],
    uniforms: { ...sizes, yAt: 'int32', factor: 'float32' },
    workgroupSize: threads,
    code: `${memory}${foldRows}
fn leftAt(row : i32, k : i32, quad : i32) -> vec4<f32> {
  if (k >= uniforms.R) { return ${zero}; }
  return ${rowsOf('a', 'uniforms.R')};
}
fn rightAt(column : i32, k : i32) -> vec4<f32> {
  let inside = min(k, uniforms.R - 1);
  return ${vec4((j) => `upWeight[min(column + ${j}, uniforms.H - 1) * uniforms.R + inside]`)};
}
fn put(row : i32, h : i32, product : f32) -> f32 {
  if ((row >= uniforms.N) | (h >= uniforms.H)) { return 0.0; }
  let at = row * uniforms.H + h;
  let t = residual[at] + uniforms.factor * (product + upBias[h]);
  result[at] = t;
  return t;
}
fn normed(row : i32, h : i32, mean : f32, rstd : f32) {
  if ((row < uniforms.N) & (h < uniforms.H)) {
    let at = row * uniforms.H + h;
    result[uniforms.yAt + at] = (result[at] - mean) * rstd * weight[h] + bias[h];
  }
}
fn main(index : i32) {
  let thread = i32(localIndex);
  let first = index / ${threads} * ${tile.rows};
  let rowQuad = thread / 16; let columnQuad = thread % 16;
  let row = first + 4 * rowQuad;
  var total = ${zero};
  for (var h0 = 0; h0 < uniforms.H; h0 += ${tile.columns}) {
    let h = h0 + 4 * columnQuad;
    ${accumulators}
    ${product('uniforms.R', 'h0', 'uniforms.H', 'k')}
    ${eachColumn((j) => `total += ${vec4((i) => `put(row + ${i}, h + ${j}, ${component(`c${i}`, j)})`)};`)}
  }
  let mean = foldRows(total) / f32(uniforms.H);
  var squares = ${zero};
  for (var h = 4 * columnQuad; h < uniforms.H; h += ${tile.columns}) {
    ${eachColumn((j) => `if (h + ${j} < uniforms.H) { let k = h + ${j}; let d = ${rowsOf('result', 'uniforms.H')} - mean; squares += d * d; }`)}
  }
  let rstd = 1.0 / sqrt(foldRows(squares) / f32(uniforms.H) + uniforms.eps);
  for (var h = 4 * columnQuad; h < uniforms.H; h += ${tile.columns}) {
    ${eachColumn((j) =>
      lines(
        range(4).map(
          (i) => `normed(row + ${i}, h + ${j}, ${component('mean', i)}, ${component('rstd', i)});`,
        ),
        4,
      ),
    )}
  }
}`,
  }
}

/**
 * The gradient through the LayerNorm behind and through up-projection and activation: [dt | dpre]; dpre alone where there
 * is no such LayerNorm.
 */
export function upBackwardKernel(normed: boolean, activation: Activation): Kernel {
  const { functions, derivative } = activationCode(activation)
  const gradient = `
  let xhat = (${rowsOf('t', 'uniforms.H')} - means[quad]) * rstds[quad];
  let dt = rstds[quad] * (v * weight[k] - gMeans[quad] - xhat * gxMeans[quad]);
  ${lines(range(4).map((i) => `if (row + ${i} < uniforms.N) { result[(row + ${i}) * uniforms.H + k] = ${component('dt', i)}; }`))}
  return dt;`
  return {
    name: `bottleneckUpBackward tiled ${normed} ${activation}`,
    inputs: ['dy', 'upWeight', 'pre', ...(normed ? ['t', 'weight'] : [])],
    uniforms: { ...sizes, dpreAt: 'int32', factor: 'float32' },
    workgroupSize: threads,
    code: `${functions}${memory}${normed ? foldLanes + perRow(gradientNames, tile.rows) : ''}
fn leftAt(row : i32, k : i32, quad : i32) -> vec4<f32> {
  if (k >= uniforms.H) { return ${zero}; }
  let v = ${rowsOf('dy', 'uniforms.H')};
  ${normed ? gradient : 'return v;'}
}
fn rightAt(column : i32, k : i32) -> vec4<f32> {
  let start = min(k, uniforms.H - 1) * uniforms.R;
  return ${vec4((j) => `upWeight[start + min(column + ${j}, uniforms.R - 1)]`)};
}
fn put(row : i32, column : i32, product : f32) {
  if ((row < uniforms.N) & (column < uniforms.R)) {
    let at = row * uniforms.R + column;
    let v = pre[at];
    result[uniforms.dpreAt + at] = uniforms.factor * product * (${derivative});
  }
}
fn main(index : i32) {
  let thread = i32(localIndex);
  let first = index / ${threads} * ${tile.rows};
  ${normed ? rowMoments('t', 'dy') : ''}
  let rowQuad = thread % 8; let columnQuad = thread / 8;
  ${accumulators}
  ${product('uniforms.H', '0', 'uniforms.R', 'column')}
  ${lines(eachResult((i, j, c) => `put(first + 4 * rowQuad + ${i}, 4 * columnQuad + ${j}, ${c});`))}
}`,
  }
}

/** dpre·weight, back through the LayerNorm before where there is one, plus a residual where there is one: dx. */
export function downBackwardKernel(normed: boolean, withResidual: boolean): Kernel {
  const plus = withResidual ? ' + residual[at]' : ''
  return {
    name: `bottleneckDownBackward tiled ${normed} ${withResidual}`,
    inputs: ['dpre', 'downWeight', ...(normed ? ['x', 'weight'] : []), ...(withResidual ? ['residual'] : [])],
    uniforms: sizes,
    workgroupSize: threads,
    code: `${memory}${normed ? foldLanes + foldRows + perRow(momentNames, tile.rows) : ''}
fn leftAt(row : i32, k : i32, quad : i32) -> vec4<f32> {
  if (k >= uniforms.R) { return ${zero}; }
  return ${rowsOf('dpre', 'uniforms.R')};
}
fn rightAt(column : i32, k : i32) -> vec4<f32> {
  let start = min(k, uniforms.R - 1) * uniforms.H;
  return ${vec4((j) => `downWeight[start + min(column + ${j}, uniforms.H - 1)]`)};
}
fn put(row : i32, h : i32, product : f32) {
  if ((row < uniforms.N) & (h < uniforms.H)) {
    let at = row * uniforms.H + h;
    result[at] = product${normed ? '' : plus};
  }
}${normed ? through(plus) : ''}
fn main(index : i32) {
  let thread = i32(localIndex);
  let first = index / ${threads} * ${tile.rows};
  ${normed ? rowMoments('x', null) : ''}
  let rowQuad = thread / 16; let columnQuad = thread % 16;
  let row = first + 4 * rowQuad;
  var gTotal = ${zero}; var gxTotal = ${zero};
  for (var h0 = 0; h0 < uniforms.H; h0 += ${tile.columns}) {
    let h = h0 + 4 * columnQuad;
    ${accumulators}
    ${product('uniforms.R', 'h0', 'uniforms.H', 'column')}
    ${lines(
      eachResult((i, j, c) => `put(row + ${i}, h + ${j}, ${c});`),
      4,
    )}
    ${normed ? lines(range(4).map(gradientSums), 4) : ''}
  }
  ${normed ? throughNorm : ''}
}`,
  }
}

/** A statement for each column of a lane's. */
const eachColumn = (part: (j: number) => string) => lines(range(4).map(part), 4)

/** What column `j` of a tile adds to a row's sums of g = dz·weight and of g times the distance from the mean. */
function gradientSums(j: number): string {
  return `{
      let k = h + ${j};
      if (k < uniforms.H) {
        let g = ${vec4((i) => component(`c${i}`, j))} * weight[k];
        gTotal += g;
        gxTotal += g * (${rowsOf('x', 'uniforms.H')} - means[rowQuad]);
      }
    }`
}

/** Every lane goes once more over what it has written itself, now that the sums of its rows are known. */
const throughNorm = `
  let mean = means[rowQuad]; let rstd = rstds[rowQuad];
  let gMean = foldRows(gTotal) / f32(uniforms.H);
  let gxMean = foldRows(gxTotal) * rstd / f32(uniforms.H);
  for (var h = 4 * columnQuad; h < uniforms.H; h += ${tile.columns}) {
    ${lines(
      range(4).flatMap((i) => {
        const [m, r, g, gx] = ['mean', 'rstd', 'gMean', 'gxMean'].map((name) => component(name, i))
        return range(4).map((j) => `through(row + ${i}, h + ${j}, ${m}, ${r}, ${g}, ${gx});`)
      }),
      4,
    )}
  }`

const through = (plus: string) => `
fn through(row : i32, h : i32, mean : f32, rstd : f32, gMean : f32, gxMean : f32) {
  if ((row < uniforms.N) & (h < uniforms.H)) {
    let at = row * uniforms.H + h;
    result[at] = rstd * (result[at] * weight[h] - gMean - (x[at] - mean) * rstd * gxMean)${plus};
  }
}`

/** The sum over the lanes that share four rows of a tile. */
const foldRows = folding('foldRows', tile.columns / 4)

/** Steps of the inner dimension in workgroup memory; one vec4 more in each than it holds spreads them over the banks. */
const depth = 32
const [leftWidth, rightWidth] = [tile.rows / 4 + 1, tile.columns / 4 + 1]

const memory = `
var<workgroup> left : array<vec4<f32>, ${depth * leftWidth}>;
var<workgroup> right : array<vec4<f32>, ${depth * rightWidth}>;`

/**
 * c0…c3 += left·right over `length` steps, of the columns `start` … of at most `end`. `contiguous` says what lies side by
 * side in the right matrix, so that neighbouring lanes read neighbours. All lanes of the workgroup must come here.
 */
function product(length: string, start: string, end: string, contiguous: 'k' | 'column'): string {
  const quads = tile.columns / 4
  const [k, quad] =
    contiguous === 'k' ? [`at % ${depth}`, `at / ${depth}`] : [`at / ${quads}`, `at % ${quads}`]
  const at = (s: number) => [
    `left[(k + ${s}) * ${leftWidth} + rowQuad]`,
    `right[(k + ${s}) * ${rightWidth} + columnQuad]`,
  ]
  return `for (var k0 = 0; k0 < ${length}; k0 += ${depth}) {
    workgroupBarrier();
    for (var at = thread; at < ${(depth * tile.rows) / 4}; at += ${threads}) {
      let k = at % ${depth}; let quad = at / ${depth};
      left[k * ${leftWidth} + quad] = leftAt(first + 4 * quad, k0 + k, quad);
    }
    for (var at = thread; at < ${depth * quads}; at += ${threads}) {
      let k = ${k}; let quad = ${quad};
      right[k * ${rightWidth} + quad] = rightAt(${start} + 4 * quad, k0 + k);
    }
    workgroupBarrier();
    if (${start} + 4 * columnQuad < ${end}) {
      for (var k = 0; k < ${depth}; k += 4) {
        ${lines(
          range(4).map((s) => step(at(s)[0]!, at(s)[1]!)),
          8,
        )}
      }
    }
  }`
}
