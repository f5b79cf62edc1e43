/**
 * Counts on the fake device must not get worse: a small model, every call that the large one makes. `npm run bench --
 * --baseline` writes the file that this test compares with, after a change that is meant to alter it.
 */
import { readFileSync } from 'node:fs'
import { beforeAll, describe, expect, it } from 'vitest'
import { seqBn } from '../src/methods/bottleneck.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { measureBaseline, smallSize, type Baseline } from './bench/baseline.ts'
import { measureGrowth, measureTape, type Cost } from './bench/measure.ts'

const baseline = JSON.parse(readFileSync('tests/bench/baseline.json', 'utf8')) as Baseline

describe('counts on a device that executes nothing', () => {
  let now: Baseline
  beforeAll(async () => {
    now = await measureBaseline()
  })

  const works = Object.keys(baseline)
  it('measures what the baseline holds', () => {
    expect(Object.keys(now)).toEqual(works)
    expect(works).toContain('seq_bn step')
    expect(works).toContain('lora step, dropout')
  })

  it.each(works)('%s is no worse than the baseline', (work) => {
    const worse = (Object.keys(baseline[work]!) as (keyof Cost)[])
      .filter((count) => now[work]![count] > baseline[work]![count])
      .map((count) => `${count} ${now[work]![count]} > ${baseline[work]![count]}`)
    expect(worse).toEqual([])
  })

  it.each(works)('%s leaves no tensor but its result, and uploads nothing but its batch', (work) => {
    const { B, S } = smallSize
    expect(now[work]!.tensors).toBe(0)
    // Ids, positions and mask of B·S int32 each, labels of B, and a few scalars.
    expect(now[work]!.uploadBytes).toBeLessThan(4 * (3 * B * S + B) + 64)
  })

  it.each([
    ['seq_bn', seqBn],
    ['lora', loraConfig],
  ] as const)('%s takes a fraction of the calls of a plain tape', async (name, adapter) => {
    const tape = await measureTape(smallSize, adapter)
    const engine = now[`${name} step`]!
    expect(engine.dispatches).toBeLessThan(tape.step.dispatches / 2)
    expect(engine.peakBytes).toBeLessThan(tape.step.peakBytes)
  })

  it.each([
    ['seq_bn', seqBn],
    ['lora', loraConfig],
  ] as const)('memory of a %s run is flat, whatever the lengths', async (_, adapter) => {
    const growth = await measureGrowth(smallSize, adapter, 80, [10, 20, 40, 60])
    expect(Object.keys(growth.lengths).length).toBe(4)
    expect(growth.end.tensors).toBe(growth.half.tensors)
    expect(growth.end.pipelines).toBe(growth.half.pipelines)
    expect(growth.end.peakBytes).toBeLessThanOrEqual(growth.half.peakBytes * 1.001)
    const longest = await measureGrowth(smallSize, adapter, 20, [60])
    expect(growth.end.peakBytes).toBeLessThan(longest.end.peakBytes * 1.15)
  })
})
