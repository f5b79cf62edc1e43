/** What a device could do at most: multiplications and additions in registers, and the data sheets' figures. */
import type * as tf from '@tensorflow/tfjs-core'
import { runElements, type Kernel } from '../../../src/kernels/program.ts'
import { time } from '../clock.ts'

const invocations = 1 << 20
const rounds = 256
const chains = 8

const names = Array.from({ length: chains }, (_, i) => `c${i}`)

/** Chains that do not wait for one another; the result keeps them from being left out. */
const kernel: Kernel = {
  name: `fmaLoop ${rounds} ${chains}`,
  inputs: ['x'],
  uniforms: { scale: 'float32' },
  workgroupSize: 256,
  code: `
fn main(index : i32) {
  let start = x[index & 63];
  let a = vec4<f32>(uniforms.scale);
  let b = vec4<f32>(start);
  ${names.map((name, i) => `var ${name} = vec4<f32>(start + ${i}.0);`).join('\n  ')}
  for (var i = 0; i < ${rounds}; i++) {
    ${names.map((name) => `${name} = fma(${name}, a, b);`).join('\n    ')}
  }
  let sum = ${names.join(' + ')};
  result[index] = sum.x + sum.y + sum.z + sum.w;
}`,
}

/** Operations a second in fp32 that this device reaches in a loop that reads no memory. */
export async function measuredPeak(x: tf.Tensor): Promise<number> {
  const { ms } = await time(() => runElements(kernel, [x], { scale: 0.999 }, [invocations], invocations))
  return (invocations * rounds * chains * 4 * 2) / (ms / 1e3)
}

/** fp32 without tensor cores, in operations a second, as the makers give them; the first name that fits. */
const dataSheets: [RegExp, number][] = [
  [/H100 PCIe/i, 51.2e12],
  [/H[12]00/i, 66.9e12],
  [/A100/i, 19.5e12],
  [/L40S/i, 91.6e12],
  [/\bL4\b/i, 30.3e12],
  [/\bT4\b/i, 8.1e12],
  [/RTX 4090/i, 82.6e12],
  [/RTX 3090/i, 35.6e12],
]

/** The data sheet's figure of a device, null where it is not known here. */
export function dataSheetPeak(device: string): number | null {
  return dataSheets.find(([name]) => name.test(device))?.[1] ?? null
}
