/**
 * Programs that reduce along rows. On a GPU one workgroup of 64 shares a row and reduces by subgroups where there are
 * some, with two barriers, and otherwise in workgroup memory, with eight; on a software adapter, where a barrier is dear,
 * each invocation has a row to itself. Each order of summation is fixed.
 * The grid is two-dimensional beyond 65,535 workgroups (tfjs's own softmax is wrong there).
 */
import type * as tf from '@tensorflow/tfjs-core'
import { hasExtension, runWorkgroups, softwareVariants, type Kernel, type KernelFamily } from './program.ts'

/** A Kernel without its loop over rows: `code` sees `row`, `lane`, `LANES`, and sumRow() and maxRow() of all lanes. */
export interface RowKernel {
  name: string
  family: KernelFamily
  inputs: string[]
  /** Besides `rows` and `width`. */
  uniforms: Kernel['uniforms']
  /** See Kernel. */
  writes?: string[]
  /** Statements for a row that starts at `start`; they write only `if (live)`, and never branch around a reduction. */
  code: string
}

const workgroupSize = 64
const kernels = new Map<string, Kernel>()

/** Runs `kernel` over `rows` rows of `width` elements and returns a tensor of `shape`, or `output`, written in place. */
export function runRows<T extends tf.Tensor>(
  kernel: RowKernel,
  inputs: tf.Tensor[],
  uniforms: Record<string, number>,
  shape: number[],
  { rows, width }: { rows: number; width: number },
  output: tf.TensorInfo | null = null,
): T {
  const variant = variantOf(kernel.family)
  const lanes = variant === 'alone' ? 1 : workgroupSize
  const built = build(kernel, variant, lanes)
  return runWorkgroups(
    built,
    inputs,
    { ...uniforms, rows, width },
    shape,
    Math.ceil((rows * lanes) / workgroupSize),
    output,
  )
}

function variantOf(family: KernelFamily): keyof typeof reductions {
  if (softwareVariants(family)) return 'alone'
  return hasExtension('subgroups', family) ? 'subgroups' : 'shared'
}

function build(kernel: RowKernel, variant: keyof typeof reductions, lanes: number): Kernel {
  const name = `${kernel.name} ${variant}`
  let built = kernels.get(name)
  if (!built) {
    built = {
      name,
      inputs: kernel.inputs,
      uniforms: { rows: 'int32', width: 'int32', ...kernel.uniforms },
      workgroupSize,
      enable: variant === 'subgroups' ? ['subgroups'] : [],
      writes: kernel.writes,
      code: `
const LANES = ${lanes};
${reductions[variant]}
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
${foldedInMemory('sumRow', (a, b) => `${a} + ${b}`)}
${foldedInMemory('maxRow', (a, b) => `max(${a}, ${b})`)}`

function foldedInMemory(name: string, join: (a: string, b: string) => string): string {
  return `
fn ${name}(value : f32) -> f32 {
  partial[localIndex] = value;
  workgroupBarrier();
  for (var half = u32(LANES) / 2u; half > 0u; half = half / 2u) {
    if (localIndex < half) {
      partial[localIndex] = ${join('partial[localIndex]', 'partial[localIndex + half]')};
    }
    workgroupBarrier();
  }
  let all = partial[0];
  workgroupBarrier();
  return all;
}`
}

/**
 * A subgroup is a run of the workgroup's invocations, which WGSL does not promise: where it is not, the device's test
 * finds wrong sums, and the families of these kernels go on without extensions.
 */
const bySubgroups = `
var<workgroup> partial : array<f32, LANES>;
${foldedBySubgroups('sumRow', 'subgroupAdd', (a, b) => `${a} + ${b}`)}
${foldedBySubgroups('maxRow', 'subgroupMax', (a, b) => `max(${a}, ${b})`)}`

function foldedBySubgroups(name: string, fold: string, join: (a: string, b: string) => string): string {
  return `
fn ${name}(value : f32) -> f32 {
  let size = subgroupAdd(1u);
  let folded = ${fold}(value);
  if (subgroupElect()) { partial[localIndex / size] = folded; }
  workgroupBarrier();
  var all = partial[0];
  for (var i = 1u; i < u32(LANES) / size; i++) { all = ${join('all', 'partial[i]')}; }
  workgroupBarrier();
  return all;
}`
}

const reductions = { alone, shared, subgroups: bySubgroups }
