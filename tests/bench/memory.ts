/** What a seq_bn step holds with each way of saving memory. */
import type { AdapterConfig } from '../../src/config.ts'
import type { Precision } from '../../src/model/loadRoberta.ts'
import { trainingDefaults } from '../../src/trainingArguments.ts'
import { measure, openEngine, type Measured, type Size } from './measure.ts'
import { hostBatch, Stepper } from './steps.ts'

export interface Saved {
  precision: Precision
  half_precision_activations: boolean
  gradient_checkpointing: boolean
  step: Measured
}

/** All that train.ts can be told, from nothing to everything. */
const ways: Omit<Saved, 'step'>[] = [
  { precision: 'float32', half_precision_activations: false, gradient_checkpointing: false },
  { precision: 'float16', half_precision_activations: false, gradient_checkpointing: false },
  { precision: 'float16', half_precision_activations: true, gradient_checkpointing: false },
  { precision: 'float32', half_precision_activations: false, gradient_checkpointing: true },
  { precision: 'float16', half_precision_activations: false, gradient_checkpointing: true },
]

/** A step without dropout in each way. */
export async function measureMemory({ config, B, S }: Size, adapter: AdapterConfig): Promise<Saved[]> {
  const found: Saved[] = []
  for (const way of ways) {
    const { precision, ...saving } = way
    const { gpu, model } = await openEngine(config, adapter, precision)
    const stepper = new Stepper(model, hostBatch(config, B, S), null, { ...trainingDefaults, ...saving })
    found.push({ ...way, step: measure(gpu, () => stepper.step(false).dispose()) })
  }
  return found
}
