import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { columnNames, History } from '../src/ui/history.ts'

const point = (step: number, loss = 1) => ({
  step,
  epoch: step / 10,
  loss,
  learning_rate: 1e-3,
  grad_norm: 0.5,
})
const score = (step: number, f1 = 0.5) => ({
  step,
  epoch: step / 10,
  loss: 0.7,
  accuracy: f1,
  f1_macro: f1,
  f1_micro: f1,
  f1_per_class: [f1 - 0.1, f1 + 0.1],
})

describe('History', () => {
  it('puts a step and an evaluation of the same step into one row', () => {
    const history = new History(2)
    history.addStep(point(5))
    history.addEvaluation(score(5), true)
    expect(history.step).toEqual([5])
    expect(history.columns.train_loss).toEqual([1])
    expect(history.columns.validation_loss).toEqual([0.7])
    expect(history.perClass).toEqual([[0.4], [0.6]])
    expect(history.best).toBe(5)
  })

  it('keeps the steps ascending when a loss is read after a later evaluation', () => {
    const history = new History(2)
    history.addStep(point(5))
    history.addEvaluation(score(11), false)
    history.addStep(point(10, 2))
    expect(history.step).toEqual([5, 10, 11])
    expect(history.columns.train_loss).toEqual([1, 2, null])
    expect(history.columns.validation_f1_macro).toEqual([null, null, 0.5])
    expect(history.perClass[0]).toEqual([null, null, 0.4])
  })

  it('has columns of one length and ascending steps whatever comes in whatever order', () => {
    const events = fc.array(fc.record({ step: fc.integer({ min: 1, max: 40 }), evaluation: fc.boolean() }))
    fc.assert(
      fc.property(events, (all) => {
        const history = new History(2)
        for (const { step, evaluation } of all)
          if (evaluation) history.addEvaluation(score(step), false)
          else history.addStep(point(step))
        expect(history.step).toEqual([...new Set(all.map(({ step }) => step))].sort((a, b) => a - b))
        const columns = [...columnNames.map((name) => history.columns[name]), ...history.perClass]
        for (const column of columns) expect(column.length).toBe(history.length)
      }),
    )
  })

  it('smooths with bias correction: the first value is itself, the second is weighted 0.9 to 1', () => {
    const history = new History()
    history.addStep(point(1, 2))
    history.addStep(point(2, 1))
    expect(history.columns.train_loss_smoothed[0]).toBeCloseTo(2, 12)
    expect(history.columns.train_loss_smoothed[1]).toBeCloseTo((0.9 * 2 + 1) / 1.9, 12)
  })

  it('shows a loss that is not a number as a gap and goes on smoothing from the one before', () => {
    const history = new History()
    history.addStep(point(1, 2))
    history.addStep(point(2, NaN))
    history.addStep(point(3, 2))
    expect(history.columns.train_loss).toEqual([2, null, 2])
    expect(history.columns.train_loss_smoothed).toEqual([2, null, expect.closeTo(2, 12)])
  })

  it('forgets what a resumed run will go through again', () => {
    const history = new History(2)
    for (const step of [5, 10, 15]) history.addStep(point(step))
    history.addEvaluation(score(15), true)
    history.truncateAfter(10)
    expect(history.step).toEqual([5, 10])
    expect(history.columns.grad_norm.length).toBe(2)
    expect(history.best).toBeNull()
  })

  it('writes every row as CSV, with class names quoted', () => {
    const history = new History(2)
    history.addStep(point(5))
    history.addEvaluation(score(6), false)
    const lines = history.toCsv(['no, thanks', '👍']).trimEnd().split('\r\n')
    expect(lines).toHaveLength(3)
    expect(lines[0]).toContain('"validation_f1 no, thanks",validation_f1 👍')
    expect(lines[1]).toBe('5,0.5,1,1,0.001,0.5,,,,,,')
    expect(lines[2]).toBe('6,0.6,,,,,0.7,0.5,0.5,0.5,0.4,0.6')
  })
})
