/** The summary table as the library prints it, and metrics as scikit-learn has them (tests/parity/tables.py). */
import { describe, expect, test } from 'vitest'
import { classificationHead, type AdapterConfig } from '../src/config.ts'
import { singleSetup } from '../src/model/model.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { summaryOf } from '../src/opened.ts'
import { metricsOf } from '../src/train/metrics.ts'
import { readFixture } from './fixtures.ts'

interface Row {
  name: string
  architecture?: string
  '#param': number
  '%param': number
  active?: boolean
  train: boolean
}

interface MetricsCase {
  name: string
  num_labels: number
  labels: number[]
  predictions: number[]
  accuracy: number
  f1_macro: number
  f1_micro: number
  precision: number[]
  recall: number[]
  f1: number[]
  support: number[]
  confusion: number[][]
}

/** A bottleneck's dict has no `architecture`, as the library writes it. */
interface SummaryCase {
  name: string
  adapter: Dict
  rows: Row[]
}

interface Dict {
  architecture?: string
  configs?: Dict[]
}

/** The dict as our type has it, children of a union included. */
const ownForm = (dict: Dict): AdapterConfig =>
  ({
    architecture: null,
    ...dict,
    ...(dict.configs && { configs: dict.configs.map(ownForm) }),
  }) as AdapterConfig

const summaries = await readFixture<{ name: string; cases: SummaryCase[] }>('summaries')
const { config } = await readFixture<{ config: unknown }>('made-up')
const metrics = await readFixture<{ cases: MetricsCase[] }>('metrics')

/** The counts that every report on these methods names, on roberta-base's shapes. */
const known: Record<string, number> = {
  seq_bn: 894_528,
  double_seq_bn: 1_789_056,
  'par_bn 6': 2_370_048,
  par_bn: 7_091_712,
  seq_bn_inv: 1_190_592,
  double_seq_bn_inv: 2_085_120,
  prefix_tuning: 9_872_384,
  prefix_tuning_flat: 552_960,
  lora: 294_912,
  ia3: 55_296,
  compacter: 57_088,
  'compacter++': 28_576,
  prompt_tuning: 7_680,
  loreft: 36_888,
  mam: 22_493_984,
  unipelt: 11_083_376,
}
const full = 124_645_632

test.for(summaries.cases)('summary of $name on roberta-base’s shapes', ({ name, adapter, rows }) => {
  const base = parseRobertaConfig(JSON.stringify(config))
  const ours = summaryOf(
    { config: base },
    singleSetup(summaries.name, ownForm(adapter), classificationHead(2)),
  )
  if (name in known) expect(ours[0]!.params).toBe(known[name])
  expect(ours[1]!.params).toBe(full)
  rows.forEach((theirs, i) => {
    expect(ours[i]).toMatchObject({
      name: theirs.name,
      architecture: theirs.architecture ?? '',
      params: theirs['#param'],
      active: theirs.active ?? null,
      train: theirs.train,
    })
    expect(ours[i]!.percent).toBeCloseTo(theirs['%param'], 10)
  })
})

test('every count that reports name is among the cases', () => {
  const names = summaries.cases.map(({ name }) => name)
  expect(Object.keys(known).filter((name) => !names.includes(name))).toEqual([])
})

describe('metrics', () => {
  test.for(metrics.cases)('$name', (stored) => {
    const ours = metricsOf(stored.labels, stored.predictions, stored.num_labels, 0)
    expect(ours.confusion).toEqual(stored.confusion)
    for (const key of ['accuracy', 'f1_macro', 'f1_micro'] as const)
      expect(ours[key]).toBeCloseTo(stored[key], 12)
    for (const key of ['precision', 'recall', 'f1', 'support'] as const)
      stored[key].forEach((value, c) => expect(ours.per_class[c]![key]).toBeCloseTo(value, 12))
  })
})
