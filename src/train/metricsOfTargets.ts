/**
 * Metrics of everything that is not one class a text: several labels (scikit-learn, zero_division=0), numbers
 * (scikit-learn and scipy) and hidden words.
 */
import type { ClassMetrics } from './metrics.ts'

/** Several labels at once, each decided at probability 0.5. */
export interface SeveralLabelMetrics {
  rows: number
  /** Mean binary cross-entropy over rows and labels. */
  loss: number
  /** Share of the rows whose labels are all right. */
  accuracy: number
  /** Mean F1 of all labels, 0 for one that never is and is never predicted. */
  f1_macro: number
  /** F1 of all decisions together. */
  f1_micro: number
  per_label: ClassMetrics[]
}

export interface NumberMetrics {
  rows: number
  mse: number
  mae: number
  /** Correlation of the numbers, and of their ranks; null where either side has one value only. */
  pearson: number | null
  spearman: number | null
}

export interface HiddenWordMetrics {
  /** Hidden words that were judged. */
  words: number
  /** Mean cross-entropy over them, and e to its power. */
  loss: number
  perplexity: number
  /** Share of them that were the likeliest word. */
  accuracy: number
}

/** labels (0 or 1) and logits, both [rows·num_labels]. */
export function metricsOfLabels(
  labels: ArrayLike<number>,
  logits: ArrayLike<number>,
  num_labels: number,
): SeveralLabelMetrics {
  const rows = labels.length / num_labels
  const counts = Array.from({ length: num_labels }, () => ({ hits: 0, support: 0, claimed: 0 }))
  let [right, loss] = [0, 0]
  for (let row = 0; row < rows; row++) {
    let wrong = 0
    counts.forEach((count, c) => {
      const [label, logit] = [labels[row * num_labels + c]!, logits[row * num_labels + c]!]
      const claimed = logit >= 0 ? 1 : 0
      count.support += label
      count.claimed += claimed
      count.hits += label * claimed
      wrong += label === claimed ? 0 : 1
      loss += Math.max(logit, 0) - logit * label + Math.log1p(Math.exp(-Math.abs(logit)))
    })
    if (wrong === 0) right++
  }
  const per_label = counts.map(({ hits, support, claimed }): ClassMetrics => ({
    precision: share(hits, claimed),
    recall: share(hits, support),
    f1: share(2 * hits, claimed + support),
    support,
  }))
  const all = (key: 'hits' | 'support' | 'claimed') => total(counts.map((count) => count[key]))
  return {
    rows,
    loss: share(loss, labels.length),
    accuracy: share(right, rows),
    f1_macro: share(total(per_label.map(({ f1 }) => f1)), num_labels),
    f1_micro: share(2 * all('hits'), all('claimed') + all('support')),
    per_label,
  }
}

/** Numbers wanted and predicted, of one length. */
export function metricsOfNumbers(labels: ArrayLike<number>, predictions: ArrayLike<number>): NumberMetrics {
  const rows = labels.length
  const errors = Array.from(labels, (label, i) => predictions[i]! - label)
  return {
    rows,
    mse: share(total(errors.map((error) => error * error)), rows),
    mae: share(total(errors.map(Math.abs)), rows),
    pearson: correlation(labels, predictions),
    spearman: correlation(ranks(labels), ranks(predictions)),
  }
}

/** The loss of each hidden word, and whether it was the likeliest of all (1) or not (0). */
export function metricsOfHiddenWords(losses: ArrayLike<number>, hits: ArrayLike<number>): HiddenWordMetrics {
  const words = losses.length
  const loss = share(total(Array.from(losses)), words)
  return { words, loss, perplexity: Math.exp(loss), accuracy: share(total(Array.from(hits)), words) }
}

/** Pearson's correlation; null where it is not defined. */
function correlation(a: ArrayLike<number>, b: ArrayLike<number>): number | null {
  const centred = (values: ArrayLike<number>) => {
    const mean = share(total(Array.from(values)), values.length)
    return Array.from(values, (value) => value - mean)
  }
  const [x, y] = [centred(a), centred(b)]
  const product = (left: number[], right: number[]) => total(left.map((value, i) => value * right[i]!))
  const scale = Math.sqrt(product(x, x)) * Math.sqrt(product(y, y))
  return scale > 0 ? Math.min(1, Math.max(-1, product(x, y) / scale)) : null
}

/** Ranks from 1; equal values share the mean of theirs. */
function ranks(values: ArrayLike<number>): number[] {
  const order = Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]!)
  const out = new Array<number>(values.length)
  for (let start = 0; start < order.length;) {
    let end = start
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++
    for (let i = start; i < end; i++) out[order[i]!] = (start + end + 1) / 2
    start = end
  }
  return out
}

function total(values: number[]): number {
  return values.reduce((a, b) => a + b, 0)
}

function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}
