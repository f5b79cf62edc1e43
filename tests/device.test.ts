/** What a device lacks, what runs the slower way on it, and the words for both; the kernels themselves in tests/gpu. */
import { afterAll, describe, expect, it, vi } from 'vitest'
import { deviceLine, slowerWays } from '../src/deviceText.ts'
import { openTested } from '../src/headless/node.ts'
import { deviceVariants, openBackend, openedDevice } from '../src/kernels/backend.ts'
import { failingFamilies } from '../src/kernels/familyTest.ts'
import { lacks } from '../src/kernels/limits.ts'
import {
  kernelFamilies,
  replaceByReference,
  replacedFamilies,
  takenWays,
  takeWays,
} from '../src/kernels/program.ts'
import { classificationHead } from '../src/config.ts'
import { loadRoberta } from '../src/model/loadRoberta.ts'
import { createModel, singleSetup } from '../src/model/model.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { madeUpWeights } from './madeUp.ts'
import { testDevice, type DeviceTestReport } from '../src/model/deviceTest.ts'
import { FakeGpu } from './bench/fakeDevice.ts'

const small = {
  model_type: 'roberta',
  num_hidden_layers: 1,
  intermediate_size: 8,
  max_position_embeddings: 16,
  type_vocab_size: 1,
  layer_norm_eps: 1e-5,
}

/** Opens a device whose limits differ from those of a good one; it executes nothing. */
function open(changes: Partial<FakeGpu['limits']>) {
  const gpu = new FakeGpu()
  Object.assign(gpu.limits, changes)
  return openBackend('webgpu', { gpu: gpu as unknown as GPU })
}

const passed: DeviceTestReport = { passed: true, checks: [], ms: 1, lacks: [], replaced: [], others: null }

afterAll(() => replaceByReference([]))

describe('limits', () => {
  it('are enough where they are those that WebGPU promises', async () => {
    await open({
      maxStorageBuffersPerShaderStage: 8,
      maxComputeWorkgroupStorageSize: 16_384,
      maxComputeInvocationsPerWorkgroup: 256,
    })
    expect(lacks(openedDevice().limits)).toEqual([])
    expect(deviceVariants()).toBe('gpu')
    expect(slowerWays(passed)).toEqual([])
  })

  it('too small for shared memory take the variants without it, and say so', async () => {
    await open({ maxComputeWorkgroupStorageSize: 8192 })
    expect(deviceVariants()).toBe('software')
    const found = lacks(openedDevice().limits)
    expect(slowerWays({ ...passed, lacks: found })).toEqual([
      'This device allows 8192 bytes of memory to a workgroup (maxComputeWorkgroupStorageSize), and the fast kernels would take 16384; kernels without shared memory are used instead: numbers are right, training is slower.',
    ])
    await open({ maxComputeInvocationsPerWorkgroup: 128 })
    expect(deviceVariants()).toBe('software')
  })

  it('of too few buffers to a program replace the families that would bind more, before the first test', async () => {
    await open({ maxStorageBuffersPerShaderStage: 7 })
    expect(deviceVariants()).toBe('gpu')
    const report = await testDevice()
    expect(report.passed).toBe(false)
    expect(replacedFamilies()).toEqual(['attention', 'embedding'])
    expect(slowerWays({ ...report, passed: true })).toEqual([
      'This device allows 7 buffers to a program (maxStorageBuffersPerShaderStage), and the attention and embedding kernels would take 8; the slower way is used instead: numbers are right, training is slower.',
    ])
    expect(deviceLine(null, { rounded: true, args: null })).toBe(
      'webgpu: executes nothing, base in half precision, slower way for attention and embedding',
    )
    expect(deviceLine(null, { rounded: false, args: { half_precision_products: true } })).toMatch(
      /, half-precision products ignored \(the device has no shader-f16\),/,
    )
  })
})

it('refuses to train a word table that a program could see only while it lies in halves', async () => {
  const config = parseRobertaConfig(
    JSON.stringify({ ...small, vocab_size: 100, hidden_size: 8, num_attention_heads: 2 }),
  )
  await open({ maxStorageBufferBindingSize: 2000 })
  const source = { ...madeUpWeights(config), dtype: () => 'F16' }
  const { roberta } = await loadRoberta(config, source, 2000, 'float16')
  expect(roberta.embeddings.word_embeddings.weight).toHaveLength(1)
  const setup = singleSetup('t', { architecture: 'full' }, classificationHead(2))
  expect(() => createModel(roberta, setup, new Map())).toThrow(/The word table is larger than this device/)
})

