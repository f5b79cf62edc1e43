/** Label strings to classes: their order, and those that are the same label written twice. */

/** Usual names of opinions and truth values from bad to good, so that a positive class comes after its negative. */
const ranks = new Map<string, number>()
const ladders = [
  'very negative,negative,slightly negative,neutral,slightly positive,positive,very positive',
  'terrible,bad,ok,good,great',
  'poor,fair,average,very good,excellent',
  'neg,neu,pos',
  'no,maybe,yes',
  'n,,y',
  'false,unknown,true',
  'f,,t',
  'unhelpful,,helpful',
  'not helpful,,helpful',
  'ham,,spam',
  'unacceptable,,acceptable',
  'disagree,neutral,agree',
  '👎,,👍',
  '😞,😐,😀',
  '🙁,😐,🙂',
  '☹,😐,☺',
  '😠,😐,😊',
]
for (const ladder of ladders) {
  const steps = ladder.split(',')
  steps.forEach((word, i) => {
    if (word !== '') ranks.set(word, i - (steps.length - 1) / 2)
  })
}

/** Place of a well-known label between bad (below 0) and good (above 0); null for any other word. */
export function labelRank(label: string): number | null {
  return (
    ranks.get(
      label
        .trim()
        .toLowerCase()
        .replace(/[\s_-]+/g, ' ')
        .replace('\ufe0f', ''),
    ) ?? null
  )
}

/** A number as data files write it, or null. */
export function numberOf(label: string): number | null {
  const text = label.trim()
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : null
}

/**
 * The order of classes: numbers by value; well-known words from negative to positive; all else by code point, as
 * Python's `sorted` does.
 */
export function orderLabels(labels: Iterable<string>): string[] {
  const distinct = [...new Set(labels)]
  const byRank = (rank: (label: string) => number | null) => {
    const values = distinct.map(rank)
    if (values.includes(null) || new Set(values).size < values.length) return null
    return distinct.sort((a, b) => rank(a)! - rank(b)!)
  }
  return byRank(numberOf) ?? byRank(labelRank) ?? distinct.sort(byCodePoint)
}

function byCodePoint(a: string, b: string): number {
  const [left, right] = [Array.from(a), Array.from(b)]
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = left[i]!.codePointAt(0)! - right[i]!.codePointAt(0)!
    if (difference !== 0) return difference
  }
  return left.length - right.length
}

/**
 * Pairs of labels that differ only in spaces, case, the form of an accent or emoji, or the way a number is written
 * (`1` and `1.0`): each with the first seen of its kind.
 */
export function nearLabels(labels: Iterable<string>): [string, string][] {
  const firsts = new Map<string, string>()
  const pairs: [string, string][] = []
  for (const label of new Set(labels)) {
    const number = numberOf(label)
    const key =
      number !== null
        ? String(number)
        : label
            .normalize('NFKC')
            .toLowerCase()
            .replace(/[\s\ufe0f]+/g, '')
    const first = firsts.get(key)
    if (first === undefined) firsts.set(key, label)
    else pairs.push([first, label])
  }
  return pairs
}
