/** Methods that put something in front of a text need the text to begin there: attention sees one run of keys. */
import type { Walk } from './method.ts'

/** Throws when a row is padded in front of its text. `what`: the method, as a part of a sentence. */
export function refuseLeftPadding({ first }: Walk, what: string): void {
  const row = first.findIndex((start) => start > 0)
  if (row >= 0)
    throw new Error(
      `Row ${row} is padded in front of its text, where ${what} puts its own; pad it behind instead.`,
    )
}
