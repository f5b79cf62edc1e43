/** Classification metrics from predictions alone, as scikit-learn computes them with zero_division=0. */

export interface ClassMetrics {
  precision: number
  recall: number
  f1: number
  /** Rows of this class. */
  support: number
}

/**
 * Everything the page says of one evaluated split. Of several labels a text, `per_class` is per label; of numbers,
 * `loss` is the mean squared error; of hidden words, `rows` are words. What a task has no such metric for is NaN.
 */
export interface Metrics {
  rows: number
  /** Mean cross-entropy over rows. */
  loss: number
  accuracy: number
  /** Mean F1 of the classes that occur among the labels or the predictions. */
  f1_macro: number
  /** Equal to accuracy when every row has one label. */
  f1_micro: number
  per_class: ClassMetrics[]
  /** `confusion[label][predicted]`, in rows. */
  confusion: number[][]
  /** Of numbers: mean absolute error, and correlations (null where one side has one value only). */
  mae?: number
  pearson?: number | null
  spearman?: number | null
  /** Of hidden words: e to the power of the loss. */
  perplexity?: number
}

/** Metrics of `predicted` against `labels` (class indices below `num_labels`), with the rows' mean loss. */
export function metricsOf(
  labels: ArrayLike<number>,
  predicted: ArrayLike<number>,
  num_labels: number,
  loss: number,
): Metrics {
  const confusion = Array.from({ length: num_labels }, () => new Array<number>(num_labels).fill(0))
  for (let i = 0; i < labels.length; i++) confusion[labels[i]!]![predicted[i]!]! += 1
  const per_class = confusion.map((row, c): ClassMetrics => {
    const hits = row[c]!
    const support = total(row)
    const claimed = total(confusion.map((other) => other[c]!))
    return {
      precision: share(hits, claimed),
      recall: share(hits, support),
      f1: share(2 * hits, claimed + support),
      support,
    }
  })
  const present = per_class.filter((_, c) =>
    confusion.some((row, label) => row[c]! > 0 || (label === c && total(row) > 0)),
  )
  const accuracy = share(total(confusion.map((row, c) => row[c]!)), labels.length)
  const f1_macro = share(total(present.map(({ f1 }) => f1)), present.length)
  return { rows: labels.length, loss, accuracy, f1_macro, f1_micro: accuracy, per_class, confusion }
}

function total(values: number[]): number {
  return values.reduce((a, b) => a + b, 0)
}

function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}
