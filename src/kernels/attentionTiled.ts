/**
 * Attention for GPUs, as products of tiles. A workgroup of 64 invocations (8 by 8) has 32 queries of one head (32 keys,
 * for their gradients) and streams the other side past them in tiles of 32; operands come through workgroup memory 32
 * features at a time, so that 15 KB of it do for every head size. An invocation computes 4 by 4 scores, and of a result
 * 4 rows and, in each block of 32 features, one vec4 of columns: at D = 64 that is 32 floats of registers for o or dq and
 * 64 for dk and dv together. (A whole row of q and o for each invocation, the usual scheme, takes 128 and reads twice as
 * much workgroup memory for an operation.) dk and dv share a workgroup: apart they would need half the registers, but the
 * scores, one product in four, would be made twice. Tiles that none of the 32 rows sees, or is seen by, are skipped.
 * Workgroups for keys follow those for queries in one dispatch.
 */
import { attentionUniforms, logTotalCode, type AttentionProgram } from './attentionPlain.ts'
import {
  accumulate,
  between,
  blockCode,
  chunksOf,
  dots,
  each,
  each4,
  four,
  scores,
  sharedCode,
  stage,
  storeRows,
  zeros,
} from './attentionTiles.ts'
import { dropUniforms } from './dropout.ts'

const workgroupSize = 64
const block = 32

/** q, k, v, padding -> o and, from float `lseStart`, lse. */
export function tiledForward(D: number, dropped: boolean): AttentionProgram {
  return {
    kernel: {
      name: `attention tiled ${D} ${dropped}`,
      inputs: ['q', 'k', 'v', 'padding'],
      inputComponents: [4, 4, 4, 2],
      uniforms: { ...attentionUniforms, lseStart: 'int32', ...(dropped ? dropUniforms : {}) },
      workgroupSize,
      code: `${sharedCode(D, dropped)}${forwardCode(D, dropped)}`,
    },
    workgroups: (heads, S) => heads * Math.ceil(S / block),
  }
}

/** dO, q, k, v, o, lse, padding -> dq and, from `dkStart` and `dvStart` (in vec4s), dk and dv. */
export function tiledBackward(D: number, dropped: boolean): AttentionProgram {
  return {
    kernel: {
      name: `attentionBackward tiled ${D} ${dropped}`,
      inputs: ['dO', 'q', 'k', 'v', 'o', 'lse', 'padding'],
      inputComponents: [4, 4, 4, 4, 4, 1, 2],
      components: 4,
      uniforms: {
        ...attentionUniforms,
        dkStart: 'int32',
        dvStart: 'int32',
        ...(dropped ? dropUniforms : {}),
      },
      workgroupSize,
      code: `${sharedCode(D, dropped)}${logTotalCode}${backwardCode(dropped)}
${queryGradient(D)}${keyGradients(D, dropped)}
var<workgroup> ofKeys : u32;
fn main(index : i32) {
  let queries = uniforms.B * uniforms.N * ((uniforms.S + 31) / 32) * 64;
  if (localIndex == 0u) { ofKeys = select(0u, 1u, index >= queries); }
  if (workgroupUniformLoad(&ofKeys) == 0u) { queryGradient(index); } else { keyGradients(index - queries); }
}`,
    },
    workgroups: (heads, S, T) => heads * (Math.ceil(S / block) + Math.ceil(T / block)),
  }
}

