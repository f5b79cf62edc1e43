/** Runs whose data ask for something else than one class a text: what they learn, report, keep and answer. */
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { assemble, assembledOf, leftOut, noMembers, passedBy, renamed, type Own } from '../src/assembly.ts'
import { openBase, type Base } from '../src/base.ts'
import type { AdapterConfig } from '../src/config.ts'
import { buildDataset, type Dataset, type Mapping } from '../src/data/dataset.ts'
import { parseSources } from '../src/data/parse.ts'
import { openModelDir, openNodeBackend } from '../src/headless/node.ts'
import { seqBn, seqBnInv } from '../src/methods/bottleneck.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { promptTuningConfig } from '../src/methods/promptTuning.ts'
import { createModel, disposeModel } from '../src/model/model.ts'
import { disposeRoberta } from '../src/model/roberta.ts'
import { Opened } from '../src/opened.ts'
import { alone, predictTexts, textLogits } from '../src/predict.ts'
import { run, type Outcome } from '../src/run.ts'
import { givenHead, headFor, plainTask, type TaskOptions } from '../src/task.ts'
import type { TrainEvent } from '../src/train/train.ts'
import { trainingDefaults } from '../src/trainingArguments.ts'

const split = { validation: 0.2, test: 0.2, fraction: 1, sampling: 'stratified' as const, seed: 1 }
const args = {
  ...trainingDefaults,
  learning_rate: 3e-3,
  num_train_epochs: 8,
  per_device_train_batch_size: 8,
  logging_steps: 2,
  max_length: 24,
}
let base: Base

beforeAll(async () => {
  await openNodeBackend('wasm')
  base = await openBase(await openModelDir('public/models/mini-roberta'))
})
afterAll(() => disposeRoberta(base.roberta))

/** Reviews that are long or short, kind or harsh. */
function csv(): string {
  const rows = Array.from({ length: 40 }, (_, i) => {
    const kind = i % 2 === 0
    const more = i % 4 < 2
    const text = `${kind ? 'A great and lovely' : 'A terrible and boring'} film number ${i}${more ? ', and far too long' : ''}`
    return `"${text}",${Number(kind)},"${[kind ? 'kind' : 'harsh', ...(more ? ['long'] : [])].join('|')}",${kind ? 4.5 : 1.5}`
  })
  return ['text,label,tags,stars', ...rows].join('\n')
}

async function data(mapping: Partial<Mapping>): Promise<Dataset> {
  const tables = await parseSources([{ name: 'reviews.csv', blob: new Blob([csv()]) }])
  const whole = { text: 'text', text_pair: null, label: 'label', threshold: null, ...mapping }
  return buildDataset(tables, ['all'], whole, split)
}

async function trained(
  dataset: Dataset,
  adapter: AdapterConfig,
  task: TaskOptions = plainTask,
): Promise<{ events: TrainEvent[]; outcome: Outcome }> {
  const own: Own = { name: 't', adapter, head: headFor(base.config, dataset, undefined, task) }
  const assembled = assemble(own, noMembers, new Map())
  const given = await givenHead(base, own.head, own.name, task)
  const job = {
    base,
    dataset,
    own,
    assembled: { ...assembled, given },
    args,
    task,
    adapter_drop: null,
    resume: null,
  }
  const program = run(job)
  const events: TrainEvent[] = []
  for (;;) {
    const { value, done } = await program.next()
    if (done) return { events, outcome: value }
    events.push(value)
  }
}

const losses = (events: TrainEvent[]) =>
  events.flatMap((event) => (event.type === 'step' ? [event.loss] : []))

async function answers(
  outcome: Outcome,
  texts: string[],
  prompt: Parameters<typeof Opened.trained>[4] = null,
) {
  const opened = Opened.trained(base, 'run', outcome.model, outcome.kept, prompt)
  const found = await predictTexts(opened, base.tokenizer, texts.map(alone))
  opened.dispose()
  return found
}

it('learns several labels a text, each with a share of its own', async () => {
  const { events, outcome } = await trained(
    await data({ label: 'tags', task: 'multilabel', separator: '|' }),
    { ...seqBn, reduction_factor: 4 },
  )
  expect(losses(events).at(-1)!).toBeLessThan(losses(events)[0]! * 0.7)
  expect(outcome.test!.f1_micro).toBeGreaterThan(0.75)
  expect(outcome.test!.per_class).toHaveLength(3)
  expect(outcome.judged).toEqual([])
  const [kind] = await answers(outcome, ['A great and lovely film, and far too long'])
  const share = Object.fromEntries(kind!.map(({ label, score }) => [label, score]))
  expect(share.kind! + share.long!).toBeGreaterThan(1.1)
  expect(share.harsh!).toBeLessThan(0.3)
})

it('learns a number, judged by its squared error and correlation', async () => {
  const { events, outcome } = await trained(await data({ label: 'stars', task: 'regression' }), {
    ...seqBn,
    reduction_factor: 4,
  })
  expect(losses(events).at(-1)!).toBeLessThan(losses(events)[0]! * 0.5)
  expect(outcome.test!.pearson!).toBeGreaterThan(0.8)
  expect(outcome.test!.loss).toBeLessThan(1.5)
  const [good, bad] = await answers(outcome, ['A great and lovely film', 'A terrible and boring film'])
  expect(good![0]!.score - bad![0]!.score).toBeGreaterThan(1)
})

