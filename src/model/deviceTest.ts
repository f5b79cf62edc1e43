/**
 * The self-test of a device, with its remedy: families of kernels that the device cannot bind take their reference from
 * the start, and where the test fails, the families that are wrong here go the first way below that is right, and the
 * test decides again. Where no family alone explains it, all go down together.
 */
import { openedDevice } from '../kernels/backend.ts'
import { failingFamilies, type FamilyFailure } from '../kernels/familyTest.ts'
import { lacks, type Lack } from '../kernels/limits.ts'
import { deviceWay, kernelFamilies, onGpu, slower, takeWays, ways } from '../kernels/program.ts'
import type { KernelFamily, TakenWays, Way } from '../kernels/program.ts'
import { selfTest, type SelfTestReport } from './selfTest.ts'

export interface DeviceTestReport extends SelfTestReport {
  /** What the device lacks, and which families take their reference for that. */
  lacks: Lack[]
  /** Families that go another way because their kernels are wrong here. */
  replaced: FamilyFailure[]
  /** The way that all other families go too, because it could not be found which of them is wrong. */
  others: Way | null
}

/**
 * Tests the device that is open, and settles which way each family of kernels runs on it; `passed` and `checks` are
 * those of the last run of the self-test, or of the first where none passed. Never throws.
 */
export async function testDevice(): Promise<DeviceTestReport> {
  const started = performance.now()
  const lacking = onGpu() ? lacks(openedDevice().limits) : []
  const beyond = goingTo(
    'reference',
    lacking.flatMap(({ families }) => families),
  )
  takeWays(beyond)
  const first = await selfTest()
  const found = first.passed || !onGpu() ? null : await remedy(beyond)
  if (!found) takeWays(beyond)
  const settled = found ?? { ...first, replaced: [], others: null }
  return { ...settled, ms: performance.now() - started, lacks: lacking }
}

/** The first ways down on which the self-test passes, which are then taken; null where none does. */
async function remedy(beyond: TakenWays): Promise<Omit<DeviceTestReport, 'lacks'> | null> {
  const replaced = await failingFamilies()
  const byFamily: TakenWays = { ...beyond }
  for (const { family, instead } of replaced) byFamily[family] = instead
  if (replaced.length > 0) {
    takeWays(byFamily)
    const test = await selfTest()
    if (test.passed) return { ...test, replaced, others: null }
  }
  for (const others of ways.slice(ways.indexOf(deviceWay()) + 1)) {
    const all = goingTo(others, kernelFamilies)
    for (const family of kernelFamilies) all[family] = slower(others, byFamily[family] ?? others)
    takeWays(all)
    const test = await selfTest()
    if (test.passed) return { ...test, replaced, others }
  }
  return null
}

function goingTo(way: Way, families: readonly KernelFamily[]): TakenWays {
  return Object.fromEntries(families.map((family) => [family, way]))
}
