/** The device and its self-test in words, for a run's record and for the page. */
import { deviceHas, openedDevice } from './kernels/backend.ts'
import { extensions, type Extension } from './kernels/dialect.ts'
import type { FamilyFailure } from './kernels/familyTest.ts'
import type { Lack } from './kernels/limits.ts'
import { multipliesInHalf } from './kernels/matmul.ts'
import {
  kernelFamilies,
  onGpu,
  softwareVariants,
  takenWays,
  type KernelFamily,
  type Way,
} from './kernels/program.ts'
import type { DeviceTestReport } from './model/deviceTest.ts'
import type { SelfTestReport } from './model/selfTest.ts'
import type { TrainingArguments } from './trainingArguments.ts'

/** What became of a run's wish to multiply frozen matrices in half precision. */
export function productsText(): string {
  if (multipliesInHalf()) return 'frozen matrices multiplied in half precision'
  const why = !onGpu()
    ? 'not on WebGPU'
    : !deviceHas('f16')
      ? 'the device has no shader-f16'
      : softwareVariants('matmul')
        ? 'its kernels here share no memory'
        : 'its kernel is not used here'
  return `half-precision products ignored (${why})`
}

/** What a run does that its device's line tells. */
export interface RunOnDevice {
  /** The base was rounded to half precision. */
  rounded: boolean
  /** null: of a run kept without them. */
  args: Pick<TrainingArguments, 'half_precision_products'> | null
}

/**
 * The device as a run keeps it: what became of half precision there, and which kernels went another way, with `test` also
 * why.
 */
export function deviceLine(test: DeviceTestReport | null = null, run: RunOnDevice | null = null): string {
  const { backend, description, vendor, architecture, slow } = openedDevice()
  const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed'
  return [
    `${backend}: ${name}${slow ? ' (slow: not a GPU)' : ''}`,
    ...(run?.rounded ? ['base in half precision'] : []),
    ...(run?.args?.half_precision_products ? [productsText()] : []),
    ...(onGpu() ? otherWays(test) : []),
  ].join(', ')
}

/** “slower way for attention and sum (wrong numbers)”, for each way and reason. */
function otherWays(test: DeviceTestReport | null): string[] {
  const taken = takenWays()
  const groups = new Map<string, KernelFamily[]>()
  for (const family of kernelFamilies) {
    const way = taken[family]
    if (!way) continue
    const key = `${lineWords[way]} for |${reasonOf(family, test)}`
    groups.set(key, [...(groups.get(key) ?? []), family])
  }
  return [...groups].map(([key, families]) => {
    const [way, reason] = key.split('|')
    const which = families.length === kernelFamilies.length ? 'everything' : listed(wordsOf(families))
    return `${way}${which}${reason}`
  })
}

const lineWords: Record<Way, string> = {
  extensions: 'extensions',
  gpu: 'no extensions',
  software: 'simpler kernels',
  reference: 'slower way',
}

function reasonOf(family: KernelFamily, test: DeviceTestReport | null): string {
  if (!test) return ''
  if (test.lacks.some(({ families }) => families.includes(family))) return ' (too few buffers)'
  const own = test.replaced.find((failure) => failure.family === family)
  if (!own) return ' (self-test failed)'
  return own.problem === 'refused' ? ' (did not run)' : ' (wrong numbers)'
}

/** Why a device that failed its test, or has not had it yet, is not trained on. */
export function failures(test: SelfTestReport | null): string {
  if (!test) return 'the device has not been tested yet.'
  const failed = test.checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${name} (${detail})`)
  return `this device computes wrong numbers in ${failed.join(', ')}. Try another browser, update the GPU driver, or use the slow mode.`
}

/**
 * What runs another way on a device than it would elsewhere, and why: a sentence for each limit that it lacks, for each
 * way that kernels went because of wrong numbers, and for each that they went because they do not run. Nothing where the
 * test failed all the same.
 */
export function slowerWays({ passed, lacks, replaced, others }: DeviceTestReport): string[] {
  if (!passed) return []
  const half = replaced.filter(({ family }) => family === 'half')
  const groups = (['gpu', 'software', 'reference'] as const).flatMap((way) =>
    (['wrong', 'refused'] as const).map((kind) =>
      replaced.filter(
        ({ family, problem, instead }) => problem === kind && instead === way && family !== 'half',
      ),
    ),
  )
  return [
    ...lacks.map(lackText),
    ...[...groups, half].filter(({ length }) => length > 0).map(replacedText),
    ...(others ? [othersText(others)] : []),
  ]
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
  gate: 'gate',
  dropout: 'dropout',
  crossEntropy: 'cross-entropy',
  vocabulary: 'vocabulary loss',
  sum: 'sum',
  adamw: 'AdamW',
  copy: 'copy',
  half: 'half precision',
  places: 'token position',
}

const limitWords: Record<Lack['limit'], string> = {
  maxBufferSize: 'bytes in a buffer',
  maxStorageBufferBindingSize: 'bytes in a binding',
  maxStorageBuffersPerShaderStage: 'buffers to a program',
  maxComputeWorkgroupStorageSize: 'bytes of memory to a workgroup',
  maxComputeInvocationsPerWorkgroup: 'threads to a workgroup',
}

const rightButSlower = 'numbers are right, training is slower.'

const insteadWords: Record<Way, string> = {
  extensions: 'the same kernels are used',
  gpu: 'kernels without extensions are used',
  software: 'simpler kernels are used',
  reference: 'the slower way is used',
}

function replacedText(failed: FamilyFailure[]): string {
  const [{ family, problem, instead }] = failed as [FamilyFailure]
  const did = problem === 'wrong' ? 'gave wrong numbers' : 'did not run'
  const found = `On this device the ${kernels(failed.map(({ family }) => family))} ${did}`
  if (family === 'half')
    return `${found}; everything is kept in full precision instead: numbers are right, memory fills sooner.`
  return `${found}${instead === 'gpu' ? ` with ${used()}` : ''}; ${insteadWords[instead]} instead: ${rightButSlower}`
}

function othersText(way: Way): string {
  return `This device failed its self-test, and which kernel was to blame could not be found; ${insteadWords[way]} for everything: ${rightButSlower}`
}

/** The extensions of WGSL that the device has. */
function used(): string {
  return listed((Object.keys(extensions) as Extension[]).filter(deviceHas))
}

function lackText({ limit, has, wanted, families }: Lack): string {
  const which = families.length > 0 ? `the ${kernels(families)} would take` : 'the fast kernels would take'
  const instead =
    families.length > 0 ? 'the slower way is used instead' : 'kernels without shared memory are used instead'
  return `This device allows ${has} ${limitWords[limit]} (${limit}), and ${which} ${wanted}; ${instead}: ${rightButSlower}`
}

/** “attention and sum kernels” */
function kernels(families: KernelFamily[]): string {
  return `${listed(wordsOf(families))} ${families.length > 1 ? 'kernels' : 'kernel'}`
}

function wordsOf(families: KernelFamily[]): string[] {
  return families.map((family) => words[family])
}

function listed(items: string[]): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`
}
