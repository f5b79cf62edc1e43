/**
 * Rows of numbers by name, kept for a run: in memory up to a bound, then in a file up to another, beyond that not at
 * all. Nothing is evicted: an epoch asks for every row once, so that no row is worth more than one already there.
 */

/** A file for numbers; places are counted in bytes. */
export interface RowFile {
  capacity: number
  /** False: the disk took no more. */
  write(values: Float32Array<ArrayBuffer>, at: number): boolean
  /** Fills `values`. Throws when the file ends before. */
  read(values: Float32Array<ArrayBuffer>, at: number): void
  close(): Promise<void>
}

export interface RowRoom {
  memoryBytes: number
  /** Asked once, when memory is full; null where there are no files. */
  openFile: () => Promise<RowFile | null>
}

/**
 * The room of a run that has no files. Memory comes first: a batch of 32 texts of 128 tokens is 12.6 MB, which take some
 * ms to the GPU from memory and as long again from disk, beside a step that takes hundreds; kept on the GPU they would
 * be taken from what batches need.
 */
export const memoryAlone: RowRoom = { memoryBytes: 512 << 20, openFile: async () => null }

export class KeptRows {
  /** The row itself, or where it stands in the file. */
  readonly #rows = new Map<string, Float32Array | number>()
  #memoryLeft: number
  #file: RowFile | null | undefined
  #fileEnd = 0

  constructor(readonly room: RowRoom) {
    this.#memoryLeft = room.memoryBytes
  }

  has(key: string): boolean {
    return this.#rows.has(key)
  }

  /** Whether a row of so many numbers could be kept now. Opens the file when it must. */
  async hasRoom(count: number): Promise<boolean> {
    if (4 * count <= this.#memoryLeft) return true
    if (this.#file === undefined) this.#file = await this.room.openFile()
    return this.#file !== null && this.#fileEnd + 4 * count <= this.#file.capacity
  }

  /** Keeps a copy of `values` where there is room. */
  async put(key: string, values: Float32Array): Promise<void> {
    if (this.has(key) || !(await this.hasRoom(values.length))) return
    const own = values.slice()
    if (own.byteLength <= this.#memoryLeft) {
      this.#rows.set(key, own)
      this.#memoryLeft -= own.byteLength
    } else if (this.#file!.write(own, this.#fileEnd)) {
      this.#rows.set(key, this.#fileEnd)
      this.#fileEnd += own.byteLength
    } else this.#file!.capacity = this.#fileEnd
  }

  /** Copies a row into `into`, which is as long. Throws when it was never kept. */
  read(key: string, into: Float32Array<ArrayBuffer>): void {
    const row = this.#rows.get(key)
    if (row === undefined) throw new Error('A row was asked for that was never kept; ask `has` first.')
    if (typeof row === 'number') this.#file!.read(into, row)
    else into.set(row)
  }

  /** Frees all of it. */
  async close(): Promise<void> {
    this.#rows.clear()
    await this.#file?.close()
    this.#file = null
  }
}
