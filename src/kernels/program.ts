/**
 * Runs our WGSL through tfjs's `runWebGPUProgram`. Every tensor is bound as a flat array: tfjs puts ranks, broadcast
 * dimensions and shape equality into its pipeline key, so with flat bindings one Kernel is one pipeline, whatever the
 * shapes. A value written into `code` must also be in `name`, which is the key; sizes belong in uniforms.
 */
import * as tf from '@tensorflow/tfjs-core'
import { deviceHas, deviceVariants, webgpuBackend } from './backend.ts'
import { asking, extensions, type Extension } from './dialect.ts'

/** Kernels that stand or fall together: each family has a reference beside it, which needs no kernel of ours. */
export const kernelFamilies = [
  'matmul',
  'attention',
  'bottleneck',
  'layerNorm',
  'activation',
  'addScaled',
  'embedding',
  'firstToken',
  'gate',
  'dropout',
  'crossEntropy',
  'vocabulary',
  'sum',
  'adamw',
  'copy',
  'half',
  'places',
] as const

export type KernelFamily = (typeof kernelFamilies)[number]

/**
 * The ways to run a family, from the fastest to the surest: its kernels for GPUs with what extensions of WGSL the device
 * has, without extensions, those for software adapters, which share no memory within a workgroup, and its reference.
 * A family of which a way has no kernels of its own runs those of the way before it.
 */
export const ways = ['extensions', 'gpu', 'software', 'reference'] as const

export type Way = (typeof ways)[number]

/** The way of each family that does not go the device's own. */
export type TakenWays = Partial<Record<KernelFamily, Way>>

/** One WGSL program. `code` defines `fn main(index : i32)`; it may use `result`, the inputs by name, `uniforms.x`. */
export interface Kernel {
  /** Unique, and different for every `code`. */
  name: string
  inputs: string[]
  uniforms: Record<string, 'int32' | 'uint32' | 'float32'>
  workgroupSize: number
  code: string
  /** 4: the result and inputs are `array<vec4<…>>`. */
  components?: 1 | 4
  /** The same for each input, where they differ from the result. */
  inputComponents?: (1 | 2 | 4)[]
  /** Extensions that `code` uses; `hasExtension` says whether the family may. */
  enable?: Extension[]
  /** Inputs that `code` writes to: memory of their own, which no other input or the result is a part of. */
  writes?: string[]
}

const wgslTypes = { int32: 'i32', uint32: 'u32', float32: 'f32' }

let taken: TakenWays = {}

/** Whether the current backend runs WGSL. */
export function onGpu(): boolean {
  return tf.getBackend() === 'webgpu'
}

/** Whether a family's own kernels run here; otherwise its operations take their reference. */
export function runsOwn(family: KernelFamily): boolean {
  return onGpu() && wayOf(family) !== 'reference'
}

/** Whether a family runs its variants for software adapters (no barriers, large tiles) where it has two. */
export function softwareVariants(family: KernelFamily): boolean {
  return wayOf(family) === 'software'
}

/** Whether a family's programs may use an extension of WGSL. */
export function hasExtension(name: Extension, family: KernelFamily): boolean {
  return wayOf(family) === 'extensions' && deviceHas(name)
}

/** How a family runs on the open device, which must be webgpu. */
export function wayOf(family: KernelFamily): Way {
  return slower(deviceWay(), taken[family] ?? 'extensions')
}

/** The way that a family goes on the open device if nothing is wrong with it. */
export function deviceWay(): Way {
  if (deviceVariants() === 'software') return 'software'
  return (Object.keys(extensions) as Extension[]).some(deviceHas) ? 'extensions' : 'gpu'
}

/** Whichever of two ways is the slower and surer. */
export function slower(a: Way, b: Way): Way {
  return ways.indexOf(a) > ways.indexOf(b) ? a : b
}

/** From now on families go the ways given here, and the device's own where there is none. */
export function takeWays(given: TakenWays): void {
  taken = { ...given }
}

/** The ways that were taken last. */
export function takenWays(): TakenWays {
  return taken
}

/** From now on these families, and no others, take their reference. */
export function replaceByReference(families: Iterable<KernelFamily>): void {
  takeWays(Object.fromEntries([...families].map((family) => [family, 'reference'])))
}

/** Families that take their reference on a device that could run their kernels. */
export function replacedFamilies(): KernelFamily[] {
  return kernelFamilies.filter((family) => taken[family] === 'reference')
}

/** Dispatches `kernel` with one invocation per `invocations`; see `runWorkgroups`. */
export function runElements<T extends tf.Tensor>(
  kernel: Kernel,
  inputs: tf.Tensor[],
  uniforms: Record<string, number>,
  shape: number[],
  invocations: number,
  output?: tf.TensorInfo | null,
): T {
  return runWorkgroups(kernel, inputs, uniforms, shape, Math.ceil(invocations / kernel.workgroupSize), output)
}

/**
 * Dispatches `workgroups` workgroups and returns the float32 result of `shape`: a new tensor, or `output`, written in
 * place (its memory must be no input's). Beyond the device's limit per dimension the grid becomes two-dimensional, so
 * there may be more workgroups than asked for: `code` guards its index.
 */
export function runWorkgroups<T extends tf.Tensor>(
  kernel: Kernel,
  inputs: tf.Tensor[],
  uniforms: Record<string, number>,
  shape: number[],
  workgroups: number,
  output?: tf.TensorInfo | null,
): T {
  const backend = webgpuBackend()
  if (workgroups === 0) return tf.zeros(shape) as T
  const limit = backend.device.limits.maxComputeWorkgroupsPerDimension
  const rows = Math.ceil(workgroups / limit)
  const declared = Object.entries(kernel.uniforms)
  const target = output ?? backend.makeTensorInfo(shape, 'float32')
  backend.runWebGPUProgram(
    {
      shaderKey: kernel.name,
      variableNames: kernel.inputs,
      uniforms: declared.map(([name, type]) => `${name} : ${wgslTypes[type]}, `).join(''),
      outputComponent: kernel.components ?? 1,
      variableComponents: kernel.inputComponents,
      outputShape: [],
      workgroupSize: [kernel.workgroupSize, 1, 1],
      dispatchLayout: { x: [0] },
      dispatch: rows === 1 ? [workgroups, 1, 1] : [Math.ceil(workgroups / rows), rows, 1],
      getUserCode: () => asking(kernel.enable, kernel.writes) + kernel.code,
    },
    inputs.map(flat),
    'float32',
    declared.map(([name, type]) => ({ type, data: [uniform(kernel, uniforms, name)] })),
    flat(target),
  )
  return output ? (output as T) : (tf.engine().makeTensorFromTensorInfo(target) as T)
}

function uniform({ name: kernel }: Kernel, values: Record<string, number>, name: string): number {
  const value = values[name]
  if (value === undefined) throw new Error(`Kernel ${kernel} was run without its uniform ${name}.`)
  return value
}

/** The same buffer under shape []; see the header. */
function flat({ dataId, dtype }: tf.TensorInfo): tf.TensorInfo {
  return { dataId, dtype, shape: [] }
}
