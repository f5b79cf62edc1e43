/** The summary table as the library prints it, and metrics as scikit-learn has them (tests/parity/tables.py). */
import { describe, expect, test } from 'vitest'
import { classificationHead, type AdapterConfig } from '../src/config.ts'
import { adapterShapes, headShapes } from '../src/model/adapters.ts'
import { adapterSummary } from '../src/model/params.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
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

const summaries = await readFixture<{ name: string; cases: { adapter: AdapterConfig; rows: Row[] }[] }>(
  'summaries',
)
const { config } = await readFixture<{ config: unknown }>('made-up')
const metrics = await readFixture<{ cases: MetricsCase[] }>('metrics')

const count = (shapes: [string, number[]][]) =>
  shapes.reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0)

test.for(summaries.cases)('summary of $adapter.method on roberta-base’s shapes', ({ adapter, rows }) => {
  const base = parseRobertaConfig(JSON.stringify(config))
  const head = classificationHead(2)
  const params = count(adapterShapes(base, adapter, summaries.name))
  const ours = adapterSummary(
    base,
    adapter,
    head,
    params,
    count(headShapes(base, head, summaries.name)),
    summaries.name,
  )
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
