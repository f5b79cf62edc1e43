/** The word that was probably meant: for sentences about names that nobody knows. */

/** The candidate with the fewest edits from `word`, when they are few for its length; else null. */
export function nearest(word: string, candidates: Iterable<string>): string | null {
  let best: string | null = null
  let fewest = Math.min(4, Math.floor(word.length / 3)) + 1
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - word.length) >= fewest) continue
    const count = edits(word, candidate)
    if (count >= fewest) continue
    fewest = count
    best = candidate
  }
  return best
}

/** ` (did you mean “…”?)`, or nothing. */
export function suggestion(word: string, candidates: Iterable<string>): string {
  const meant = nearest(word, candidates)
  return meant === null ? '' : ` (did you mean “${meant}”?)`
}

/** Letters to add, drop, change or swap with their neighbour (optimal string alignment). */
function edits(a: string, b: string): number {
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const changed = above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      let count = Math.min(changed, above[j]! + 1, row[j - 1]! + 1)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        count = Math.min(count, before[j - 2]! + 1)
      row.push(count)
    }
    before = above
    above = row
  }
  return above[b.length]!
}
