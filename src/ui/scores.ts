/** The few numbers that say how well a run does, whatever it learns: classes, several labels, numbers or words. */
import type { Metrics } from '../protocol.ts'
import { fixed } from './format.ts'

/** A name and its number, in the order in which they matter. */
export type Score = [name: string, value: number | null]

/** Scores of one evaluated split. */
export function scoresOf(metrics: Metrics): Score[] {
  const { loss, accuracy, f1_macro, f1_micro, mae, pearson, spearman, perplexity } = metrics
  if (mae !== undefined)
    return [
      ['mean absolute error', mae],
      ['mean squared error', loss],
      ['Pearson', pearson ?? null],
      ['Spearman', spearman ?? null],
    ]
  if (perplexity !== undefined)
    return [
      ['perplexity', perplexity],
      ['words guessed', accuracy],
      ['loss', loss],
    ]
  return [
    ['macro-F1', f1_macro],
    ['micro-F1', f1_micro],
    ['accuracy', accuracy],
    ['loss', loss],
  ]
}

/** The first two in a line: “macro-F1 0.812, accuracy 0.830”. */
export function headline(metrics: Metrics): string {
  const scores = scoresOf(metrics).filter(([name]) => name !== 'micro-F1')
  return scores
    .slice(0, 2)
    .map(([name, value]) => `${name} ${fixed(value)}`)
    .join(', ')
}

/** Whether the task has classes or labels at all, and so an F1. */
export function hasF1(metrics: Metrics | null): boolean {
  return metrics === null || !Number.isNaN(metrics.f1_macro)
}
