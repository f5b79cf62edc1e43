/**
 * The page's session against scripted events: what it sends, in which order, and what it makes of the answers. No
 * worker and no page is needed; the real pair is driven in tests/e2e.
 */
import { beforeEach, describe, expect, it } from 'vitest'
import { trainingDefaults } from '../src/trainingArguments.ts'
import type { Command, DatasetSummary, DeviceReport, Metrics, RunEvent } from '../src/protocol.ts'
import { problemsIn, trainingFields } from '../src/ui/fields.ts'
import { changeInWords } from '../src/ui/memory.svelte.ts'
import { Session } from '../src/ui/session.svelte.ts'

const report: DeviceReport = {
  backend: 'webgpu',
  vendor: 'v',
  architecture: 'a',
  description: 'd',
  is_fallback: false,
  features: [],
  limits: {
    maxBufferSize: 1,
    maxStorageBufferBindingSize: 1,
    maxStorageBuffersPerShaderStage: 8,
    maxComputeWorkgroupStorageSize: 16_384,
    maxComputeInvocationsPerWorkgroup: 256,
  },
  slow: false,
}
const base = { name: 'mini-roberta', sha256: 'f', hidden_size: 8, num_hidden_layers: 1, vocab_size: 9 }
const config = {
  model_type: 'roberta',
  vocab_size: 9,
  hidden_size: 8,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  intermediate_size: 16,
  hidden_act: 'gelu',
  hidden_dropout_prob: 0.1,
  attention_probs_dropout_prob: 0.1,
  classifier_dropout: null,
  max_position_embeddings: 258,
  type_vocab_size: 1,
  layer_norm_eps: 1e-5,
  initializer_range: 0.02,
  pad_token_id: 1,
  bos_token_id: 0,
  eos_token_id: 2,
}
const summary: DatasetSummary = {
  id2label: ['no', 'yes'],
  splits: [{ split: 'train', rows: 2, per_class: [1, 1] }],
  empty: { count: 0, lines: [] },
  duplicates: { count: 0, examples: [] },
  conflicting: { count: 0, examples: [] },
  leakage: { count: 0, examples: [] },
  near_labels: [],
  lengths: { edges: [0, 8], counts: [2], max_length: 128, truncated_share: 0, median: 4, p95: 6 },
  problems: [],
}
const metrics: Metrics = {
  rows: 2,
  loss: 0.4,
  accuracy: 0.5,
  f1_macro: 0.45,
  f1_micro: 0.5,
  per_class: [
    { precision: 1, recall: 0, f1: 0.4, support: 1 },
    { precision: 0, recall: 1, f1: 0.5, support: 1 },
  ],
  confusion: [
    [0, 1],
    [0, 1],
  ],
}
const tables: RunEvent = {
  type: 'tables',
  tables: [
    {
      name: 'a.csv',
      columns: ['text', 'label'],
      rows: [],
      row_count: 2,
      format: 'CSV',
      encoding: 'UTF-8',
      warnings: [],
    },
  ],
  mapping: { text: 'text', text_pair: null, label: 'label', threshold: null },
  roles: ['all'],
}
const tick = (runId: string, step: number): RunEvent => ({ type: 'tick', runId, step, seconds_left: 3 })
const stepEvent = (runId: string, step: number): RunEvent => ({
  type: 'step',
  runId,
  step,
  epoch: 0.1,
  loss: 0.6,
  learning_rate: 1e-3,
  grad_norm: 1,
  samples_per_second: 10,
  tokens_per_second: 100,
  padding_efficiency: 0.95,
  gpu_bytes: 5,
  seconds_left: null,
})

let sent: Command[]
let saved: string[]
let kept: number
let closed: number
let draws: (() => void)[]
let session: Session

/** What the worker would answer to each command; a function may look at the command. */
let answers: Partial<Record<Command['type'], RunEvent[]>>

beforeEach(() => {
  sent = []
  saved = []
  kept = 0
  closed = 0
  draws = []
  answers = {
    openDevice: [
      { type: 'device', report },
      { type: 'selfTest', report: { passed: true, checks: [], ms: 1 }, notes: [] },
    ],
    openModel: [{ type: 'model', base, config, rounded: false, notes: [], bytes: 10 }],
    openData: [tables],
    mapData: [{ type: 'dataset', summary }],
    describe: [
      {
        type: 'summary',
        rows: [{ name: 'x', architecture: 'lora', params: 1, percent: 1, active: true, train: true }],
      },
    ],
  }
  session = new Session({
    connect: (receive) => ({
      send: (command) => {
        sent.push(structuredClone(command))
        const events = answers[command.type] ?? []
        queueMicrotask(() => events.forEach(receive))
      },
      close: () => (closed += 1),
    }),
    wasmUrl: 'http://localhost/wasm/',
    save: (name) => saved.push(name),
    schedule: (draw) => draws.push(draw),
    onKept: () => (kept += 1),
  })
})

