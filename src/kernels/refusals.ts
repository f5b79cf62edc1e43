/** What a device refuses, as errors of the work that asked for it. */
import { webgpuBackend } from './backend.ts'
import { onGpu } from './program.ts'

const filters: GPUErrorFilter[] = ['validation', 'internal', 'out-of-memory']

/**
 * Runs `work`. A command that the device refuses meanwhile makes this throw, and is then no error of the session
 * (`onError` of openBackend). `work` must have read its results before it ends: what waits to be sent is not seen.
 */
export async function refusalsThrown<T>(work: () => Promise<T>): Promise<T> {
  if (!onGpu()) return work()
  const { device } = webgpuBackend()
  for (const filter of filters) device.pushErrorScope(filter)
  const outcome = await work().then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  const errors = await Promise.all(filters.map(() => device.popErrorScope()))
  const refused = errors.find((error) => error !== null)
  if (refused) throw new Error(`The GPU refused a command: ${refused.message}`)
  if ('error' in outcome) throw outcome.error
  return outcome.value
}
