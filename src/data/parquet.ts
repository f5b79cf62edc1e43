/** Parquet to columns and rows of strings, through hyparquet with all its decompressors. */
import { parquetMetadataAsync, parquetRead, type AsyncBuffer, type FileMetaData } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { MAX_FILE_BYTES, MAX_ROWS, startsWith } from './bytes.ts'
import { cell, type Rows } from './json.ts'

/** Unpacked columns in all, as the file's own footer states them. */
const MAX_UNPACKED_BYTES = 2 * MAX_FILE_BYTES

export const isParquet = (bytes: Uint8Array) => startsWith(bytes, 'PAR1') || startsWith(bytes, 'PARE')

/** All rows; lines are row numbers. Throws when the file is damaged, encrypted or too large. */
export async function parseParquet(name: string, bytes: Uint8Array): Promise<Rows> {
  if (startsWith(bytes, 'PARE'))
    throw new Error(`${name} is an encrypted Parquet file; save it without encryption`)
  const file: AsyncBuffer = {
    byteLength: bytes.length,
    slice: (start, end) => {
      const part = bytes.slice(start, end)
      return part.buffer
    },
  }
  let metadata: FileMetaData
  let records: unknown[][] = []
  try {
    metadata = await parquetMetadataAsync(file)
  } catch (error) {
    throw damaged(name, error)
  }
  checkSize(name, metadata)
  try {
    await parquetRead({ file, metadata, compressors, onComplete: (rows: unknown[][]) => (records = rows) })
  } catch (error) {
    throw damaged(name, error)
  }
  const columns = topColumns(metadata)
  const rows = records.map((record) => columns.map((_, i) => cell(record[i])))
  if (rows.length !== Number(metadata.num_rows)) {
    throw new Error(`${name} is damaged: it says ${metadata.num_rows} rows and holds ${rows.length}`)
  }
  return { columns, rows, lines: rows.map((_, i) => i + 1), format: 'Parquet' }
}

function checkSize(name: string, metadata: FileMetaData): void {
  if (metadata.num_rows > MAX_ROWS)
    throw new Error(`${name} has ${metadata.num_rows} rows; at most ${MAX_ROWS} can be read`)
  let unpacked = 0n
  for (const group of metadata.row_groups) {
    for (const column of group.columns) unpacked += column.meta_data?.total_uncompressed_size ?? 0n
  }
  if (unpacked > MAX_UNPACKED_BYTES) {
    throw new Error(
      `${name} unpacks to ${unpacked >> 20n} MB; at most ${MAX_UNPACKED_BYTES / 2 ** 20} MB can be read`,
    )
  }
}

/** Children of the schema's root, in file order: the schema is a depth-first list with child counts. */
function topColumns({ schema }: FileMetaData): string[] {
  const columns: string[] = []
  let at = 1
  const skip = (): void => {
    const children = schema[at++]?.num_children ?? 0
    for (let i = 0; i < children; i++) skip()
  }
  while (at < schema.length) {
    columns.push(schema[at]!.name)
    skip()
  }
  return columns
}

function damaged(name: string, error: unknown): Error {
  const reason = error instanceof Error ? error.message : String(error)
  return new Error(`${name} is a damaged or cut-off Parquet file (${reason}); fetch or write it again`, {
    cause: error,
  })
}
