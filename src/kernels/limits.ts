/**
 * What our programs want of a device beyond what is always there, and what is done where it is missing: programs that
 * share memory within a workgroup give way to those that share none, and a family of which a program binds too many
 * buffers takes its reference.
 */
import type { DeviceReport } from './backend.ts'
import type { KernelFamily } from './program.ts'

type Limits = DeviceReport['limits']

/** A limit that is lower than our programs want. */
export interface Lack {
  limit: keyof Limits
  has: number
  wanted: number
  /** Families that take their reference for it; none: all families run, in the variants for software adapters. */
  families: KernelFamily[]
}

/** Of the variants for GPUs: attention's and the bottlenecks' tiles, and one of 64 in a matrix product. */
const ofWorkgroups = {
  maxComputeWorkgroupStorageSize: 16_384,
  maxComputeInvocationsPerWorkgroup: 256,
} satisfies Partial<Limits>

/** Storage buffers that the largest program of a family binds, its result among them; others bind four at most. */
const buffers: Partial<Record<KernelFamily, number>> = {
  attention: 8,
  embedding: 8,
  bottleneck: 7,
  matmul: 6,
}

/** Everything that a WebGPU device of these limits lacks; nothing on one that keeps to WebGPU's own defaults. */
export function lacks(limits: Limits): Lack[] {
  const shared = (['maxComputeWorkgroupStorageSize', 'maxComputeInvocationsPerWorkgroup'] as const)
    .map((limit): Lack => ({ limit, has: limits[limit], wanted: ofWorkgroups[limit], families: [] }))
    .filter(({ has, wanted }) => has < wanted)
  const has = limits.maxStorageBuffersPerShaderStage
  const beyond = (Object.keys(buffers) as KernelFamily[]).filter((family) => has < (buffers[family] ?? 0))
  if (beyond.length === 0) return shared
  const wanted = Math.max(...beyond.map((family) => buffers[family] ?? 0))
  return [...shared, { limit: 'maxStorageBuffersPerShaderStage', has, wanted, families: beyond }]
}

/** Whether the variants for GPUs do not fit this device. */
export function needsSoftwareVariants(limits: Limits): boolean {
  return lacks(limits).some(({ families }) => families.length === 0)
}
