/**
 * Programs that reduce along rows. On a GPU one workgroup of 64 shares a row and reduces in workgroup memory; on a
 * software adapter, where a barrier is dear, each invocation has a row to itself. Either order of summation is fixed.
 * The grid is two-dimensional beyond 65,535 workgroups (tfjs's own softmax is wrong there).
 */
import type * as tf from '@tensorflow/tfjs-core'
import { softwareVariants } from './backend.ts'
import { runWorkgroups, type Kernel } from './program.ts'

/** A Kernel without its loop over rows: `code` sees `row`, `lane`, `LANES`, and sumRow() and maxRow() of all lanes. */
export interface RowKernel {
  name: string
  inputs: string[]
  /** Besides `rows` and `width`. */
  uniforms: Kernel['uniforms']
  /** Statements for a row that starts at `start`; they write only `if (live)`, and never branch around a reduction. */
  code: string
}

const workgroupSize = 64
const kernels = new Map<string, Kernel>()

/** Runs `kernel` over `rows` rows of `width` elements and returns a tensor of `shape`. */
export function runRows<T extends tf.Tensor>(
  kernel: RowKernel,
  inputs: tf.Tensor[],
  uniforms: Record<string, number>,
  shape: number[],
  { rows, width }: { rows: number; width: number },
): T {
  const lanes = softwareVariants() ? 1 : workgroupSize
  const built = build(kernel, lanes)
  return runWorkgroups(
    built,
    inputs,
    { ...uniforms, rows, width },
    shape,
    Math.ceil((rows * lanes) / workgroupSize),
  )
}

function build(kernel: RowKernel, lanes: number): Kernel {
  const name = `${kernel.name} lanes ${lanes}`
  let built = kernels.get(name)
  if (!built) {
    built = {
      name,
      inputs: kernel.inputs,
      uniforms: { rows: 'int32', width: 'int32', ...kernel.uniforms },
      workgroupSize,
      code: `
const LANES = ${lanes};
${lanes === 1 ? alone : shared}
fn main(index : i32) {
  let row = min(index / LANES, uniforms.rows - 1);
  let live = index / LANES < uniforms.rows;
  let lane = index % LANES;
  let width = uniforms.width;
  let start = row * width;
  ${kernel.code}
}`,
    }
    kernels.set(name, built)
  }
  return built
}

const alone = `
fn sumRow(value : f32) -> f32 { return value; }
fn maxRow(value : f32) -> f32 { return value; }`

const shared = `
var<workgroup> partial : array<f32, LANES>;
fn sumRow(value : f32) -> f32 {
  partial[localIndex] = value;
  workgroupBarrier();
  for (var half = u32(LANES) / 2u; half > 0u; half = half / 2u) {
    if (localIndex < half) { partial[localIndex] += partial[localIndex + half]; }
    workgroupBarrier();
  }
  let total = partial[0];
  workgroupBarrier();
  return total;
}
fn maxRow(value : f32) -> f32 {
  partial[localIndex] = value;
  workgroupBarrier();
  for (var half = u32(LANES) / 2u; half > 0u; half = half / 2u) {
    if (localIndex < half) { partial[localIndex] = max(partial[localIndex], partial[localIndex + half]); }
    workgroupBarrier();
  }
  let most = partial[0];
  workgroupBarrier();
  return most;
}`
