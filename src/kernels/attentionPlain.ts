/**
 * Attention for software adapters, which run a barrier by switching threads: one invocation for each query, and in the
 * backward one for each key as well, with its rows in named variables (arrays would go to memory). Also for head sizes
 * that are no multiple of 4, one float at a time.
 */
import { dropCode, dropUniforms } from './dropout.ts'
import type { Kernel } from './program.ts'

/** A program and how many workgroups it takes for `heads` (items times heads) of S queries and T keys. */
export interface AttentionProgram {
  kernel: Kernel
  workgroups(heads: number, S: number, T: number): number
}

const workgroupSize = 64

/**
 * Strides are in vec4s where the head size D allows, else in floats: `keyHead` between the heads of a key, `keyRow`
 * between the keys of a head; `queries` is how many rows of padding an item has.
 */
export const attentionUniforms: Kernel['uniforms'] = {
  B: 'int32',
  N: 'int32',
  S: 'int32',
  T: 'int32',
  queries: 'int32',
  scale: 'float32',
  keyHead: 'int32',
  keyRow: 'int32',
}

/** The keys that a query attends to: those that it sees; all of them, with scores of 0, where it sees none (`hollow`). */
export const keysCode = `
const HIDDEN = -1e30;
struct Keys { first : i32, end : i32, hollow : bool }
fn keysOf(b : i32, s : i32) -> Keys {
  let hidden = padding[b * uniforms.queries + min(s, uniforms.queries - 1)];
  let end = uniforms.T - hidden.y;
  if (hidden.x < end) { return Keys(hidden.x, end, false); }
  return Keys(0, uniforms.T, true);
}
fn has(keys : Keys, t : i32) -> bool { return (t >= keys.first) & (t < keys.end); }
fn scored(keys : Keys, product : f32) -> f32 { return select(product * uniforms.scale, 0.0, keys.hollow); }
fn element(b : i32, n : i32, s : i32, t : i32) -> u32 {
  return u32((b * uniforms.N + n) * uniforms.S + s) * u32(uniforms.T) + u32(t);
}`

/** What the exponential of a query's score is divided by, as a logarithm. */
export const logTotalCode = `
fn logTotalOf(keys : Keys, query : i32) -> f32 { return select(lse[query], log(f32(uniforms.T)), keys.hollow); }`

/** q, k, v, padding -> o and, from float `lseStart`, lse. */
export function plainForward(D: number, dropped: boolean): AttentionProgram {
  const row = rowOf(D)
  const kernel: Kernel = {
    name: `attention plain ${D} ${dropped}`,
    inputs: ['q', 'k', 'v', 'padding'],
    inputComponents: [row.unit, row.unit, row.unit, 2],
    uniforms: { ...attentionUniforms, lseStart: 'int32', ...(dropped ? dropUniforms : {}) },
    workgroupSize,
    code: `${dropped ? dropCode : ''}${keysCode}
fn main(index : i32) {
  let S = uniforms.S; let N = uniforms.N; let T = uniforms.T;
  if (index >= uniforms.B * N * S) { return; }
  let s = index % S; let n = index / S % N; let b = index / S / N;
  let start = ((b * S + s) * N + n) * ${row.length};
  let rows = b * T * N * ${row.length} + n * uniforms.keyHead;
  let keys = keysOf(b, s);
  ${row.each((u) => `let q${u} = q[start + ${u}]; var o${u} = ${row.zero};`)}
  var top = f32(HIDDEN);
  var total = 0.0;
  for (var t = keys.first; t < keys.end; t++) {
    let at = rows + t * uniforms.keyRow;
    let score = scored(keys, ${row.dot('q', (u) => `k[at + ${u}]`)});
    if (score > top) {
      let shrink = exp(top - score);
      top = score;
      total *= shrink;
      ${row.each((u) => `o${u} *= shrink;`)}
    }
    var weight = exp(score - top);
    total += weight;
    ${dropped ? 'weight = dropped(weight, element(b, n, s, t));' : ''}
    ${row.each((u) => `o${u} += weight * v[at + ${u}];`)}
  }
  let norm = 1.0 / total;
  ${row.each((u) => row.store(`start + ${u}`, `o${u} * norm`))}
  result[uniforms.lseStart + index] = select(top + log(total), HIDDEN, keys.hollow);
}`,
  }
  return { kernel, workgroups: (heads, S) => Math.ceil((heads * S) / workgroupSize) }
}

