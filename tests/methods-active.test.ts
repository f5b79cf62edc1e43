/** What keeps a run from starting: setups that would not do what they say. */
import { describe, expect, test } from 'vitest'
import { classificationHead, type AdapterSetup, type ModelSetup } from '../src/config.ts'
import { dynamicFusion } from '../src/methods/fusion.ts'
import { activeProblems, parsePreset, setupProblems } from '../src/methods/registry.ts'

const head = classificationHead(2)

/** Adapters a, b and c of some presets, `a` trained with its head unless said otherwise. */
function setup(
  active: AdapterSetup | null,
  presets: string[],
  changes: Partial<ModelSetup> = {},
): ModelSetup {
  const names = ['a', 'b', 'c'].slice(0, presets.length)
  return {
    adapters: Object.fromEntries(names.map((name, i) => [name, parsePreset(presets[i]!)])),
    fusions: {},
    heads: { a: head },
    active,
    active_heads: ['a'],
    train: { adapters: ['a'], fusions: [], heads: ['a'], base: 'none' },
    skip_layers: [],
    ...changes,
  }
}

const stack = (...children: AdapterSetup[]): AdapterSetup => ({ type: 'Stack', children })
const fuse = (...children: AdapterSetup[]): AdapterSetup => ({ type: 'Fuse', children })
const parallel = (...children: AdapterSetup[]): AdapterSetup => ({ type: 'Parallel', children })
const average = (...children: AdapterSetup[]): AdapterSetup => ({
  type: 'Average',
  children,
  weights: null,
  normalize_weights: true,
})

describe('a setup that can run', () => {
  test.each<[string, ModelSetup]>([
    ['one adapter', setup('a', ['seq_bn'])],
    ['a stack', setup(stack('b', 'a'), ['lora', 'seq_bn'])],
    ['a fusion', setup(fuse('a', 'b'), ['seq_bn', 'seq_bn'], { fusions: { 'a,b': dynamicFusion } })],
    [
      'parallel bottlenecks at different places',
      setup(stack('a', 'b'), ['par_bn', 'par_bn[mh_adapter=True,output_adapter=False]']),
    ],
    ['the last of two parallel bottlenecks', setup(stack('b', 'a'), ['par_bn', 'par_bn'])],
    ['a prompt below a bottleneck', setup(stack('a', 'b'), ['prompt_tuning', 'seq_bn'])],
    ['a prompt that has a bottleneck too', setup(stack('b', 'a'), ['prompt_tuning|seq_bn', 'seq_bn'])],
    ['an average of LoRA', setup(average('a', 'b'), ['lora', 'lora'])],
    ['a head alone', setup(null, [], { train: { adapters: [], fusions: [], heads: ['a'], base: 'none' } })],
  ])('%s has no problem', (_, given) => {
    expect(activeProblems(given)).toEqual([])
  })
})

describe('a setup that cannot run', () => {
  const none = { adapters: [], fusions: [], heads: [], base: 'none' } as const
  test.each<[string, ModelSetup, RegExp]>([
    [
      'trained but not active',
      setup('b', ['seq_bn', 'seq_bn']),
      /“a” is to be trained, but it is not active/,
    ],
    ['trained with nothing active', setup(null, ['seq_bn']), /“a” is to be trained, but it is not active/],
    ['active but never loaded', setup(stack('a', 'x'), ['seq_bn']), /“x” is active, but it was never loaded/],
    ['trained but never loaded', setup(null, [], {}), /“a” is to be trained, but it was never loaded/],
    ['a fusion that is not there', setup(fuse('a', 'b'), ['seq_bn', 'seq_bn']), /no fusion of these/],
    [
      'a trained fusion that is not active',
      setup(stack('a', 'b'), ['seq_bn', 'seq_bn'], {
        fusions: { 'a,b': dynamicFusion },
        train: { adapters: ['a'], fusions: ['a,b'], heads: ['a'], base: 'none' },
      }),
      /fusion “a,b” is to be trained, but it is not active/,
    ],
    [
      'a fusion without a member',
      setup('a', ['seq_bn'], { fusions: { 'a,b': dynamicFusion } }),
      /“a,b” needs the adapter “b”/,
    ],
    [
      'blocks in the wrong place',
      setup(parallel(parallel('a', 'b'), 'c'), ['lora', 'lora', 'lora']),
      /Parallel cannot stand/,
    ],
    [
      'LoRA in a fusion',
      setup(fuse('a', 'b'), ['lora', 'seq_bn'], { fusions: { 'a,b': dynamicFusion } }),
      /LoRA.*Fuse/,
    ],
    [
      'prefixes in an average',
      setup(average('a', 'b'), ['prefix_tuning', 'prefix_tuning']),
      /Prefix.*Average/,
    ],
    ['a second prompt', setup(stack('b', 'a'), ['prompt_tuning', 'seq_bn']), /only the first adapter.*“b”/],
    ['a second intervention', setup(stack('b', 'a'), ['loreft', 'loreft']), /ReFT only the first/],
    ['a parallel bottleneck below another', setup(stack('a', 'b'), ['par_bn', 'par_bn']), /only the last/],
    ['no head', setup('a', ['seq_bn'], { active_heads: [] }), /No head is active/],
    ['an unknown head', setup('a', ['seq_bn'], { active_heads: ['z'] }), /head “z” is active, but/],
    [
      'a trained head that is not active',
      setup('a', ['seq_bn'], {
        heads: { a: head, b: head },
        train: { ...none, heads: ['a', 'b'], adapters: ['a'], fusions: [] },
      }),
      /head “b” is to be trained, but it is not active/,
    ],
    [
      'nothing to train',
      setup('a', ['seq_bn'], { train: { ...none, adapters: [], fusions: [], heads: [] } }),
      /Nothing is set to train/,
    ],
  ])('%s is told in a sentence', (_, given, message) => {
    const problems = activeProblems(given)
    expect(problems.join('\n')).toMatch(message)
    expect(new Set(problems).size).toBe(problems.length)
  })

  test('the adapters’ own problems come with their names', () => {
    const given = setup('a', ['seq_bn'])
    given.adapters['a'] = { ...parsePreset('lora'), r: 0 } as ModelSetup['adapters'][string]
    expect(setupProblems(given, null).join('\n')).toMatch(/^Adapter “a”: .*r is 0/)
  })
})
