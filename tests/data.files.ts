/** Files made of text or bytes, read as the page reads them. */
import { strToU8 } from 'fflate'
import { expect } from 'vitest'
import { parseSources, type Table } from '../src/data/parse.ts'

export type Content = string | Uint8Array<ArrayBuffer>

export async function parse(files: Record<string, Content>): Promise<Table[]> {
  return parseSources(Object.entries(files).map(([name, content]) => ({ name, blob: new Blob([content]) })))
}

export async function one(name: string, content: Content): Promise<Table> {
  const tables = await parse({ [name]: content })
  expect(tables).toHaveLength(1)
  return tables[0]!
}

export const bytes = (text: string) => strToU8(text) as Uint8Array<ArrayBuffer>
export const lines = (table: Table) => Array.from(table.lines)
