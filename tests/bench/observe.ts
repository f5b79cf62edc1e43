/**
 * Sees every program that tfjs's WebGPU backend dispatches: our kernels by name with their uniforms, tfjs's own by
 * class with the shapes of what they read and write. The fake device counts dispatches by itself, so that one that came
 * past this observer would be missed by a sum.
 */
import type { WebGPUBackend, WebGPUProgram } from '@tensorflow/tfjs-backend-webgpu'
import { webgpuBackend } from '../../src/kernels/backend.ts'

/** One dispatch. */
export interface Seen {
  /** A kernel's name, or the class of one of tfjs's programs. */
  kernel: string
  /** A kernel's uniforms by name; empty for tfjs's programs. */
  uniforms: Record<string, number>
  /** Shapes of what a program of tfjs reads and writes; flat for our kernels. */
  inputs: number[][]
  output: number[]
  /** Set by tfjs's matrix products. */
  transposeA: boolean
}

interface Program extends WebGPUProgram {
  transposeA?: boolean
}

/** Calls `see` on every dispatch of the current backend from now on; returns what ends that. */
export function observe(see: (seen: Seen) => void): () => void {
  const backend = webgpuBackend()
  const run = backend.runWebGPUProgram
  const watched: WebGPUBackend['runWebGPUProgram'] = (program, inputs, dtype, uniforms, output) => {
    const own = program.constructor === Object
    const { shaderKey, transposeA = false } = program as Program
    see({
      kernel: own ? shaderKey : program.constructor.name,
      uniforms: own ? named(program.uniforms ?? '', uniforms ?? []) : {},
      inputs: inputs.map(({ shape }) => shape),
      output: output?.shape ?? program.outputShape,
      transposeA,
    })
    return run.call(backend, program, inputs, dtype, uniforms, output)
  }
  backend.runWebGPUProgram = watched
  return () => {
    backend.runWebGPUProgram = run
  }
}

/** `M : i32, N : i32, ` and the values in the same order. */
function named(declared: string, values: { data: number[] }[]): Record<string, number> {
  const names = [...declared.matchAll(/(\w+)\s*:/g)].map(([, name]) => name!)
  return Object.fromEntries(names.map((name, i) => [name, values[i]!.data[0]!]))
}
