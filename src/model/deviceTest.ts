/**
 * The self-test of a device, with its remedy: families of kernels that the device cannot bind take their reference from
 * the start, and where the test fails, the families that are wrong here take it too, and the test decides again.
 */
import { openedDevice } from '../kernels/backend.ts'
import { failingFamilies, type FamilyFailure } from '../kernels/familyTest.ts'
import { lacks, type Lack } from '../kernels/limits.ts'
import { onGpu, replaceByReference } from '../kernels/program.ts'
import { selfTest, type SelfTestReport } from './selfTest.ts'

export interface DeviceTestReport extends SelfTestReport {
  /** What the device lacks, and which families take their reference for that. */
  lacks: Lack[]
  /** Families that take their reference because their kernels are wrong here. */
  replaced: FamilyFailure[]
}

/**
 * Tests the device that is open, and settles which families run their own kernels on it; `passed` and `checks` are those
 * of the last run of the self-test. Never throws.
 */
export async function testDevice(): Promise<DeviceTestReport> {
  const started = performance.now()
  const lacking = onGpu() ? lacks(openedDevice().limits) : []
  const beyond = lacking.flatMap(({ families }) => families)
  replaceByReference(beyond)
  const first = await selfTest()
  if (first.passed || !onGpu()) return { ...first, lacks: lacking, replaced: [] }
  const replaced = await failingFamilies()
  if (replaced.length === 0) return { ...first, lacks: lacking, replaced }
  replaceByReference([...beyond, ...replaced.map(({ family }) => family)])
  const second = await selfTest()
  return { ...second, ms: performance.now() - started, lacks: lacking, replaced }
}
