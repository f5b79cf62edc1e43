/** The device and its self-test in words, for a run's record and for the page. */
import { openedDevice } from './kernels/backend.ts'
import type { Precision } from './model/loadRoberta.ts'
import type { SelfTestReport } from './model/selfTest.ts'

/** The device as a run keeps it, and how the base lay there. */
export function deviceLine(precision: Precision = 'float32'): string {
  const { backend, description, vendor, architecture, slow } = openedDevice()
  const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed'
  return `${backend}: ${name}${slow ? ' (slow: not a GPU)' : ''}${precision === 'float16' ? ', base in half precision' : ''}`
}

/** Why a device that failed its test, or has not had it yet, is not trained on. */
export function failures(test: SelfTestReport | null): string {
  if (!test) return 'the device has not been tested yet.'
  const failed = test.checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${name} (${detail})`)
  return `this device computes wrong numbers in ${failed.join(', ')}. Try another browser, update the GPU driver, or use the slow mode.`
}
