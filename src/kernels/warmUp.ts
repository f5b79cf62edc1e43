/** Compiles programs before they run, beside each other, so that the first step of a run need not wait for them. */
import type { PaperPipeline } from './paper.ts'
import { webgpuBackend } from './backend.ts'

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
  const { pipelineCache: known } = backend as unknown as { pipelineCache: Record<string, unknown> }
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
