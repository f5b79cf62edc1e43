/** The device and its self-test in words, for a run's record and for the page. */
import { openedDevice } from './kernels/backend.ts'
import type { FamilyFailure } from './kernels/familyTest.ts'
import type { Lack } from './kernels/limits.ts'
import { onGpu, replacedFamilies, type KernelFamily } from './kernels/program.ts'
import type { DeviceTestReport } from './model/deviceTest.ts'
import type { SelfTestReport } from './model/selfTest.ts'

/** The device as a run keeps it, whether the base was rounded, and which kernels were not used. */
export function deviceLine(rounded = false): string {
  const { backend, description, vendor, architecture, slow } = openedDevice()
  const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed'
  const replaced = onGpu() ? replacedFamilies() : []
  return [
    `${backend}: ${name}${slow ? ' (slow: not a GPU)' : ''}`,
    ...(rounded ? ['base in half precision'] : []),
    ...(replaced.length > 0 ? [`slower way for ${listed(replaced.map((family) => words[family]))}`] : []),
  ].join(', ')
}

/** Why a device that failed its test, or has not had it yet, is not trained on. */
export function failures(test: SelfTestReport | null): string {
  if (!test) return 'the device has not been tested yet.'
  const failed = test.checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${name} (${detail})`)
  return `this device computes wrong numbers in ${failed.join(', ')}. Try another browser, update the GPU driver, or use the slow mode.`
}

/**
 * What runs the slower way on a device, and why: a sentence for each limit that it lacks, one for the kernels whose
 * numbers are wrong there and one for those that it does not run. Nothing where the test failed all the same.
 */
export function slowerWays({ passed, lacks, replaced }: DeviceTestReport): string[] {
  if (!passed) return []
  const groups = (['wrong', 'refused'] as const).map((kind) =>
    replaced.filter(({ problem }) => problem === kind),
  )
  return [...lacks.map(lackText), ...groups.filter(({ length }) => length > 0).map(replacedText)]
}

const words: Record<KernelFamily, string> = {
  matmul: 'matrix product',
  attention: 'attention',
  bottleneck: 'bottleneck',
  layerNorm: 'LayerNorm',
  activation: 'activation',
  addScaled: 'addition',
  embedding: 'embedding',
  firstToken: 'first token',
  dropout: 'dropout',
  crossEntropy: 'cross-entropy',
  vocabulary: 'vocabulary loss',
  sum: 'sum',
  adamw: 'AdamW',
}

const limitWords: Record<Lack['limit'], string> = {
  maxBufferSize: 'bytes in a buffer',
  maxStorageBufferBindingSize: 'bytes in a binding',
  maxStorageBuffersPerShaderStage: 'buffers to a program',
  maxComputeWorkgroupStorageSize: 'bytes of memory to a workgroup',
  maxComputeInvocationsPerWorkgroup: 'threads to a workgroup',
}

const rightButSlower = 'numbers are right, training is slower.'

function replacedText(failed: FamilyFailure[]): string {
  const did = failed[0]?.problem === 'wrong' ? 'gave wrong numbers' : 'did not run'
  return `On this device the ${kernels(failed.map(({ family }) => family))} ${did}; the slower way is used instead: ${rightButSlower}`
}

function lackText({ limit, has, wanted, families }: Lack): string {
  const which = families.length > 0 ? `the ${kernels(families)} would take` : 'the fast kernels would take'
  const instead =
    families.length > 0 ? 'the slower way is used instead' : 'kernels without shared memory are used instead'
  return `This device allows ${has} ${limitWords[limit]} (${limit}), and ${which} ${wanted}; ${instead}: ${rightButSlower}`
}

/** “attention and sum kernels” */
function kernels(families: KernelFamily[]): string {
  return `${listed(families.map((family) => words[family]))} ${families.length > 1 ? 'kernels' : 'kernel'}`
}

function listed(items: string[]): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`
}
