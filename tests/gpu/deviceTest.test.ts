/**
 * Kernels that are broken on purpose: found by the self-test, run another way, and said; none on a sound device. Each
 * half of this file keeps to one device, so that programs which are not broken are compiled once.
 */
import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { deviceLine, slowerWays } from '../../src/deviceText.ts'
import { deviceVariants, openBackend } from '../../src/kernels/backend.ts'
import { failingFamilies } from '../../src/kernels/familyTest.ts'
import { packs } from '../../src/kernels/half.ts'
import { multipliesInHalf } from '../../src/kernels/matmul.ts'
import { kernelFamilies, takenWays, takeWays, type KernelFamily } from '../../src/kernels/program.ts'
import { testDevice } from '../../src/model/deviceTest.ts'
import { loadRoberta } from '../../src/model/loadRoberta.ts'
import { disposeRoberta } from '../../src/model/roberta.ts'
import { parseRobertaConfig } from '../../src/model/robertaConfig.ts'
import { selfTest } from '../../src/model/selfTest.ts'
import type { RunEvent } from '../../src/protocol.ts'
import { Workbench } from '../../src/workbench.ts'
import { madeUpWeights } from '../madeUp.ts'

/** Each family's programs by their names. */
const programs: Record<KernelFamily, RegExp> = {
  matmul: /^matmul/,
  attention: /^(attention|swapMiddle)/,
  bottleneck: /^bottleneck/,
  layerNorm: /^layerNorm/,
  activation: / (forward|backward)$/,
  addScaled: /^(addScaled|scale)/,
  embedding: /^(embedding|segmentSum)/,
  firstToken: /^firstToken/,
  gate: /^gate/,
  dropout: /^dropout/,
  crossEntropy: /^crossEntropy/,
  vocabulary: /^vocabulary/,
  sum: /^(sum|columnSum)/,
  adamw: /^adamw/,
  copy: /^copy/,
  half: /^(halfToFloat|floatToHalf)/,
  places: /^placesOf/,
}

/** Ours are plain objects, tfjs's are of classes. */
const isOurs = (program: object) => program.constructor === Object

type Broken = [which: RegExp | null, spoil: (code: string) => string]

const { runWebGPUProgram } = WebGPUBackend.prototype
let breaks = 0

