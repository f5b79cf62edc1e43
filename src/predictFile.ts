/** A table of texts in, a CSV out: each text with its label and every label's score, for each head. */
import Papa from 'papaparse'
import { guessText, type Mapping } from './data/dataset.ts'
import { parseSources, type Table } from './data/parse.ts'
import type { Tokenizer } from './data/tokenizer.ts'
import { predictTexts, type Classifier } from './predict.ts'

/** `mapping`: the columns that the adapter was trained on, where they are known. Throws when the file is not one table. */
export async function predictFile(
  classifier: Classifier,
  tokenizer: Tokenizer,
  file: File,
  mapping: Mapping | undefined,
): Promise<{ name: string; bytes: Uint8Array<ArrayBuffer> }> {
  const [table, more] = await parseSources([{ name: file.name, blob: file }])
  if (!table) throw new Error(`${file.name} holds no rows to predict.`)
  if (more) throw new Error(`${file.name} holds several tables; give one at a time.`)
  const { text, text_pair } = columnsOf(table, mapping)
  const texts = table.rows.map((row) => ({
    text: row[text]!,
    text_pair: text_pair < 0 ? null : row[text_pair]!,
  }))
  const all = await predictTexts(classifier, tokenizer, texts)
  const several = classifier.heads.length > 1
  const names = classifier.heads.flatMap(({ name, id2label }) => {
    const prefix = several ? `${name} ` : ''
    return [`${prefix}label`, ...id2label.map((label) => `${prefix}score ${label}`)]
  })
  const data = texts.map((row, i) => [
    row.text,
    ...classifier.heads.flatMap(({ id2label }, h) => {
      const one = all[h * texts.length + i]!
      return [one[0]!.label, ...id2label.map((label) => one.find((other) => other.label === label)!.score)]
    }),
  ])
  const csv = Papa.unparse({ fields: [table.columns[text]!, ...names], data }, { escapeFormulae: true })
  return { name: `${file.name.replace(/\.\w+$/, '')}-predictions.csv`, bytes: new TextEncoder().encode(csv) }
}

/** Where a table's texts are: in the columns the run was trained on, else where they seem to be; -1: no second text. */
function columnsOf(table: Table, mapping: Mapping | undefined): { text: number; text_pair: number } {
  const own = mapping ? table.columns.indexOf(mapping.text) : -1
  if (own < 0) return { text: table.columns.indexOf(guessText(table)), text_pair: -1 }
  return { text: own, text_pair: table.columns.indexOf(mapping?.text_pair ?? '') }
}
