/** What is found out about a run before it begins: what it takes, and, while nobody waits, its programs. */
import { onGpu } from '../kernels/program.ts'
import { warmUp } from '../kernels/warmUp.ts'
import type { Roberta } from '../model/roberta.ts'
import { fitOf, type Fit } from './fitting.ts'
import { needOf, type Sizes } from './need.ts'

export class Foresight {
  #compiling = new AbortController()

  /**
   * Whether a run of `sizes` fits `available` bytes (null: nobody knows); null where the device is no GPU. With `compiles`
   * its programs begin to be compiled, and those of an earlier look no longer are.
   */
  look(roberta: Roberta, sizes: Sizes, available: number | null, compiles: boolean): Fit | null {
    if (!onGpu()) return null
    const { need, programs } = needOf(roberta, sizes)
    this.stop()
    if (compiles) {
      this.#compiling = new AbortController()
      // A program that does not compile now fails in the run that needs it, which says so.
      warmUp(programs, this.#compiling.signal).catch(() => {})
    }
    return fitOf(roberta, sizes, available, need)
  }

  /** A run begins: from now on it compiles what is still missing. */
  stop(): void {
    this.#compiling.abort()
  }
}
