/**
 * Counts on the fake device must not get worse: every method at a small model, every call that the large one makes, and
 * seq_bn at RoBERTa-base's size. `npm run bench -- --baseline` writes the file that this test compares with, after a
 * change that is meant to alter it.
 */
import { readFileSync } from 'node:fs'
import { beforeAll, describe, expect, it } from 'vitest'
import { fullSize, kept, measureBaseline, smallSize, type Baseline, type Kept } from './bench/baseline.ts'
import { ratioOf } from './bench/clock.ts'
import { audit } from './bench/flops.ts'
import { isFlat, measureGrowth } from './bench/growth.ts'
import { measureTape } from './bench/measure.ts'
import { configOf } from './bench/methods.ts'
import { need } from './bench/need.ts'
import { measurePadding } from './bench/padding.ts'

const baseline = JSON.parse(readFileSync('tests/bench/baseline.json', 'utf8')) as Baseline
const works = Object.keys(baseline)
const counts = (of: Kept) => Object.entries(of) as [keyof Kept, number][]

describe('counts on a device that executes nothing', () => {
  let now: Awaited<ReturnType<typeof measureBaseline>>
  beforeAll(async () => {
    now = await measureBaseline()
  })

  it('measures what the baseline holds', () => {
    expect(Object.keys(now)).toEqual(works)
    expect(works).toContain('roberta-base seq_bn step')
    expect(works).toContain('lora step, dropout')
  })

  it.each(works)('%s is no worse than the baseline', (work) => {
    const before = baseline[work]!
    const worse = counts(before)
      .filter(([count, value]) => now[work]![count] > value)
      .map(([count, value]) => `${count} ${now[work]![count]} > ${value}`)
    expect(worse).toEqual([])
    const better = counts(kept(now[work]!)).filter(([count, value]) => value < before[count])
    if (better.length > 0)
      process.stderr.write(`${work} is better than its baseline: npm run bench -- --baseline keeps that.\n`)
  })

  it.each(works)('%s compiles nothing after its first call and leaves nothing behind', (work) => {
    expect(now[work]!.tensors).toBe(0)
    expect(now[work]!.newPipelines).toBe(0)
  })

  // Full fine-tuning fills the word table's gradient with zeros from the host; the baseline holds it at that.
  it.each(works.filter((work) => !work.startsWith('full step')))('%s uploads its batch alone', (work) => {
    const { B, S } = work.startsWith('roberta-base') ? fullSize : smallSize
    const { uploaded, uploadBytes } = now[work]!
    // Ids of B·S int32, padding of 2·B and labels of B, each up to where the next may start.
    expect(uploadBytes).toBeLessThanOrEqual(4 * (B * S + 3 * B) + 3 * 256)
    expect(uploaded.filter((what) => what.includes('other'))).toEqual([])
  })

  it.each(works)(
    '%s dispatches the products that it needs, and only kernels that the audit knows',
    (work) => {
      const { unknownKernels, ofNeed, ofFloor } = now[work]!
      expect(unknownKernels).toEqual([])
      // Attention's way back makes its scores twice, which weighs more in a model as narrow as the small one.
      expect(ofNeed).toBeLessThanOrEqual(work.startsWith('roberta-base') ? 1.02 : 1.12)
      expect(ofFloor).toBeGreaterThan(0.99)
    },
  )

  it.each(['seq_bn', 'lora'] as const)('%s takes a fraction of the calls of a plain tape', async (name) => {
    const tape = await measureTape(smallSize, configOf(name))
    const engine = now[`${name} step`]!
    expect(engine.dispatches).toBeLessThan(tape.step.dispatches / 2)
    expect(engine.peakBytes).toBeLessThan(tape.step.peakBytes)
  })

  it.each(['seq_bn', 'lora'] as const)('memory of a %s run is flat, whatever the lengths', async (name) => {
    const growth = await measureGrowth(smallSize, configOf(name), 80, [10, 20, 40, 60])
    expect(Object.keys(growth.lengths).length).toBe(4)
    expect(growth.end.tensors).toBe(growth.half.tensors)
    expect(growth.end.pipelines).toBe(growth.half.pipelines)
    expect(isFlat(growth)).toBe(true)
  })

  it('all lengths together take little more memory than the longest alone', async () => {
    const wide = { ...fullSize, config: { ...fullSize.config, num_hidden_layers: 3 } }
    const all = await measureGrowth(wide, configOf('seq_bn'), 40, [12, 40, 90, 128, 250, 512])
    const longest = await measureGrowth(wide, configOf('seq_bn'), 20, [512])
    // Classes of sizes, and the free buffers that pool.ts keeps.
    expect(all.end.peakBytes).toBeLessThan(longest.end.peakBytes * 1.07 + 160 * 2 ** 20)
  })
})

describe('padding', () => {
  it.each(Object.entries(measurePadding()))('on %s is under 7 %% of what is computed', (_, one) => {
    expect(one.efficiency).toBeGreaterThanOrEqual(0.93)
    expect(one.unbucketed).toBeLessThan(one.efficiency)
  })
})

describe('ratios of times', () => {
  it('have the median’s interval from order statistics', () => {
    const shuffled = [7, 2, 11, 4, 9, 1, 6, 3, 10, 5, 8]
    expect(ratioOf(shuffled)).toEqual({ median: 6, low: 2, high: 10, pairs: 11 })
    expect(ratioOf([1, 2, 3, 4, 5, 6])).toEqual({ median: 3.5, low: 1, high: 6, pairs: 6 })
    expect(() => ratioOf([1, 2, 3])).toThrow('An interval of 95 % needs 6 pairs or more, not 3.')
  })
})

describe('the audit of operations', () => {
  it('agrees with the published arithmetic of RoBERTa-base', () => {
    const step = (name: 'seq_bn' | 'lora' | 'full') => {
      const { forward, backward } = need(fullSize, configOf(name), 2)
      return Math.round((forward + backward) / 1e9)
    }
    expect([step('seq_bn'), step('lora'), step('full')]).toEqual([1419, 1451, 2155])
  })

  it('counts a product by its sizes and names a kernel that it does not know', () => {
    const log = [
      {
        kernel: 'MatMulPackedProgram',
        uniforms: {},
        inputs: [[1, 4, 8]],
        output: [1, 4, 16],
        transposeA: false,
      },
      { kernel: 'somethingNew', uniforms: {}, inputs: [], output: [], transposeA: false },
    ]
    expect(audit(log)).toEqual({ dispatches: 2, flops: 2 * 4 * 8 * 16, unknown: ['somethingNew'] })
  })
})
