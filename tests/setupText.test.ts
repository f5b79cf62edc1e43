/** Compositions in Python's notation: what is written reads back, and what the library refuses is refused. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { AdapterSetup } from '../src/config.ts'
import { formatSetup, nestingProblems, parseSetup } from '../src/methods/setupText.ts'

const name = fc.stringMatching(/^[\p{L}\d _-]{1,8}$/u)
const numbers = fc.array(fc.integer({ min: 1, max: 99 }), { maxLength: 3 })
const setups = fc.letrec<{ setup: AdapterSetup }>((tie) => {
  const children = fc.array(tie('setup'), { minLength: 1, maxLength: 3 })
  return {
    setup: fc.oneof(
      { maxDepth: 3 },
      name,
      fc.record({ type: fc.constantFrom('Stack' as const, 'Fuse' as const, 'Parallel' as const), children }),
      fc.record({ type: fc.constant('Split' as const), children, splits: numbers }),
      fc.record({ type: fc.constant('BatchSplit' as const), children, batch_sizes: numbers }),
      fc.record({
        type: fc.constant('Average' as const),
        children,
        weights: fc.option(fc.array(fc.constantFrom(0.25, 1, 2), { maxLength: 3 })),
        normalize_weights: fc.boolean(),
      }),
    ),
  }
}).setup

describe('a setup in words', () => {
  it('reads back as it was written', () => {
    fc.assert(fc.property(setups, (setup) => void expect(parseSetup(formatSetup(setup))).toEqual(setup)))
  })

  it('takes what the library’s documentation writes', () => {
    expect(parseSetup('ac.Stack("en", ac.Fuse("a", \'b\'))')).toEqual({
      type: 'Stack',
      children: ['en', { type: 'Fuse', children: ['a', 'b'] }],
    })
    expect(parseSetup(' Split(a, b, splits=64) ')).toEqual({
      type: 'Split',
      children: ['a', 'b'],
      splits: [64, 64],
    })
    expect(parseSetup('Average(a, b, weights=[0.3, 0.7], normalize_weights=False)')).toMatchObject({
      weights: [0.3, 0.7],
      normalize_weights: false,
    })
    expect(parseSetup('  ')).toBeNull()
    expect(parseSetup('a')).toBe('a')
  })

  it.each([
    ['Stack(a b)', 'a comma'],
    ['Stack(a', 'its end'],
    ['Stack(a) b', '“b”'],
    ['Blend(a, b)', '“Blend” is no composition block'],
    ['Split(a, b)', 'Split needs splits'],
    ['Stack(a, splits=[1])', 'Stack has no “splits”'],
    ['Split(a, b, splits=[x])', 'it takes numbers'],
    ['Stack(a, )b', '“b”'],
  ])('refuses %s', (text, words) => {
    expect(() => parseSetup(text)).toThrow(words)
  })
})

describe('what may stand in what', () => {
  it.each([
    'Stack(a, Fuse(b, c))',
    'Fuse(Stack(a, b), c)',
    'Split(Split(a, b, splits=8), c, splits=8)',
    'Parallel(Stack(a, b), c)',
    'BatchSplit(a, Split(b, c, splits=4), batch_sizes=[1, 2])',
    'Average(Stack(a, b), c)',
    'Stack(Parallel(Stack(a, b), c))',
  ])('takes %s', (text) => expect(nestingProblems(parseSetup(text))).toEqual([]))

  it.each([
    ['Fuse(Fuse(a, b), c)', 'Fuse cannot stand inside Fuse'],
    ['Stack(Stack(a, b), c)', 'Stack cannot stand inside Stack'],
    ['Average(Parallel(a, b), c)', 'Parallel cannot stand inside Average'],
    ['Stack(Split(Split(a, b, splits=4), c, splits=8))', 'too deep'],
    ['Fuse(a)', 'at least 2'],
    ['Split(a, b, splits=[1, 2, 3])', '2 parts but 3 splits'],
    ['BatchSplit(a, b, batch_sizes=[0, 2])', 'whole numbers'],
    ['Average(a, b, weights=[1])', '2 parts but 1 weights'],
  ])('refuses %s', (text, words) => expect(nestingProblems(parseSetup(text)).join(' ')).toContain(words))
})