const types = () => sent.map(({ type }) => type)

async function ready(): Promise<void> {
  await session.openModel({ kind: 'bundled', url: 'http://localhost/models/' })
  await session.openData({ kind: 'files', files: [] })
}

/** A run that has begun, as the worker would say it. */
async function started(): Promise<string> {
  await ready()
  const begun = session.train('first')
  const command = sent.at(-1)
  if (command?.type !== 'train') throw new Error('no train command was sent')
  const { runId } = command
  session.apply({
    type: 'started',
    runId,
    name: 'first',
    total_steps: 20,
    step: 0,
    id2label: ['no', 'yes'],
    rows: [],
  })
  expect(await begun).toBe(true)
  return runId
}

describe('Session', () => {
  it('opens the device, the model, the data and the summary in that order, each once', async () => {
    await ready()
    expect(types()).toEqual(['openDevice', 'openModel', 'describe', 'openData', 'mapData', 'describe'])
    expect(session.blocked).toBeNull()
    expect(session.pending).toEqual([])
  })

  it('keeps what the device runs the slower way for as long as there is that device', async () => {
    const notes = ['The slower way is used for attention.']
    answers.openDevice![1] = { type: 'selfTest', report: { passed: true, checks: [], ms: 1 }, notes }
    await ready()
    expect(session.deviceNotes).toEqual(notes)
    expect(session.blocked).toBeNull()
    session.apply({ type: 'error', command: null, runId: null, message: 'Lost.', fatal: true })
    expect(session.deviceNotes).toEqual([])
  })

  it('stops at the first thing that fails, says so, and says it no more once that works', async () => {
    const model = answers.openModel
    answers.openModel = [
      { type: 'error', command: 'openModel', runId: null, message: 'config.json is missing.', fatal: false },
    ]
    expect(await session.openModel({ kind: 'files', name: 'x', files: [] })).toBe(false)
    expect(types()).toEqual(['openDevice', 'openModel'])
    expect(session.alerts.map(({ message }) => message)).toEqual(['config.json is missing.'])
    expect(session.blocked).toBe('Load a model first.')
    answers.openModel = model
    expect(await session.openModel({ kind: 'files', name: 'x', files: [] })).toBe(true)
    expect(session.alerts).toEqual([])
  })

  it('loads a rounded model again in full for full fine-tuning, which does not begin before', async () => {
    const loaded = { type: 'model' as const, base, config, notes: [], bytes: 10 }
    answers.openModel = [{ ...loaded, rounded: true }]
    session.precision = 'float16'
    await ready()
    expect(session.blocked).toBeNull()
    session.plan.choose({ architecture: 'full' })
    expect(session.blocked).toMatch(/rounded to half precision; load the model again with precision float32/)
    answers.openModel = [{ ...loaded, rounded: false }]
    expect(await session.reopen('float32')).toBe(true)
    const source = { kind: 'bundled', url: 'http://localhost/models/' }
    const reopened = sent.filter(({ type }) => type === 'openModel').at(-1)
    expect(reopened).toEqual({ type: 'openModel', source, precision: 'float32' })
    expect(session.blocked).toBeNull()
  })

  it('does not train on data with an error, with a failed self-test, or with a setting out of range', async () => {
    await ready()
    const count = sent.length
    session.dataset = { ...summary, problems: [{ level: 'error', message: 'One class only.' }] }
    expect(session.blocked).toBe('One class only.')
    expect(await session.train('x')).toBe(false)
    session.dataset = summary
    session.args.learning_rate = NaN
    expect(session.blocked).toMatch(/learning_rate/)
    expect(await session.train('x')).toBe(false)
    session.args.learning_rate = 1e-3
    session.selfTest = { passed: false, checks: [], ms: 1 }
    expect(session.blocked).toMatch(/self-test/)
    expect(await session.train('x')).toBe(false)
    expect(sent.length).toBe(count)
  })

  it('draws any number of steps once per frame, and ignores steps of another run', async () => {
    const runId = await started()
    for (let step = 1; step <= 50; step++) session.apply(stepEvent(runId, step))
    session.apply(tick(runId, 50))
    session.apply(stepEvent('another', 51))
    session.apply(tick('another', 51))
    expect(draws).toHaveLength(1)
    expect(session.frame).toBe(0)
    draws[0]?.()
    expect(session.frame).toBe(1)
    expect(session.run?.history.length).toBe(50)
    expect(session.run?.latest).toMatchObject({ step: 50 })
    expect(session.run).toMatchObject({ step: 50, seconds_left: 3 })
  })

  it('sends pause, resume, step and stop only while a run is going on', async () => {
    session.control('pause')
    const runId = await started()
    session.control('pause')
    session.apply({ type: 'state', runId, state: 'paused' })
    expect(session.run?.state).toBe('paused')
    session.control('step')
    session.control('resume')
    session.control('stop')
    expect(types().slice(-4)).toEqual(['pause', 'step', 'resume', 'stop'])
    session.apply({
      type: 'done',
      runId,
      reason: 'stopped',
      note: null,
      best_step: 5,
      test: metrics,
      judged: [],
      kept: true,
    })
    const count = sent.length
    session.control('stop')
    expect(sent.length).toBe(count)
  })

  it('ends with the result, the kept step marked, and the adapter ready for use', async () => {
    const runId = await started()
    session.apply({ type: 'evaluation', runId, split: 'validation', step: 10, epoch: 1, metrics, best: true })
    expect(session.notice).toContain('0.450')
    session.apply({
      type: 'done',
      runId,
      reason: 'finished',
      note: null,
      best_step: 10,
      test: metrics,
      judged: [],
      kept: true,
    })
    expect(session.training).toBe(false)
    expect(session.run?.history.best).toBe(10)
    expect(session.run?.test?.f1_macro).toBe(0.45)
    expect(session.use.active).toEqual({ runId, name: 'first', id2label: ['no', 'yes'] })
    expect(kept).toBe(2)
  })

  it('keeps the run on the page when training breaks, and marks it as broken', async () => {
    const runId = await started()
    session.apply(stepEvent(runId, 1))
    session.apply({ type: 'error', command: 'train', runId, message: 'Out of memory.', fatal: false })
    expect(session.run).toMatchObject({ state: 'broken', note: 'Out of memory.' })
    expect(session.run?.history.length).toBe(1)
    expect(session.model).not.toBeNull()
  })

  it('gives up the worker when the GPU is lost, and starts another at the next need', async () => {
    await started()
    const waiting = session.use.exportRun('x')
    session.apply({ type: 'error', command: null, runId: null, message: 'The GPU was lost.', fatal: true })
    expect(await waiting).toBe(false)
    expect(closed).toBe(1)
    expect([session.device, session.model, session.use.active, session.pending]).toEqual([
      null,
      null,
      null,
      [],
    ])
    expect(session.run?.state).toBe('broken')
    expect(await session.openModel({ kind: 'bundled', url: 'http://localhost/models/' })).toBe(true)
    expect(session.alerts).toEqual([])
  })

  it('pairs a prediction with its text and hands a file to be saved', async () => {
    answers.predict = [{ type: 'prediction', id: 1, predictions: [[{ label: 'yes', score: 0.9 }]] }]
    answers.exportRun = [
      { type: 'file', name: 'first.zip', mime: 'application/zip', bytes: new Uint8Array(1) },
    ]
    expect(await session.use.predict('I am Good')).toBe(true)
    expect(session.use.answers).toEqual([
      { text: 'I am Good', prediction: [{ label: 'yes', score: 0.9 }], head: null },
    ])
    await session.use.exportRun('x')
    expect(saved).toEqual(['first.zip'])
  })
})

