/** Fused attention on the host backends, where it is its reference (see kernels/attention.ts). */
import { beforeAll, describe } from 'vitest'
import { openBackend } from '../src/kernels/backend.ts'
import { declareAttentionTests } from './kernels/attention.ts'

describe.each(['cpu', 'wasm'] as const)('attention on %s', (kind) => {
  beforeAll(async () => void (await openBackend(kind)))
  declareAttentionTests(['rows', 'heads'])
})
