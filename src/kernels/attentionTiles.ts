/**
 * What the programs of attentionTiled.ts are put together from: the memory that a workgroup shares, which tiles the mask
 * lets it skip, and code that stages operands, multiplies them and writes results.
 */
import { maskCode } from './attentionPlain.ts'
import { dropCode } from './dropout.ts'

/**
 * `left`, `right`: 32 rows of 8 vec4s, of which column c of row r lies at c ^ (r / 4), so that neither 8 rows 4 apart nor
 * 8 columns share a memory bank. `weights`: 32 rows of 8 vec4s, one for each 4 columns of a tile of scores.
 */
export function sharedCode(D: number, dropped: boolean): string {
  return `${dropped ? dropCode : ''}${maskCode}
const WIDTH = ${D / 4};
const CHUNKS = ${chunksOf(D).length};
var<workgroup> left : array<vec4<f32>, 256>;
var<workgroup> right : array<vec4<f32>, 256>;
var<workgroup> weights : array<vec4<f32>, 256>;
var<workgroup> partial : array<f32, 256>;
var<workgroup> ofRow : array<f32, 32>;
var<workgroup> low : atomic<i32>;
var<workgroup> high : atomic<i32>;
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
// The first tile that any invocation saw something in, and the one after the last.
fn seenTiles(first : i32, last : i32) -> vec2<i32> {
  if (localIndex == 0u) { atomicStore(&low, ${2 ** 30}); atomicStore(&high, -1); }
  workgroupBarrier();
  atomicMin(&low, first);
  atomicMax(&high, last);
  workgroupBarrier();
  if (localIndex == 0u) {
    let end = atomicLoad(&high);
    tiles = select(vec2<i32>(0), vec2<i32>(atomicLoad(&low) / 32, end / 32 + 1), end >= 0);
  }
  return workgroupUniformLoad(&tiles);
}`
}

/**
 * The tiles of keys that some query from `first` on sees; all where one sees none, because it attends to all alike. Each
 * mask row is scanned by 2 invocations, or by all where an item has one.
 */
export const keyRange = `
var<workgroup> rowSeen : array<atomic<u32>, 32>;
fn keyRange(b : i32, first : i32) -> vec2<i32> {
  let lane = i32(localIndex);
  let sharers = select(2, 64, uniforms.queries == 1);
  let row = lane / sharers;
  let s = first + row;
  var lowest = ${2 ** 30};
  var highest = -1;
  if (s < uniforms.S) {
    for (var t = lane % sharers; t < uniforms.T; t += sharers) {
      if (sees(b, s, t)) { lowest = min(lowest, t); highest = t; }
    }
  }
  if (lane < 32) { atomicStore(&rowSeen[lane], 0u); }
  workgroupBarrier();
  if (highest >= 0) { atomicStore(&rowSeen[row], 1u); }
  workgroupBarrier();
  if (s < uniforms.S && atomicLoad(&rowSeen[row]) == 0u) { lowest = 0; highest = uniforms.T - 1; }
  return seenTiles(lowest, highest);
}`

/** The tiles of queries that see a key of the 32 from `first` on. */
export const queryRange = `
fn queryRange(b : i32, n : i32, first : i32) -> vec2<i32> {
  var lowest = ${2 ** 30};
  var highest = -1;
  for (var s = i32(localIndex); s < uniforms.S; s += 64) {
    var seen = lse[(b * uniforms.N + n) * uniforms.S + s] < HOLLOW;
    for (var t = first; t < min(first + 32, uniforms.T) && !seen; t++) { seen = sees(b, s, t); }
    if (seen) { lowest = min(lowest, s); highest = s; }
  }
  return seenTiles(lowest, highest);
}`

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
