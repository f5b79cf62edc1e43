/** Tables for people: columns as wide as they must be, the first ones to the left and numbers to the right. */

/** `rows`, the heading first; `left`: columns from the first that hold words. */
export function table(rows: string[][], left: number): string {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  const line = (row: string[]) =>
    row.map((cell, i) => (i < left ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ')
  return rows.map((row) => line(row).trimEnd()).join('\n')
}

export const mb = (bytes: number) => (bytes / 1e6).toFixed(1)
export const gb = (bytes: number) => (bytes / 1e9).toFixed(1)
export const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(2)
