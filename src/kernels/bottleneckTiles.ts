/**
 * Pieces of WGSL for the bottleneck's programs with workgroup memory (bottleneckTiled.ts, bottleneckWeight.ts). A lane
 * holds c0…c3, four rows of four columns of a product, and reads `left` and `right` as vec4s: four rows, or four columns,
 * of one step of the inner dimension. What lies beyond an edge is read from the edge and never written; the conditions for
 * that are joined by & because SwiftShader takes minutes to compile a row of && in one program.
 */

/** 0 … n - 1. */
export function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i)
}

/** One line for each; `indent` spaces in front of all but the first. */
export function lines(parts: string[], indent = 2): string {
  return parts.join(`\n${' '.repeat(indent)}`)
}

/** A vec4 of four expressions. */
export function vec4(part: (i: number) => string): string {
  return `vec4<f32>(${range(4).map(part).join(', ')})`
}

/** Component i of a vec4. */
export function component(vector: string, i: number): string {
  return `${vector}.${'xyzw'[i]}`
}

export const zero = 'vec4<f32>(0.0)'

/** Column k of `x`, a matrix `width` wide, in the rows `row` … `row` + 3. */
export function rowsOf(x: string, width: string): string {
  return vec4((i) => `${x}[min(row + ${i}, uniforms.N - 1) * ${width} + k]`)
}

/** c0…c3, all zero. */
export const accumulators = `var c0 = ${zero}; var c1 = ${zero}; var c2 = ${zero}; var c3 = ${zero};`

/** c0…c3 += one step of the product, `before` doing what else there is to do with its `l` and `r`. */
export function step(left: string, right: string, also = ''): string {
  return `{ let l = ${left}; let r = ${right}; c0 += l.x * r; c1 += l.y * r; c2 += l.z * r; c3 += l.w * r; ${also}}`
}

/** A statement for each number that a lane holds. */
export function eachResult(statement: (i: number, j: number, value: string) => string): string[] {
  return range(4).flatMap((i) => range(4).map((j) => statement(i, j, component(`c${i}`, j))))
}

/**
 * Declares `name`, a sum over `lanes` neighbouring lanes which each of them gets. It borrows the memory of `right`, so all
 * lanes of the workgroup must come to it, between products.
 */
export function folding(name: string, lanes: number): string {
  return `
fn ${name}(value : vec4<f32>) -> vec4<f32> {
  workgroupBarrier();
  right[localIndex] = value;
  workgroupBarrier();
  let start = localIndex / ${lanes}u * ${lanes}u;
  var total = ${zero};
  for (var lane = 0u; lane < ${lanes}u; lane++) { total += right[start + lane]; }
  return total;
}`
}

/** The sum over the lanes that share the rows of `rowMoments`. */
export const foldLanes = folding('foldLanes', 32)

/** Workgroup arrays of one number for each of `rows` rows. */
export function perRow(names: string[], rows: number): string {
  return names.map((name) => `\nvar<workgroup> ${name}s : array<vec4<f32>, ${rows / 4}>;`).join('')
}

/** What `rowMoments` finds: of the rows alone, or also of the gradient that comes down to their LayerNorm. */
export const momentNames = ['mean', 'rstd']
export const gradientNames = [...momentNames, 'gMean', 'gxMean']

/**
 * Puts the moments of the rows `first` … of `x` (8 for each 32 lanes) into the arrays of `perRow`, from their element `at`;
 * with `dy` also the means of g = dy·weight and of g·x̂. The mean comes before the squares: a difference of sums would lose
 * digits. All lanes of the workgroup must come here; those that go over `width` 0 columns find nothing.
 */
export function rowMoments(x: string, dy: string | null, at = '0', width = 'uniforms.H'): string {
  const names = dy ? gradientNames : momentNames
  const row = (tensor: string, half: number) => vec4((i) => `${tensor}[at${4 * half + i} + h]`)
  const both = (part: (half: number) => string) => `${part(0)} ${part(1)}`
  const gradient = (half: number) =>
    dy
      ? `let g${half} = ${row(dy, half)} * weight[h]; gTotal${half} += g${half}; gxTotal${half} += g${half} * d${half};`
      : ''
  return `{
    let own = first + thread / 32 * 8;
    ${lines(
      range(8).map((i) => `let at${i} = min(own + ${i}, uniforms.N - 1) * uniforms.H;`),
      4,
    )}
    let size = f32(uniforms.H);
    ${both((half) => `var total${half} = ${zero};`)}
    for (var h = thread % 32; h < ${width}; h += 32) {
      ${both((half) => `total${half} += ${row(x, half)};`)}
    }
    ${both((half) => `let mean${half} = foldLanes(total${half}) / size;`)}
    ${both((half) => `var squares${half} = ${zero};`)}
    ${dy ? both((half) => `var gTotal${half} = ${zero}; var gxTotal${half} = ${zero};`) : ''}
    for (var h = thread % 32; h < ${width}; h += 32) {
      ${both((half) => `let d${half} = ${row(x, half)} - mean${half}; squares${half} += d${half} * d${half};`)}
      ${both(gradient)}
    }
    ${both((half) => `let rstd${half} = 1.0 / sqrt(foldLanes(squares${half}) / size + uniforms.eps);`)}
    ${dy ? both((half) => `let gMean${half} = foldLanes(gTotal${half}) / size;`) : ''}
    ${dy ? both((half) => `let gxMean${half} = foldLanes(gxTotal${half}) * rstd${half} / size;`) : ''}
    if (thread % 32 == 0) {
      ${names.map((name) => both((half) => `${name}s[(${at}) / 4 + thread / 16 + ${half}] = ${name}${half};`)).join('\n      ')}
    }
    workgroupBarrier();
  }`
}
