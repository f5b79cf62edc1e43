/**
 * What the page makes of the registry and of kept adapters: forms, drawings, compositions, and the runs it refuses. The
 * same session as in session.test.ts, with a worker that only writes down what it is told.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import type { AdapterConfig, RobertaConfig } from '../src/config.ts'
import { formatConfig, parseConfig } from '../src/methods/configText.ts'
import { childConfigs, configProblems, countParameters, methodOf, presets } from '../src/methods/registry.ts'
import type { Command, RunEvent } from '../src/protocol.ts'
import { Draft, ownName } from '../src/ui/draft.svelte.ts'
import { partsOf } from '../src/ui/layerParts.ts'
import type { RunRecord } from '../src/ui/library.svelte.ts'
import { factorIn, layersIn, otherProblems, problemAt, shown, typed, valuesOf } from '../src/ui/methodForm.ts'
import { isComparison, Plan } from '../src/ui/plan.svelte.ts'
import { planProblems, useProblems } from '../src/ui/planned.ts'
import { firstChoices, groups, methodLabel } from '../src/ui/presets.ts'
import { Session } from '../src/ui/session.svelte.ts'

const base: RobertaConfig = {
  model_type: 'roberta',
  vocab_size: 50265,
  hidden_size: 768,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  intermediate_size: 3072,
  hidden_act: 'gelu',
  hidden_dropout_prob: 0.1,
  attention_probs_dropout_prob: 0.1,
  classifier_dropout: null,
  max_position_embeddings: 514,
  type_vocab_size: 1,
  layer_norm_eps: 1e-5,
  initializer_range: 0.02,
  pad_token_id: 1,
  bos_token_id: 0,
  eos_token_id: 2,
}
const preset = (name: string): AdapterConfig =>
  structuredClone(presets.find((one) => one.name === name)!.config)
const kept = (name: string, adapter: AdapterConfig): RunRecord => ({
  id: `id of ${name}`,
  name,
  created: 0,
  status: 'finished',
  adapter,
  args: null,
  base: null,
  id2label: ['no', 'yes'],
  device: '',
  self_test: 'passed',
  history: { step: [], evaluation: [] },
  test: null,
  best_step: 0,
  data: null,
  size: 9,
})

describe('methods on the page', () => {
  it('offers every preset of the registry once, and the simple ones first', () => {
    expect(
      groups
        .flatMap((group) => group.presets)
        .map(({ name }) => name)
        .sort(),
    ).toEqual(presets.map(({ name }) => name).sort())
    expect(firstChoices.map(({ name }) => name)).toEqual(['seq_bn', 'lora', 'head'])
  })

  it.each(presets.map(({ name }) => name))(
    '%s: the library’s text reads back as the same configuration',
    (name) => {
      const config = preset(name)
      const text = formatConfig(config)
      if (isComparison(config)) return expect(text).toBeNull()
      expect(parseConfig(text!)).toEqual(config)
    },
  )

  it('writes only what differs, with Python’s words, and mixtures with a bar', () => {
    expect(formatConfig({ ...preset('lora'), r: 4, use_gating: true } as AdapterConfig)).toBe(
      'lora[r=4,use_gating=True]',
    )
    expect(formatConfig({ ...preset('par_bn'), scaling: 2 } as AdapterConfig)).toBe('par_bn[scaling=2.0]')
    const text = 'prefix_tuning[flat=True]|par_bn[reduction_factor={"0": 4, "default": 8}]'
    const config = parseConfig(text)
    expect(childConfigs(config)).toMatchObject([{ flat: true }, { reduction_factor: { 0: 4, default: 8 } }])
    expect(parseConfig(formatConfig(config)!)).toEqual(config)
    expect(() => parseConfig('lora[rank=4]')).toThrow('no field “rank”')
    expect(() => parseConfig('lora[r=four]')).toThrow('cannot be read at “four”')
  })

  it.each(presets.map(({ name }) => name))(
    '%s: what the form shows of each field, typed in again, is the same',
    (name) => {
      for (const child of childConfigs(preset(name))) {
        const values = valuesOf(child)
        const defaults = valuesOf(methodOf(child).defaults)
        for (const field of methodOf(child).fields) {
          expect(values.has(field.key), field.key).toBe(true)
          if (field.kind === 'switch' || field.choices) continue
          const value = values.get(field.key)!
          expect(typed(field, shown(value), defaults.get(field.key)!), field.key).toEqual(value)
        }
      }
    },
  )

  it('reads layers and factors as they are typed, and puts a problem beside its field', () => {
    expect(layersIn('3, 1;1 x -2')).toEqual([1, 3])
    expect(factorIn('0: 8, default: 16')).toEqual({ 0: 8, default: 16 })
    expect(factorIn('')).toBeNaN()
    const problems = configProblems({ ...preset('lora'), r: 0, dropout: 2 } as AdapterConfig, base)
    expect(problemAt(problems, 'r')).toMatch(/^r is 0/)
    expect(problemAt(problems, 'alpha')).toBeNull()
    expect(otherProblems(problems, ['r', 'dropout'])).toEqual([])
  })
})

describe('the drawing of a layer', () => {
  it.each(presets.filter(({ config }) => !isComparison(config)).map(({ name }) => name))(
    '%s: what it shows adds up to the adapter',
    (name) => {
      const config = preset(name)
      const { trained, shared, without } = partsOf(base, config)
      expect(without).toBe(0)
      expect(trained * 12 + shared).toBe(countParameters(base, config))
    },
  )

  it('shows what each method stands beside, after or before', () => {
    const names = (config: AdapterConfig) =>
      partsOf(base, config).rows.flatMap((row) => row.parts.map(({ name }) => name))
    expect(names(preset('double_seq_bn')).filter((name) => name.startsWith('adapter 768 → 48'))).toHaveLength(
      2,
    )
    expect(partsOf(base, preset('par_bn')).lanes).toMatchObject([{ name: '768 → 384 → 768', from: 3, to: 4 }])
    expect(partsOf(base, preset('mam')).lanes).toHaveLength(2)
    expect(partsOf(base, preset('prompt_tuning')).below.map(({ name }) => name)).toEqual([
      'prompt of 10',
      'the text',
    ])
    expect(names(preset('loreft')).at(-1)).toBe('change to a few tokens')
    expect(partsOf(base, preset('ia3')).rows[0]!.parts.map(({ beside }) => beside)).toEqual([0, 768, 768])
    expect(partsOf(base, { ...preset('seq_bn'), leave_out: [0, 1] } as AdapterConfig).without).toBe(2)
  })

  it('counts the whole layer as trained in full fine-tuning, and its biases in BitFit', () => {
    const layer = 7_087_872
    expect(partsOf(base, preset('full'))).toMatchObject({ trained: layer, frozen: 0 })
    expect(partsOf(base, preset('bitfit'))).toMatchObject({ trained: 8448, frozen: layer - 8448 })
    expect(partsOf(base, preset('head'))).toMatchObject({ trained: 0, frozen: layer })
  })
})

describe('a composition', () => {
  let plan: Plan
  beforeEach(async () => {
    plan = new Plan()
    await plan.load()
  })
  const add = (draft: Draft, ...names: string[]) => {
    for (const name of names) draft.add(kept(name, preset('seq_bn')), true)
  }

  it('says nothing while the run’s own adapter is alone', () => {
    expect(plan.made('x')).not.toHaveProperty('assembly')
    expect(planProblems(plan, base)).toEqual([])
  })

  it('puts the run’s own adapter last, under the run’s name', () => {
    add(plan.draft, 'First one', 'other')
    expect(plan.draft.text).toBe(`Stack("First-one", "other", "${ownName}")`)
    expect(plan.made('mine').assembly).toMatchObject({
      active: { type: 'Stack', children: ['First-one', 'other', 'mine'] },
      members: [
        { name: 'First-one', runId: 'id of First one', with_head: true, train: false, train_head: false },
        {},
      ],
    })
    expect(planProblems(plan, base)).toEqual([])
  })

  it('fuses kept adapters with the head alone, and asks for the fusion by its members', () => {
    plan.choose(preset('head'))
    add(plan.draft, 'a', 'b')
    plan.draft.way = 'Fuse'
    expect(plan.made('x').assembly).toMatchObject({
      active: { type: 'Fuse', children: ['a', 'b'] },
      fusions: { 'a,b': { value: true } },
    })
    expect(planProblems(plan, base)).toEqual([])
  })

  it('refuses an adapter that is trained but not active, and one that is active but was never loaded', () => {
    add(plan.draft, 'a')
    plan.draft.write(`"${ownName}"`)
    plan.draft.members[0]!.train = true
    expect(planProblems(plan, base).join(' ')).toMatch(/“a” is to be trained, but it is not active/)
    plan.draft.members[0]!.train = false
    plan.draft.write('Stack(a, b, new)')
    expect(planProblems(plan, base).join(' ')).toMatch(/“b” is active, but it was never loaded/)
    plan.draft.write('Stack(a, new')
    expect(planProblems(plan, base)[0]).toMatch(/cannot be read/)
  })

  it('gives two adapters of one name two names, and keeps their order', () => {
    add(plan.draft, 'a', 'a', 'new')
    expect(plan.draft.members.map(({ name }) => name)).toEqual(['a', 'a-2', 'new-2'])
    plan.draft.move('new-2', -1)
    plan.draft.remove('a')
    expect(plan.draft.members.map(({ name }) => name)).toEqual(['new-2', 'a-2'])
  })

  it('is refused for use without a head, with a fusion nobody trained, and beyond the layers', () => {
    const draft = new Draft()
    add(draft, 'a', 'b')
    expect(useProblems(draft, base)).toEqual([])
    draft.way = 'Fuse'
    expect(useProblems(draft, base).join(' ')).toMatch(/fusion has to be trained/)
    draft.way = 'Stack'
    draft.skip_layers = [12]
    expect(useProblems(draft, base).join(' ')).toMatch(/from 0 to 11/)
    draft.skip_layers = []
    for (const member of draft.members) member.with_head = false
    expect(useProblems(draft, base).join(' ')).toMatch(/Nothing can answer/)
  })

  it('refuses AdapterDrop of every layer and a head without layers', () => {
    plan.adapterDrop = { mode: 'fixed', layers: 12 }
    expect(planProblems(plan, base).join(' ')).toMatch(/from 0 to 11/)
    plan.adapterDrop = { mode: 'random', layers: 11 }
    plan.head.layers = 0
    expect(planProblems(plan, base)).toEqual([expect.stringMatching(/head has 0 layers/)])
  })

  it('labels a mixture by its parts', () => {
    expect(methodLabel({ architecture: 'union', configs: [preset('lora'), preset('prompt_tuning')] })).toBe(
      'lora + prompt_tuning',
    )
  })
})

describe('the session', () => {
  let sent: Command[]
  let session: Session
  let answer: (event: RunEvent) => void
  beforeEach(() => {
    sent = []
    session = new Session({
      connect: (receive) => {
        answer = receive
        return { send: (command) => sent.push(structuredClone(command)), close: () => {} }
      },
      wasmUrl: '',
      save: () => {},
      schedule: (draw) => draw(),
      onKept: () => {},
    })
  })

  it('puts several adapters to use and pairs each head with its answer', async () => {
    session.use.draft.add(kept('a', preset('lora')), true)
    session.use.draft.add(kept('b', preset('lora')), true)
    session.use.draft.way = 'Parallel'
    const asked = session.use.assemble()
    const [command] = sent
    if (command?.type !== 'assemble') throw new Error('no assemble command was sent')
    const heads = ['a', 'b'].map((name) => ({ name, id2label: ['no', 'yes'] }))
    answer({ type: 'assembled', assembly: command.assembly, heads, merged: [], rows: [] })
    expect(await asked).toBe(true)
    expect(session.use.active).toEqual({ runId: null, name: 'a, b', id2label: ['no', 'yes'] })
    void session.use.predict('good')
    const predictions = [[{ label: 'yes', score: 0.9 }], [{ label: 'no', score: 0.6 }]]
    answer({ type: 'prediction', id: 1, predictions, heads: ['a', 'b'] })
    expect(session.use.answers.map(({ text, head }) => [text, head])).toEqual([
      ['good', 'a'],
      ['good', 'b'],
    ])
    void session.use.merge('a', true)
    void session.use.exportAssembly('both')
    expect(sent.slice(-2)).toMatchObject([
      { type: 'mergeAdapter', name: 'a' },
      { type: 'exportAssembly', name: 'both' },
    ])
  })

  it('keeps the newest word on each adapter’s place in the path', () => {
    answerStarted()
    const check = { type: 'inPath', runId: 'r', name: 'x', grad_norm: 0.5, logits_change: null } as const
    session.apply(check)
    session.apply({ ...check, logits_change: 0.2 })
    session.apply({ ...check, name: 'y' })
    session.apply({ ...check, runId: 'another' })
    expect(session.run?.inPath).toMatchObject([{ name: 'x', logits_change: 0.2 }, { name: 'y' }])
  })

  function answerStarted(): void {
    session.apply({
      type: 'started',
      runId: 'r',
      name: 'x',
      total_steps: 2,
      step: 0,
      id2label: ['no', 'yes'],
      rows: [],
    })
  }
})
