/**
 * What the programs of attentionTiled.ts are put together from: the memory that a workgroup shares, the tiles that it
 * need not skip, and code that stages operands, multiplies them and writes results.
 */
import { keysCode } from './attentionPlain.ts'
import { dropCode } from './dropout.ts'

/**
 * `left`, `right`: 32 rows of 8 vec4s, of which column c of row r lies at c ^ (r / 4), so that neither 8 rows 4 apart nor
 * 8 columns share a memory bank. `weights`: 32 rows of 8 vec4s, one for each 4 columns of a tile of scores.
 */
export function sharedCode(D: number, dropped: boolean): string {
  return `${dropped ? dropCode : ''}${keysCode}
const WIDTH = ${D / 4};
const CHUNKS = ${chunksOf(D).length};
var<workgroup> left : array<vec4<f32>, 256>;
var<workgroup> right : array<vec4<f32>, 256>;
var<workgroup> weights : array<vec4<f32>, 256>;
var<workgroup> partial : array<f32, 256>;
var<workgroup> ofRow : array<f32, 32>;
var<workgroup> tiles : vec2<i32>;

// Where a row of q, o, dO and dq starts, and one of k, v, dk and dv.
fn queryRow(b : i32, n : i32, s : i32) -> i32 { return ((b * uniforms.S + s) * uniforms.N + n) * WIDTH; }
fn keyRow(b : i32, n : i32, t : i32) -> i32 {
  return b * uniforms.T * uniforms.N * WIDTH + n * uniforms.keyHead + t * uniforms.keyRow;
}
fn place(row : i32, column : i32) -> i32 { return row * 8 + (column ^ (row >> 2u)); }

// Puts the sum of what 8 invocations left in partial for a row into ofRow.
fn sumRows() {
  if (localIndex < 32u) {
    var total = 0.0;
    for (var i = 0u; i < 8u; i++) { total += partial[localIndex * 8u + i]; }
    ofRow[localIndex] = total;
  }
}
// The tiles that rows from span.x on, and before span.y, lie in.
fn tilesOf(span : vec2<i32>) -> vec2<i32> {
  if (localIndex == 0u) { tiles = vec2<i32>(span.x / 32, (span.y + 31) / 32); }
  return workgroupUniformLoad(&tiles);
}
// The tiles of keys that some of the 32 queries from first on attends to.
fn keyTiles(b : i32, first : i32) -> vec2<i32> {
  let keys = keysOf(b, first);
  var span = vec2<i32>(keys.first, keys.end);
  for (var s = first + 1; s < min(first + 32, uniforms.queries); s++) {
    let other = keysOf(b, s);
    span = vec2<i32>(min(span.x, other.first), max(span.y, other.end));
  }
  return tilesOf(span);
}`
}

/**
 * Which 32 rows (of S queries or T keys) the workgroup has; one beyond the last has the last's and must not write. `own`
 * is where the first of an invocation's 4 rows lies in `weights`; the others follow 8 apart.
 */
export function blockCode(length: 'S' | 'T'): string {
  return `let N = uniforms.N; let S = uniforms.S; let T = uniforms.T;
  let lane = i32(localIndex);
  let tx = lane % 8;
  let ty = lane / 8;
  let blocks = (${length} + 31) / 32;
  let groups = uniforms.B * N * blocks;
  let group = min(index / 64, groups - 1);
  let first = group % blocks * 32;
  let n = group / blocks % N;
  let b = group / blocks / N;
  let own = ty * 32 + tx;`
}

/** Copies a block of 32 features of 32 rows to workgroup memory, zeros beyond the last row or feature. */
export function stage(
  to: 'left' | 'right',
  from: string,
  row: string,
  first: string,
  end: string,
  c: number | 'c',
): string {
  return `
    for (var e = lane; e < 256; e += 64) {
      let column = ${c} * 8 + e % 8;
      var value = vec4<f32>(0.0);
      if (${first} + e / 8 < ${end} && column < WIDTH) { value = ${from}[${row}(b, n, ${first} + e / 8) + column]; }
      ${to}[place(e / 8, e % 8)] = value;
    }`
}

/** Code that reads what was staged, kept apart from the staging before and after. */
export function between(code: string): string {
  return `
    workgroupBarrier();${code}
    workgroupBarrier();`
}

/** `x`0…3: the products of 4 rows of one operand with 4 of the other, over all features. */
export function scores(x: string, left: Operand, right: Operand): string {
  return `${each((i) => `var ${x}${i} = vec4<f32>(0.0);`)}
    for (var c = 0; c < CHUNKS; c++) {${stage('left', ...left, 'c')}${stage('right', ...right, 'c')}${between(dots(x))}
    }`
}

/** A buffer, the function that says where its rows start, its first row and the end of its rows. */
type Operand = [from: string, row: string, first: string, end: string]

/** Adds to `x`0…3 the products over the features that are staged. */
export function dots(x: string): string {
  return `
    for (var d = 0; d < 8; d++) {
      ${each((i) => `let a${i} = left[(ty * 4 + ${i}) * 8 + (d ^ ty)];`)}
      ${each((j) => `let b${j} = right[(tx * 4 + ${j}) * 8 + (d ^ tx)];`)}
      ${each((i) => `${x}${i} += ${four((j) => `dot(a${i}, b${j})`)};`)}
    }`
}

/** Adds to `x`0_c…3_c the products of `weights`, each vec4 `w` taken as `factor`, with the rows staged on the right. */
export function accumulate(x: string, c: number, factor: string): string {
  const products = (i: number) => each4((j, name) => `w${i}.${name} * b${j}`).join(' + ')
  return `
    for (var d = 0; d < 8; d++) {
      ${each((j) => `let b${j} = right[(d * 4 + ${j}) * 8 + (tx ^ d)];`)}
      ${each((i) => `let w${i} = ${factor.replace('w', `weights[(ty * 4 + ${i}) * 8 + d]`)};`)}
      ${each((i) => `${x}${i}_${c} += ${products(i)};`)}
    }`
}

export function zeros(x: string, chunks: number[]): string {
  return each((i) => chunks.map((c) => `var ${x}${i}_${c} = vec4<f32>(0.0);`).join(' '))
}

/** Writes an invocation's 4 rows of a result; `store` makes the code for one vec4 of row i. */
export function storeRows(
  x: string,
  row: string,
  end: string,
  store: (at: string, value: string, i: number) => string,
  chunks: number[],
): string {
  return each(
    (i) => `if (index / 64 < groups && first + ty * 4 + ${i} < ${end}) {
    let at = ${row}(b, n, first + ty * 4 + ${i}) + tx;
    ${chunks.map((c) => `if (${c * 8} + tx < WIDTH) { ${store(`at + ${c * 8}`, `${x}${i}_${c}`, i)} }`).join('\n    ')}
  }`,
  )
}

/** Blocks of 32 features. */
export function chunksOf(D: number): number[] {
  return Array.from({ length: Math.ceil(D / 32) }, (_, c) => c)
}

export function each4(code: (j: number, component: string) => string): string[] {
  return ['x', 'y', 'z', 'w'].map((component, j) => code(j, component))
}

/** Code for each of 4 rows. */
export function each(code: (i: number) => string): string {
  return each4(code).join('\n    ')
}

/** A vec4 of four values. */
export function four(code: (j: number, component: string) => string): string {
  return `vec4<f32>(${each4(code).join(', ')})`
}