it('goes on with masked-LM pretraining, in blocks, through an invertible adapter', async () => {
  const before = tf.memory().numTensors
  const { events, outcome } = await trained(await data({ task: 'masked_lm' }), seqBnInv)
  const seen = events.flatMap((event) => (event.type === 'evaluation' ? [event.metrics] : []))
  expect(seen.at(-1)!.perplexity!).toBeCloseTo(Math.exp(seen.at(-1)!.loss), 5)
  expect(seen.at(-1)!.loss).toBeLessThan(seen[0]!.loss)
  expect('adapter' in outcome.kept && outcome.kept.id2label).toEqual([])
  await expect(answers(outcome, ['A film'])).rejects.toThrow('guess hidden words')
  tf.dispose([...outcome.model.current.views.values()])
  tf.dispose([...outcome.model.frozen.values()].map(({ tensor }) => tensor))
  expect(tf.memory().numTensors).toBe(before)
})

it('trains two heads on one backbone together, each on its own rows', async () => {
  const dataset = await data({})
  const tags = await data({ label: 'stars', threshold: 3 })
  const own: Own = {
    name: 't',
    adapter: loraConfig,
    head: headFor(base.config, dataset, undefined, plainTask),
  }
  const assembled = assemble(own, noMembers, new Map())
  const { setup, id2label } = assembled
  setup.heads.stars = headFor(base.config, tags, undefined, plainTask)
  setup.train.heads.push('stars')
  setup.active_heads.push('stars')
  id2label.stars = tags.id2label
  const beside = [{ head: 'stars', dataset: tags }]
  const job = {
    base,
    dataset,
    beside,
    own,
    assembled,
    // The best weights are the first task's; the last are both tasks'.
    args: { ...args, load_best_model_at_end: false },
    task: plainTask,
    adapter_drop: null,
    resume: null,
  }
  const program = run(job)
  for (;;) {
    const { value, done } = await program.next()
    if (!done) continue
    const found = await answers(value, ['A great and lovely film', 'A terrible and boring film'])
    expect(found.map(([best]) => best!.label)).toEqual(['1', '0', 'positive', 'negative'])
    expect(Object.keys('heads' in value.kept ? value.kept.heads : {})).toEqual(['t', 'stars'])
    return
  }
})

it('renames an adapter in its keys alone, whatever parts of the model bear the name too', () => {
  const layer = 'roberta.encoder.layer.0'
  expect(renamed(`${layer}.output.adapters.output.adapter_up.bias`, 'output', 'b')).toBe(
    `${layer}.output.adapters.b.adapter_up.bias`,
  )
  expect(renamed(`${layer}.attention.self.query.loras.0.lora_A`, '0', '1')).toBe(
    `${layer}.attention.self.query.loras.1.lora_A`,
  )
  expect(renamed('roberta.invertible_adapters.F.F.0.weight', 'F', 'x')).toBe(
    'roberta.invertible_adapters.x.F.0.weight',
  )
  expect(renamed('heads.1.1.weight', '1', '4')).toBe('heads.4.1.weight')
})

it('exports a run with AdapterDrop without the layers that it passed by', async () => {
  const dataset = await data({})
  const own: Own = { name: 't', adapter: seqBn, head: headFor(base.config, dataset, undefined, plainTask) }
  const assembled = assemble(own, noMembers, new Map())
  const adapter_drop = { mode: 'fixed' as const, layers: 2 }
  const few = { ...args, num_train_epochs: 1 }
  const program = run({
    base,
    dataset,
    own,
    assembled,
    args: few,
    task: plainTask,
    adapter_drop,
    resume: null,
  })
  let step = await program.next()
  while (!step.done) step = await program.next()
  const { model, kept } = step.value
  if (!('adapter' in kept)) throw new Error('One adapter alone is kept alone.')
  const opened = Opened.trained(base, 'run', model, kept, null)
  const texts = ['A great and lovely film', 'A terrible and boring film']
  const ours = await textLogits(opened, base.tokenizer, texts)
  opened.dispose()
  const file = leftOut(kept, passedBy({ adapter_drop }), base.config.num_hidden_layers)
  expect(file.adapter).toMatchObject({ leave_out: [0, 1] })
  expect([...file.tensors.keys()].some((key) => key.includes('.layer.1.'))).toBe(false)
  const logits = async (bundle: typeof kept) => {
    const { setup, given } = assembledOf(bundle)
    const loaded = createModel(base.roberta, setup, given)
    const classifier = { model: loaded, heads: opened.heads, max_length: 24, label_words: null }
    const found = await textLogits(classifier, base.tokenizer, texts)
    disposeModel(loaded)
    return found.map((row) => [...row])
  }
  expect(await logits(file)).toEqual(ours.map((row) => [...row]))
  // With the fresh adapters of the layers that never trained it is another model.
  expect(await logits(kept)).not.toEqual(ours.map((row) => [...row]))
})

it('answers with label words, without a classification head', async () => {
  const label_words = { template: '{text} It was<mask>.', words: ['terrible', 'great'] }
  const dataset = await data({})
  const { outcome } = await trained(
    dataset,
    {
      architecture: 'union',
      configs: [
        {
          ...promptTuningConfig,
          prompt_init: 'from_string',
          prompt_init_text: 'The sentiment of the review',
        },
        loraConfig,
      ],
    },
    { masked_lm: null, label_words },
  )
  expect(outcome.test!.accuracy).toBeGreaterThan(0.8)
  const prompt = { label_words, id2label: dataset.id2label }
  const [good, bad] = await answers(
    outcome,
    ['A great and lovely film', 'A terrible and boring film'],
    prompt,
  )
  expect([good![0]!.label, bad![0]!.label]).toEqual(['1', '0'])
})