/** o over the running sums of exponentials, both scaled down whenever a row's largest score so far, `tops`, grows. */
function forwardCode(D: number, dropped: boolean): string {
  const chunks = chunksOf(D)
  const kept = (j: number, c: string) => `dropped(e.${c}, element(b, n, s, t + ${j}))`
  return `
var<workgroup> tops : array<f32, 32>;
var<workgroup> totals : array<f32, 256>;
fn raiseTops() {
  if (localIndex < 32u) {
    var top = tops[localIndex];
    for (var i = 0u; i < 8u; i++) { top = max(top, partial[localIndex * 8u + i]); }
    ofRow[localIndex] = exp(tops[localIndex] - top);
    tops[localIndex] = top;
  }
}
fn main(index : i32) {
  ${blockCode('S')}
  if (lane < 32) { tops[lane] = HIDDEN; }
  ${zeros('o', chunks)}
  let range = keyTiles(b, first);
  for (var tile = range.x; tile < range.y; tile++) {
    let start = tile * 32;
    let t = start + tx * 4;
    ${scores('x', ['q', 'queryRow', 'first', 'S'], ['k', 'keyRow', 'start', 'T'])}
    ${each((i) => `weights[own + ${i * 8}] = x${i};`)}
    for (var i = 0; i < 4; i++) {
      let keys = keysOf(b, min(first + ty * 4 + i, S - 1));
      let x = weights[own + i * 8];
      let score = ${four((j, c) => `select(HIDDEN, scored(keys, x.${c}), has(keys, t + ${j}))`)};
      weights[own + i * 8] = score;
      partial[own + i * 8] = max(max(score.x, score.y), max(score.z, score.w));
    }
    workgroupBarrier();
    raiseTops();
    workgroupBarrier();
    for (var i = 0; i < 4; i++) {
      let s = min(first + ty * 4 + i, S - 1);
      let e = exp(weights[own + i * 8] - tops[ty * 4 + i]);
      totals[own + i * 8] = totals[own + i * 8] * ofRow[ty * 4 + i] + (e.x + e.y + e.z + e.w);
      weights[own + i * 8] = ${dropped ? four(kept) : 'e'};
    }
    ${each((i) => chunks.map((c) => `o${i}_${c} *= ofRow[ty * 4 + ${i}];`).join(' '))}
    ${chunks.map((c) => `${stage('right', 'v', 'keyRow', 'start', 'T', c)}${between(accumulate('o', c, 'w'))}`).join('')}
  }
  for (var i = 0; i < 4; i++) { partial[own + i * 8] = totals[own + i * 8]; }
  workgroupBarrier();
  sumRows();
  workgroupBarrier();
  if (lane < 32 && index / 64 < groups && first + lane < S) {
    let logTotal = select(tops[lane] + log(ofRow[lane]), HIDDEN, keysOf(b, first + lane).hollow);
    result[uniforms.lseStart + (b * N + n) * S + first + lane] = logTotal;
  }
  ${storeRows('o', 'queryRow', 'S', (at, value, i) => `put((${at}) * 4, ${value} / ofRow[ty * 4 + ${i}]);`, chunks)}
}
fn put(at : i32, values : vec4<f32>) {
  ${each4((j, c) => `result[at + ${j}] = values.${c};`).join(' ')}
}`
}

/**
 * What both halves of the backward share. `means` leaves in `partial` what `sumRows` makes sums of dO·o of, which stand
 * for those of p·dp. `weights` holds a probability with its sign turned where dropout drops it, until it is replaced by
 * the gradient of its score.
 */
function backwardCode(dropped: boolean): string {
  return `
fn means(b : i32, n : i32, first : i32) {
  for (var e = i32(localIndex); e < 256; e += 64) {
    var mean = 0.0;
    if (first + e / 8 < uniforms.S) {
      let row = queryRow(b, n, first + e / 8);
      for (var column = e % 8; column < WIDTH; column += 8) { mean += dot(dO[row + column], o[row + column]); }
    }
    partial[e] = mean;
  }
}
// Of query s and key t, whose keys and the logarithm of whose total are known.
fn probability(b : i32, n : i32, s : i32, t : i32, keys : Keys, logTotal : f32, product : f32) -> f32 {
  if ((s >= uniforms.S) | !has(keys, t)) { return 0.0; }
  let p = exp(scored(keys, product) - logTotal);
  return ${dropped ? 'select(-p, p, dropped(1.0, element(b, n, s, t)) > 0.0)' : 'p'};
}
fn scoreGradient(p : vec4<f32>, dp : vec4<f32>, mean : vec4<f32>) -> vec4<f32> {
  return ${
    dropped
      ? 'abs(p) * (select(vec4<f32>(0.0), dp * uniforms.dropGain, p > vec4<f32>(0.0)) - mean)'
      : 'p * (dp - mean)'
  } * uniforms.scale;
}`
}

