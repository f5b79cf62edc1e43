/** Kernels that are broken on purpose: found, replaced by their references, and said; none on a sound device. */
import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { deviceLine, slowerWays } from '../../src/deviceText.ts'
import { openBackend } from '../../src/kernels/backend.ts'
import { failingFamilies } from '../../src/kernels/familyTest.ts'
import { kernelFamilies, replaceByReference, replacedFamilies } from '../../src/kernels/program.ts'
import { testDevice } from '../../src/model/deviceTest.ts'
import { selfTest } from '../../src/model/selfTest.ts'
import type { RunEvent } from '../../src/protocol.ts'
import { Workbench } from '../../src/workbench.ts'

/** Ours are plain objects, tfjs's are of classes; these belong to no family. */
const ofFamilies = (name: string, program: object) =>
  program.constructor === Object && !/^(halfToFloat|copy|placesOf)/.test(name)

type Broken = [which: RegExp | ((name: string, program: object) => boolean), spoil: (code: string) => string]

const { runWebGPUProgram } = WebGPUBackend.prototype

/** From now on the WGSL of every program that is picked, by its name, is spoilt. */
function breakPrograms(...broken: Broken[]): void {
  vi.spyOn(WebGPUBackend.prototype, 'runWebGPUProgram').mockImplementation(function (
    this: WebGPUBackend,
    program,
    ...rest
  ) {
    const name = program.shaderKey
    for (const [which, spoil] of broken) {
      if (!(which instanceof RegExp ? which.test(name) : which(name, program))) continue
      const code = program.getUserCode()
      program.getUserCode = () => spoil(code)
    }
    return runWebGPUProgram.call(this, program, ...rest)
  })
}

/** Does what it did, and then changes an element of the result for each invocation. */
const after = (statement: string) => (code: string) => `${code.replace('fn main(', 'fn unbroken(')}
fn main(index : i32) {
  unbroken(index);
  if (u32(index) < arrayLength(&result)) { ${statement} }
}`

const wrong = after('result[index] = result[index] * 2.0 + 1.0;')
const noNumber = after('result[index] = result[index] * uniforms.NAN;')
const refused = (code: string) => `${code}\nthis is not WGSL`

afterEach(() => void vi.restoreAllMocks())
afterAll(() => replaceByReference([]))

describe('the test of each family of kernels', { timeout: 300_000 }, () => {
  test.each(['software', 'gpu'] as const)('finds none on a sound device (variants: %s)', async (variants) => {
    await openBackend('webgpu', { variants })
    replaceByReference(['sum'])
    const started = performance.now()
    expect(await failingFamilies()).toEqual([])
    expect(performance.now() - started).toBeLessThan(60_000)
    expect(replacedFamilies()).toEqual(['sum'])
  })

  test('finds every family whose numbers are wrong, and the references alone pass the self-test', async () => {
    breakPrograms([ofFamilies, wrong])
    await openBackend('webgpu', { variants: 'gpu' })
    replaceByReference([])
    const families = (await failingFamilies()).map(({ family }) => family)
    expect(families).toEqual(kernelFamilies)
    replaceByReference(families)
    expect((await selfTest()).passed).toBe(true)
  })
})

describe('a device on which kernels are broken', { timeout: 300_000 }, () => {
  test('goes on without those that give wrong numbers, and says so', async () => {
    breakPrograms([/^attention/, wrong])
    const events: RunEvent[] = []
    const bench = new Workbench((event) => events.push(event))
    await bench.openDevice({
      type: 'openDevice',
      backend: 'webgpu',
      powerPreference: 'high-performance',
      wasmUrl: '',
    })
    expect(events.map(({ type }) => type)).toEqual(['device', 'selfTest'])
    expect(events[1]).toMatchObject({
      report: { passed: true, replaced: [{ family: 'attention', problem: 'wrong' }] },
      notes: [
        'On this device the attention kernel gave wrong numbers; the slower way is used instead: numbers are right, training is slower.',
      ],
    })
    expect(deviceLine()).toMatch(/, slower way for attention$/)
  })

  test('goes on without those that it refuses, and without those that give no number', async () => {
    const errors: string[] = []
    breakPrograms([/^matmul(Plain|Tiled)/, refused], [/^layerNorm/, noNumber])
    await openBackend('webgpu', { onError: (message) => errors.push(message) })
    const report = await testDevice()
    expect(report).toMatchObject({
      passed: true,
      replaced: [
        { family: 'matmul', problem: 'refused' },
        { family: 'layerNorm', problem: 'wrong', detail: 'what is no number' },
      ],
    })
    expect(slowerWays(report)).toHaveLength(2)
    expect(errors).toEqual([])
  })

  test('is not trained on where it does not run plain operations either', async () => {
    breakPrograms([() => true, refused])
    await openBackend('webgpu')
    const report = await testDevice()
    expect(report.passed).toBe(false)
    expect(slowerWays(report)).toEqual([])
  })
})