describe('memory of the next run', () => {
  const rest = { weights: 1e9, trained: 1e9, evaluation: 1e9, largest: 1e8, features: 0 }
  const need = { total: 5e9, step: 3e9, ...rest }
  const change = { max_tokens_per_batch: 512, gradient_checkpointing: true }
  const fit = { need, problem: 'Too much.', remedies: [{ change, total: 2e9 }] }

  it('is asked with the settings as they stand, and said in words', async () => {
    await ready()
    answers.measure = [{ type: 'memory', fit }]
    session.memory.gigabytes = 4
    expect(await session.measure()).toBe(true)
    expect(sent.at(-1)).toMatchObject({ type: 'measure', available: 4e9, args: trainingDefaults })
    expect(session.memory.fit).toEqual(fit)
    expect(changeInWords(change)).toBe(
      'Compute 512 tokens at once, the same steps; compute each layer twice, a third more time',
    )
    session.memory.gigabytes = null
    expect(session.memory.available).toBeNull()
  })

  it('is not known while the settings are wrong', async () => {
    await ready()
    session.memory.fit = fit
    session.args.seed = 1.5
    expect(await session.measure()).toBe(false)
    expect(session.memory.fit).toBeNull()
    expect(types()).not.toContain('measure')
  })
})

describe('training fields', () => {
  it('has every field of TrainingArguments exactly once, and nothing wrong with the defaults', () => {
    expect(trainingFields.map(({ key }) => key).sort()).toEqual(Object.keys(trainingDefaults).sort())
    expect(problemsIn(trainingDefaults)).toEqual([])
  })

  it('says which value is out of range', () => {
    expect(problemsIn({ ...trainingDefaults, warmup_ratio: 2 })).toEqual([
      expect.stringMatching(/warmup_ratio\) is 2; the most is 1/),
    ])
    expect(problemsIn({ ...trainingDefaults, seed: 1.5 })).toEqual([expect.stringMatching(/whole/)])
    expect(problemsIn({ ...trainingDefaults, eval_strategy: 'no' })).toEqual([
      expect.stringMatching(/load_best_model_at_end/),
    ])
  })
})
