/** a + factor·b, and factor·x: residuals, and LoRA's scaled update, in one pass and without uploading a number. */
import * as tf from '@tensorflow/tfjs-core'
import { runElements, runsOwn, type Kernel } from './program.ts'

/** a, b of one shape -> a + factor·b. */
export function addScaled<T extends tf.Tensor>(a: T, b: T, factor: number): T {
  if (!tf.util.arraysEqual(a.shape, b.shape)) {
    throw new Error(`addScaled cannot add [${b.shape}] to [${a.shape}]: the shapes must be equal.`)
  }
  if (!runsOwn('addScaled')) return tf.tidy(() => tf.add(a, factor === 1 ? b : tf.mul(b, factor)) as T)
  const wide = a.size % 4 === 0
  const size = wide ? a.size / 4 : a.size
  return runElements(wide ? addKernel4 : addKernel, [a, b], { size, factor }, a.shape, size)
}

/** x -> factor·x; x itself when the factor is 1. */
export function scale<T extends tf.Tensor>(x: T, factor: number): T {
  if (factor === 1) return x
  if (!runsOwn('addScaled')) return tf.mul(x, factor)
  return runElements(scaleKernel, [x], { size: x.size, factor }, x.shape, x.size)
}

const guarded = (value: string) => `
fn main(index : i32) {
  if (index < uniforms.size) { result[index] = ${value}; }
}`

const addKernel: Kernel = {
  name: 'addScaled',
  inputs: ['a', 'b'],
  uniforms: { size: 'int32', factor: 'float32' },
  workgroupSize: 64,
  code: guarded('a[index] + uniforms.factor * b[index]'),
}

const addKernel4: Kernel = { ...addKernel, name: 'addScaled vec4', components: 4 }

const scaleKernel: Kernel = {
  ...addKernel,
  name: 'scale',
  inputs: ['x'],
  code: guarded('uniforms.factor * x[index]'),
}