/** From now on the WGSL of programs of ours, by their names, is spoilt; null: of all programs, tfjs's own too. */
function breakPrograms(...broken: Broken[]): void {
  breaks++
  vi.spyOn(WebGPUBackend.prototype, 'runWebGPUProgram').mockImplementation(function (
    this: WebGPUBackend,
    program,
    ...rest
  ) {
    const name = program.shaderKey
    for (const [which, spoil] of broken) {
      if (which && !(isOurs(program) && which.test(name))) continue
      const code = program.getUserCode()
      program.getUserCode = () => spoil(code)
      // Sound programs stay compiled under their own names.
      program.shaderKey = `${name}, broken ${breaks}`
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

const wrong = after('result[index] = result[index] * 2 + 1;')
const noNumber = after('result[index] = result[index] * uniforms.NAN;')
const refused = (code: string) => `${code}\nthis is not WGSL`

/** As where the invocations of a subgroup do not follow one another. */
const scattered = (code: string) => code.replaceAll('partial[localIndex / size]', 'partial[0]')

afterEach(() => {
  vi.restoreAllMocks()
  takeWays({})
})

describe('on a device without barriers', { timeout: 300_000 }, () => {
  const events: RunEvent[] = []
  let line = ''

  // A software adapter; with attention broken while the page opens it.
  beforeAll(async () => {
    breakPrograms([programs.attention, wrong])
    const bench = new Workbench((event) => events.push(event))
    const powerPreference = 'high-performance'
    await bench.openDevice({ type: 'openDevice', backend: 'webgpu', powerPreference, wasmUrl: '' })
    line = deviceLine()
    vi.restoreAllMocks()
    takeWays({})
    expect(deviceVariants()).toBe('software')
  })

  // What a device refuses while it is tested is no error of the session.
  afterAll(() => expect(events).toHaveLength(2))

  test('the page is told what went another way', () => {
    expect(events.map(({ type }) => type)).toEqual(['device', 'selfTest'])
    expect(events[1]).toMatchObject({
      report: { passed: true, replaced: [{ family: 'attention', problem: 'wrong' }] },
      notes: [
        'On this device the attention kernel gave wrong numbers; the slower way is used instead: numbers are right, training is slower.',
      ],
    })
    expect(line).toMatch(/, slower way for attention$/)
  })

  test('a sound one is left as it is', async () => {
    expect(await testDevice()).toMatchObject({ passed: true, replaced: [], others: null })
    takeWays({ sum: 'reference' })
    expect(await failingFamilies()).toEqual([])
    expect(takenWays()).toEqual({ sum: 'reference' })
  })

  // Bottlenecks have no kernels of their own here.
  const own = kernelFamilies.filter((family) => family !== 'bottleneck')

  test.each(own)('the self-test sees wrong numbers of the family %s', async (family) => {
    breakPrograms([programs[family], wrong])
    expect((await selfTest()).passed).toBe(false)
  })

  test('every family whose numbers are wrong is found, and the references alone pass the self-test', async () => {
    breakPrograms([/^/, wrong])
    const found = await failingFamilies()
    expect(found.map(({ family, instead }) => [family, instead])).toEqual(
      own.map((family) => [family, 'reference']),
    )
    takeWays(Object.fromEntries(found.map(({ family, instead }) => [family, instead])))
    expect((await selfTest()).passed).toBe(true)
  })

  test.each([
    ['dropout', 'the dropout kernel'],
    ['adamw', 'the AdamW kernel'],
    ['vocabulary', 'the vocabulary loss kernel'],
    ['copy', 'the copy kernel'],
    ['places', 'the token position kernel'],
  ] as const)('wrong numbers of %s alone give way to its reference', async (family, words) => {
    breakPrograms([programs[family], wrong])
    const report = await testDevice()
    expect(report).toMatchObject({ passed: true, replaced: [{ family, problem: 'wrong' }], others: null })
    expect(takenWays()).toEqual({ [family]: 'reference' })
    expect(slowerWays(report)).toEqual([
      `On this device ${words} gave wrong numbers; the slower way is used instead: numbers are right, training is slower.`,
    ])
  })

  test('where halves are wrong nothing is packed', async () => {
    breakPrograms([programs.half, wrong])
    expect(packs()).toBe(true)
    const report = await testDevice()
    expect(report).toMatchObject({ passed: true, replaced: [{ family: 'half' }], others: null })
    expect(slowerWays(report)).toEqual([
      'On this device the half precision kernel gave wrong numbers; everything is kept in full precision instead: numbers are right, memory fills sooner.',
    ])
    expect(packs()).toBe(false)
    const config = parseRobertaConfig(
      JSON.stringify({
        ...{ model_type: 'roberta', vocab_size: 30, hidden_size: 8, num_hidden_layers: 1 },
        ...{ num_attention_heads: 2, intermediate_size: 16, max_position_embeddings: 12 },
        ...{ type_vocab_size: 1, layer_norm_eps: 1e-5 },
      }),
    )
    const { roberta } = await loadRoberta(config, madeUpWeights(config), null, 'float16')
    expect([...roberta.vars.values()].map(({ tensor }) => tensor.dtype)).not.toContain('int32')
    disposeRoberta(roberta)
  })

  test('kernels that do not run, and those that give no number, are told apart', async () => {
    breakPrograms([programs.matmul, refused], [programs.layerNorm, noNumber])
    const report = await testDevice()
    expect(report).toMatchObject({
      passed: true,
      replaced: [
        { family: 'matmul', problem: 'refused' },
        { family: 'layerNorm', problem: 'wrong', detail: 'what is no number' },
      ],
    })
    expect(slowerWays(report)).toHaveLength(2)
    expect(deviceLine(report)).toMatch(
      /, slower way for matrix product \(did not run\), slower way for LayerNorm \(wrong numbers\)$/,
    )
  })

  test('one that does not run plain operations either is not trained on', async () => {
    breakPrograms([null, refused])
    const report = await testDevice()
    expect(report).toMatchObject({ passed: false, replaced: [], others: null })
    expect(takenWays()).toEqual({})
    expect(slowerWays(report)).toEqual([])
  })
})

describe('on a device with barriers and subgroups', { timeout: 300_000 }, () => {
  const rows = ['attention', 'layerNorm', 'embedding', 'gate', 'crossEntropy', 'vocabulary', 'sum', 'adamw']

  beforeAll(async () => {
    const { features } = await openBackend('webgpu', { variants: 'gpu' })
    expect(features).toContain('subgroups')
  })

  test('a sound one is left as it is', async () => {
    expect(await testDevice()).toMatchObject({ passed: true, replaced: [], others: null })
    expect(await failingFamilies()).toEqual([])
  })

  test('the self-test runs bottlenecks', async () => {
    breakPrograms([programs.bottleneck, refused])
    expect((await selfTest()).passed).toBe(false)
  })

  test('rows are reduced in workgroup memory where subgroups lie otherwise', async () => {
    const used = multipliesInHalf() ? 'f16 and subgroups' : 'subgroups'
    breakPrograms([/^(?!rowScale).* subgroups$/, scattered])
    const report = await testDevice()
    expect(report).toMatchObject({ passed: true, others: null })
    expect(report.replaced.map(({ family }) => family).sort()).toEqual([...rows].sort())
    expect(takenWays()).toEqual(Object.fromEntries(rows.map((family) => [family, 'gpu'])))
    expect(slowerWays(report)).toEqual([
      `On this device the attention, LayerNorm, embedding, gate, cross-entropy, vocabulary loss, sum and AdamW kernels gave wrong numbers with ${used}; kernels without extensions are used instead: numbers are right, training is slower.`,
    ])
    expect(deviceLine(report)).toMatch(
      /, no extensions for attention, LayerNorm, .* and AdamW \(wrong numbers\)$/,
    )
  })

  test('nothing is multiplied in half precision where that is wrong', async ({ skip }) => {
    skip(!multipliesInHalf(), 'this device has no shader-f16')
    breakPrograms([/^matmul.* f16/, wrong])
    const report = await testDevice()
    expect(report).toMatchObject({
      passed: true,
      replaced: [{ family: 'matmul', instead: 'gpu' }],
      others: null,
    })
    expect(multipliesInHalf()).toBe(false)
    expect(slowerWays(report)).toEqual([
      'On this device the matrix product kernel gave wrong numbers with f16 and subgroups; kernels without extensions are used instead: numbers are right, training is slower.',
    ])
  })

  test('families that are wrong or refused only where they share memory run without it', async () => {
    breakPrograms([/^attention.* tiled/, refused], [/^layerNorm.* (subgroups|shared)$/, wrong])
    const report = await testDevice()
    expect(report).toMatchObject({ passed: true, others: null })
    expect(takenWays()).toEqual({ attention: 'software', layerNorm: 'software' })
    expect(slowerWays(report)).toEqual([
      'On this device the LayerNorm kernel gave wrong numbers; simpler kernels are used instead: numbers are right, training is slower.',
      'On this device the attention kernel did not run; simpler kernels are used instead: numbers are right, training is slower.',
    ])
  })

  test('all families go down where none alone is found wrong', async () => {
    // Heads of four features, which the self-test has and the families' cases have not.
    breakPrograms([/^attention tiled 4/, refused])
    const report = await testDevice()
    expect(report).toMatchObject({ passed: true, replaced: [], others: 'software' })
    expect(slowerWays(report)).toEqual([
      'This device failed its self-test, and which kernel was to blame could not be found; simpler kernels are used for everything: numbers are right, training is slower.',
    ])
    expect(deviceLine(report)).toMatch(/, simpler kernels for everything \(self-test failed\)$/)
  })
})
