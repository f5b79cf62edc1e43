/** What each lever is worth: the same step with one of them off at a time. */
import * as tf from '@tensorflow/tfjs'
import type { AdapterConfig } from '../../src/config.ts'
import { kernelFamilies, replaceByReference } from '../../src/kernels/program.ts'
import { measure, openEngine, type Measured, type Size } from './measure.ts'
import { hostBatch, Stepper } from './steps.ts'

export interface Ablated {
  /** What was off; 'nothing' is the engine as it is. */
  off: string
  /** A step with dropout, as runs have it, and what the first step compiled. */
  step: Measured
}

/** Dispatches to a submit that are tried beside the engine's own number. */
const submitSizes = [1, 64]

/** The engine, then the engine without each family of kernels, then with other sizes of submits. */
export async function measureAblation(size: Size, adapter: AdapterConfig): Promise<Ablated[]> {
  const found: Ablated[] = [{ off: 'nothing', step: await oneStep(size, adapter) }]
  for (const family of kernelFamilies) {
    replaceByReference([family])
    found.push({ off: `kernels: ${family}`, step: await oneStep(size, adapter) })
  }
  replaceByReference(kernelFamilies)
  found.push({ off: 'kernels: all', step: await oneStep(size, adapter) })
  replaceByReference([])
  for (const submitSize of submitSizes)
    found.push({ off: `submits of ${submitSize} instead`, step: await oneStep(size, adapter, submitSize) })
  return found
}

async function oneStep(
  size: Size,
  adapter: AdapterConfig,
  submitSize: number | null = null,
): Promise<Measured> {
  const { config, B, S } = size
  const { gpu, model } = await openEngine(config, adapter)
  const flag = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE'
  const before = tf.env().getNumber(flag)
  if (submitSize !== null) tf.env().set(flag, submitSize)
  try {
    const stepper = new Stepper(model, hostBatch(config, B, S))
    return measure(gpu, () => stepper.step(true).dispose())
  } finally {
    tf.env().set(flag, before)
  }
}