/** dO, q, k, v, o, lse, padding -> dq and, from `dkStart` and `dvStart` (in vec4s where D allows), dk and dv. */
export function plainBackward(D: number, dropped: boolean): AttentionProgram {
  const { unit } = rowOf(D)
  const kernel: Kernel = {
    name: `attentionBackward plain ${D} ${dropped}`,
    inputs: ['dO', 'q', 'k', 'v', 'o', 'lse', 'padding'],
    inputComponents: [unit, unit, unit, unit, unit, 1, 2],
    components: unit,
    uniforms: {
      ...attentionUniforms,
      dkStart: 'int32',
      dvStart: 'int32',
      ...(dropped ? dropUniforms : {}),
    },
    workgroupSize,
    code: `${dropped ? dropCode : ''}${keysCode}${logTotalCode}
${queryGradient(D, dropped)}
${keyGradients(D, dropped)}
fn main(index : i32) {
  let queries = uniforms.B * uniforms.N * uniforms.S;
  if (index < queries) { queryGradient(index); }
  else if (index - queries < uniforms.B * uniforms.N * uniforms.T) { keyGradients(index - queries); }
}`,
  }
  return { kernel, workgroups: (heads, S, T) => Math.ceil((heads * (S + T)) / workgroupSize) }
}

function queryGradient(D: number, dropped: boolean): string {
  const row = rowOf(D)
  return `
fn queryGradient(index : i32) {
  let S = uniforms.S; let N = uniforms.N; let T = uniforms.T;
  let s = index % S; let n = index / S % N; let b = index / S / N;
  let start = ((b * S + s) * N + n) * ${row.length};
  let rows = b * T * N * ${row.length} + n * uniforms.keyHead;
  let keys = keysOf(b, s);
  ${row.each((u) => `let q${u} = q[start + ${u}]; let g${u} = dO[start + ${u}]; var d${u} = ${row.zero};`)}
  let mean = ${row.dot('g', (u) => `o[start + ${u}]`)};
  let logTotal = logTotalOf(keys, index);
  for (var t = keys.first; t < keys.end; t++) {
    let at = rows + t * uniforms.keyRow;
    let p = exp(scored(keys, ${row.dot('q', (u) => `k[at + ${u}]`)}) - logTotal);
    let dp = ${row.dot('g', (u) => `v[at + ${u}]`)};
    let dScore = p * (${dropped ? 'dropped(dp, element(b, n, s, t))' : 'dp'} - mean) * uniforms.scale;
    ${row.each((u) => `d${u} += dScore * k[at + ${u}];`)}
  }
  ${row.each((u) => `result[start + ${u}] = d${u};`)}
}`
}

function keyGradients(D: number, dropped: boolean): string {
  const row = rowOf(D)
  return `
fn keyGradients(index : i32) {
  let S = uniforms.S; let N = uniforms.N; let T = uniforms.T;
  let t = index % T; let n = index / T % N; let b = index / T / N;
  let start = b * T * N * ${row.length} + n * uniforms.keyHead + t * uniforms.keyRow;
  ${row.each((u) => `let k${u} = k[start + ${u}]; let v${u} = v[start + ${u}];`)}
  ${row.each((u) => `var dk${u} = ${row.zero}; var dv${u} = ${row.zero};`)}
  for (var s = 0; s < S; s++) {
    let keys = keysOf(b, s);
    if (!has(keys, t)) { continue; }
    let at = ((b * S + s) * N + n) * ${row.length};
    let p = exp(scored(keys, ${row.dot('k', (u) => `q[at + ${u}]`)}) - logTotalOf(keys, (b * N + n) * S + s));
    ${row.each((u) => `let g${u} = dO[at + ${u}];`)}
    let mean = ${row.dot('g', (u) => `o[at + ${u}]`)};
    let dp = ${row.dot('g', (u) => `v${u}`)};
    ${dropped ? 'let place = element(b, n, s, t);' : ''}
    let weight = ${dropped ? 'dropped(p, place)' : 'p'};
    let dScore = p * (${dropped ? 'dropped(dp, place)' : 'dp'} - mean) * uniforms.scale;
    ${row.each((u) => `dk${u} += dScore * q[at + ${u}]; dv${u} += weight * g${u};`)}
  }
  ${row.each((u) => `result[uniforms.dkStart + start + ${u}] = dk${u};`)}
  ${row.each((u) => `result[uniforms.dvStart + start + ${u}] = dv${u};`)}
}`
}

/** A row of one head as variables of `unit` floats each, `length` of them. */
function rowOf(D: number) {
  const unit: 1 | 4 = D % 4 === 0 ? 4 : 1
  const numbers = Array.from({ length: D / unit }, (_, u) => u)
  return {
    unit,
    length: numbers.length,
    zero: unit === 4 ? 'vec4<f32>(0.0)' : '0.0',
    each: (code: (u: number) => string) => numbers.map(code).join('\n  '),
    /** The sum of the products of variables `x`0… and what `other` names. */
    dot: (x: string, other: (u: number) => string) =>
      numbers.map((u) => (unit === 4 ? `dot(${x}${u}, ${other(u)})` : `${x}${u} * ${other(u)}`)).join(' + '),
    /** Writes a variable's value to a result of single floats. */
    store: (at: string, value: string) =>
      unit === 4
        ? ['x', 'y', 'z', 'w'].map((c, i) => `result[(${at}) * 4 + ${i}] = (${value}).${c};`).join(' ')
        : `result[${at}] = ${value};`,
  }
}
