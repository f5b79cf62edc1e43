/** Compiles programs before they run, beside each other, so that the first step of a run need not wait for them. */
import * as tf from '@tensorflow/tfjs-core'
import { compilingOnly, webgpuBackend } from './backend.ts'
import type { PaperPipeline } from './paper.ts'
import { onGpu } from './program.ts'

/** Programs that the driver compiles at a time: what else the page draws shares its threads. */
const atOnce = 4

/**
 * Puts `programs` (by the key that tfjs keeps them under) where tfjs looks for them, unless they are there, and returns
 * how many it compiled. Ends early, between a few and the next few, when `signal` says so or another device is opened.
 * Nothing is allocated or run.
 */
export async function warmUp(
  programs: ReadonlyMap<string, PaperPipeline>,
  signal: AbortSignal,
): Promise<number> {
  const backend = webgpuBackend()
  const { device } = backend
  const known = pipelinesOf(backend)
  const missing = [...programs].filter(([key]) => !(key in known))
  let compiled = 0
  const compile = async ([key, { label, code }]: [string, PaperPipeline]) => {
    const compute = { module: device.createShaderModule({ code, label }), entryPoint: '_start' }
    const pipeline = await device.createComputePipelineAsync({ compute, label, layout: 'auto' })
    // A run may have begun meanwhile and compiled it itself.
    if (key in known) return
    known[key] = pipeline
    compiled++
  }
  for (let i = 0; i < missing.length && !signal.aborted && backend === webgpuBackend(); i += atOnce)
    await Promise.all(missing.slice(i, i + atOnce).map(compile))
  return compiled
}

/**
 * Compiles the programs of `work` beside each other, none of which runs: `work` makes tensors, which are freed again, and
 * reads none. A program that does not compile is left to whoever runs it, and so is what `work` throws. Nothing else may
 * use the device meanwhile but to compile too.
 */
export async function compileTogether(work: () => void): Promise<void> {
  if (!onGpu()) return
  const known = pipelinesOf(webgpuBackend())
  try {
    compilingOnly(() => tf.tidy(work))
  } catch {
    // Said by the run that follows.
  }
  const begun = Object.entries(known).filter(([, pipeline]) => pipeline instanceof Promise)
  for (const [key] of begun) delete known[key]
  const compiled = async ([key, promise]: [string, unknown]) => {
    const pipeline = await Promise.resolve(promise).catch(() => null)
    if (pipeline && !(key in known)) known[key] = pipeline
  }
  await Promise.all(begun.map(compiled))
}

function pipelinesOf(backend: ReturnType<typeof webgpuBackend>): Record<string, unknown> {
  return (backend as unknown as { pipelineCache: Record<string, unknown> }).pipelineCache
}
