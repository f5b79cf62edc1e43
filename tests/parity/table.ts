/** The table that `npm run parity` prints: a line for each method, composition and head with its worst differences. */

/** The worst difference of one quantity; null: not a number. */
export interface Difference {
  what: string
  worst: number | null
  limit: number
  at?: string
}

const columns = ['forward', 'gradient', 'curve', 'export'] as const
type Column = (typeof columns)[number]

interface Cell {
  worst: number
  passed: boolean
}

/** Which column a measured quantity belongs to; what has none is part of its test alone. */
function columnOf({ what }: Difference): Column | null {
  return columns.find((column) => column === what) ?? null
}

export class Table {
  readonly #rows = new Map<string, Partial<Record<Column, Cell>>>()

  /** Takes in what one test or export measured; `passed` false marks its cells whatever they hold. */
  add(row: string, differences: Difference[], passed: boolean, fallback: Column | null = null): void {
    const cells = this.#rows.get(row) ?? {}
    this.#rows.set(row, cells)
    for (const difference of differences) {
      const column = columnOf(difference) ?? fallback
      if (!column) continue
      const worst = difference.worst ?? Infinity
      const before = cells[column]
      const within = worst <= difference.limit
      cells[column] = {
        worst: Math.max(worst, before?.worst ?? 0),
        passed: within && (before?.passed ?? true),
      }
    }
    // A test that failed without a number of its own over the limit: it broke off.
    if (!passed && columns.every((column) => cells[column]?.passed !== false))
      cells[fallback ?? 'forward'] = { worst: Infinity, passed: false }
  }

  /** One line for each row, and how many rows have a cell over its limit. */
  print(): { text: string; over: number } {
    const cell = (one: Cell | undefined) =>
      `${one ? (Number.isFinite(one.worst) ? one.worst.toExponential(1) : 'failed') : '-'}${one && !one.passed ? ' !' : '  '}`.padStart(
        12,
      )
    const head = `${'method, composition or head'.padEnd(52)}${columns.map((name) => `${name}  `.padStart(12)).join('')}`
    const lines = [...this.#rows].map(
      ([name, cells]) => `${name.padEnd(52)}${columns.map((column) => cell(cells[column])).join('')}`,
    )
    const over = [...this.#rows.values()].filter((cells) =>
      columns.some((column) => cells[column]?.passed === false),
    ).length
    return { text: [head, '-'.repeat(head.length), ...lines].join('\n'), over }
  }
}