/** For a workgroup of queries, tile by tile of keys: dq from the gradient of the scores. */
function queryGradient(D: number): string {
  const chunks = chunksOf(D)
  return `
fn queryGradient(index : i32) {
  ${blockCode('S')}
  let s = first + ty * 4;
  means(b, n, first);
  workgroupBarrier();
  sumRows();
  ${zeros('d', chunks)}
  let range = keyTiles(b, first);
  for (var tile = range.x; tile < range.y; tile++) {
    let start = tile * 32;
    let t = start + tx * 4;
    ${scores('x', ['q', 'queryRow', 'first', 'S'], ['k', 'keyRow', 'start', 'T'])}
    ${each((i) => `weights[own + ${i * 8}] = x${i};`)}
    for (var i = 0; i < 4; i++) {
      let x = weights[own + i * 8];
      let keys = keysOf(b, s + i);
      let logTotal = logTotalOf(keys, (b * N + n) * S + s + i);
      weights[own + i * 8] = ${four((j, c) => `probability(b, n, s + i, t + ${j}, keys, logTotal, x.${c})`)};
    }
    ${scores('g', ['dO', 'queryRow', 'first', 'S'], ['v', 'keyRow', 'start', 'T'])}
    ${each((i) => `weights[own + ${i * 8}] = scoreGradient(weights[own + ${i * 8}], g${i}, vec4<f32>(ofRow[ty * 4 + ${i}]));`)}
    ${chunks.map((c) => `${stage('right', 'k', 'keyRow', 'start', 'T', c)}${between(accumulate('d', c, 'w'))}`).join('')}
  }
  ${storeRows('d', 'queryRow', 'S', (at, value) => `result[${at}] = ${value};`, chunks)}
}`
}

/** For a workgroup of keys, tile by tile of queries: dv from p, then dk from the gradient of the scores. */
function keyGradients(D: number, dropped: boolean): string {
  const chunks = chunksOf(D)
  const operands = (c: number) =>
    stage('left', 'v', 'keyRow', 'first', 'T', c) + stage('right', 'dO', 'queryRow', 'start', 'S', c)
  const kept = dropped ? 'max(w, vec4<f32>(0.0))' : 'w'
  return `
// The tiles of queries that attend to the 32 keys from first on: all or none where an item's queries see alike, and all
// where they do not, which is so under prompts alone.
fn queryTiles(b : i32, first : i32) -> vec2<i32> {
  let keys = keysOf(b, 0);
  let some = (uniforms.queries > 1) | ((keys.first < first + 32) & (keys.end > first));
  return tilesOf(vec2<i32>(0, select(0, uniforms.S, some)));
}
fn keyGradients(index : i32) {
  ${blockCode('T')}
  let t = first + ty * 4;
  ${zeros('dk', chunks)}
  ${zeros('dv', chunks)}
  let range = queryTiles(b, first);
  for (var tile = range.x; tile < range.y; tile++) {
    let start = tile * 32;
    let s = start + tx * 4;
    means(b, n, start);
    ${scores('x', ['k', 'keyRow', 'first', 'T'], ['q', 'queryRow', 'start', 'S'])}
    sumRows();
    ${each((i) => `weights[own + ${i * 8}] = x${i};`)}
    ${each((j) => `let keys${j} = keysOf(b, s + ${j}); let total${j} = logTotalOf(keys${j}, (b * N + n) * S + s + ${j});`)}
    for (var i = 0; i < 4; i++) {
      let x = weights[own + i * 8];
      weights[own + i * 8] = ${four((j, c) => `probability(b, n, s + ${j}, t + i, keys${j}, total${j}, x.${c})`)};
    }
    ${each((i) => `var g${i} = vec4<f32>(0.0);`)}
    ${chunks.map((c) => `${operands(c)}${between(dots('g') + accumulate('dv', c, kept))}`).join('')}
    let mean = ${four((j) => `ofRow[tx * 4 + ${j}]`)};
    ${each((i) => `weights[own + ${i * 8}] = scoreGradient(weights[own + ${i * 8}], g${i}, mean);`)}
    ${chunks.map((c) => `${stage('right', 'q', 'queryRow', 'start', 'S', c)}${between(accumulate('dk', c, 'w'))}`).join('')}
  }
  ${storeRows('dk', 'keyRow', 'T', (at, value) => `result[uniforms.dkStart + ${at}] = ${value};`, chunks)}
  ${storeRows(
    'dv',
    'keyRow',
    'T',
    (at, value) => `result[uniforms.dvStart + ${at}] = ${value}${dropped ? ' * uniforms.dropGain' : ''};`,
    chunks,
  )}
}`
}