it('that does not unpack halves as they are holds a file of halves in float32, and says so', async () => {
  await open({})
  const config = parseRobertaConfig(
    JSON.stringify({ ...small, vocab_size: 100, hidden_size: 8, num_attention_heads: 2 }),
  )
  const source = { ...madeUpWeights(config), dtype: () => 'F16' }
  const { roberta, rounded, notes } = await loadRoberta(config, source, null, 'auto')
  const { tensor } = roberta.embeddings.word_embeddings.weight[0]!
  expect([tensor.dtype, rounded]).toEqual(['float32', false])
  expect(notes).toEqual([expect.stringMatching(/reads small numbers in half precision as zero/)])
})

describe('a device test', () => {
  it('replaces nothing on a processor, whatever was replaced on the device before', async () => {
    replaceByReference(['attention'])
    await openBackend('cpu')
    expect(await failingFamilies()).toEqual([])
    expect(await testDevice()).toMatchObject({ passed: true, lacks: [], replaced: [], others: null })
    expect(replacedFamilies()).toEqual([])
    expect(deviceLine()).toBe('cpu: JavaScript on the CPU (slow: not a GPU)')
    expect(deviceLine(null, { rounded: false, args: { half_precision_products: true } })).toBe(
      'cpu: JavaScript on the CPU (slow: not a GPU), half-precision products ignored (not on WebGPU)',
    )
  })

  it('says for people which kernels were wrong and which did not run', () => {
    const replaced: DeviceTestReport['replaced'] = [
      { family: 'matmul', problem: 'wrong', detail: '', instead: 'reference' },
      { family: 'sum', problem: 'refused', detail: '', instead: 'reference' },
      { family: 'attention', problem: 'wrong', detail: '', instead: 'reference' },
      { family: 'adamw', problem: 'wrong', detail: '', instead: 'reference' },
    ]
    expect(slowerWays({ ...passed, replaced })).toEqual([
      'On this device the matrix product, attention and AdamW kernels gave wrong numbers; the slower way is used instead: numbers are right, training is slower.',
      'On this device the sum kernel did not run; the slower way is used instead: numbers are right, training is slower.',
    ])
    expect(slowerWays({ ...passed, passed: false, replaced })).toEqual([])
  })

  it('says in a run which way each kernel went, and why', async () => {
    await open({ maxStorageBuffersPerShaderStage: 7 })
    const found = lacks(openedDevice().limits)
    const replaced: DeviceTestReport['replaced'] = [
      { family: 'matmul', problem: 'refused', detail: '', instead: 'software' },
      { family: 'sum', problem: 'wrong', detail: '', instead: 'gpu' },
    ]
    takeWays({ attention: 'reference', embedding: 'reference', matmul: 'software', sum: 'gpu' })
    const report = { ...passed, lacks: found, replaced }
    expect(deviceLine(report)).toBe(
      'webgpu: executes nothing, simpler kernels for matrix product (did not run), slower way for attention and embedding (too few buffers), no extensions for sum (wrong numbers)',
    )
    takeWays(Object.fromEntries(kernelFamilies.map((family) => [family, 'software'])))
    expect(deviceLine({ ...passed, others: 'software' })).toBe(
      'webgpu: executes nothing, simpler kernels for everything (self-test failed)',
    )
    takeWays({})
    expect(deviceLine(passed)).toBe('webgpu: executes nothing')
  })
})

describe('the headless runner', () => {
  it('tests a GPU before it computes on it, and stops where its numbers are wrong', async () => {
    vi.doMock('webgpu', () => ({ create: () => new FakeGpu(), globals: {} }))
    const said: string[] = []
    await expect(openTested('webgpu', (text) => said.push(text))).rejects.toThrow(
      /^Nothing can be computed here: this device computes wrong numbers in seq_bn forward/,
    )
    expect(said).toEqual(['webgpu: executes nothing'])
    expect(takenWays()).toEqual({})
  })
})
