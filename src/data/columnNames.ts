/** What a column is likely to hold, judged by its name alone; the names are those that public review sets use. */

export type ColumnKind = 'text' | 'text_pair' | 'label' | 'id'

/** Best first: where two columns have names from one list, the earlier name wins. */
const names: Record<ColumnKind, string[]> = {
  label: (
    'label labels sentiment polarity gold_label class category target emotion intent topic stars star_rating rating ' +
    'ratings overall score airline_sentiment humor verdict judgement judgment annotation helpful helpfulness tag y ' +
    'class_index label_text'
  ).split(' '),
  text: (
    'text sentence review review_text reviewtext review_body content body comment comments tweet message premise ' +
    'sentence1 question1 text_a text1 document utterance phrase passage description question headline summary title ' +
    'post abstract answer string input'
  ).split(' '),
  text_pair: 'text_pair sentence2 hypothesis question2 text_b text2 sentence_2 pair'.split(' '),
  id: 'id idx index row_id guid uid uuid row unnamed_0 source file filename date time timestamp url'.split(
    ' ',
  ),
}

/** `Review Text` and `reviewText` become `review_text`. */
export function plainName(column: string): string {
  const spaced = column.trim().replace(/([\p{Ll}\d])(\p{Lu})/gu, '$1_$2')
  return spaced
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, '_')
    .replace(/^_+|_+$/g, '')
}

/**
 * How well a column's name fits a kind, 0..10: 6..10 for a whole name from the list, 3..5 for a name that has one of
 * them as a word (`user_rating`), 0 for none.
 */
export function nameScore(column: string, kind: ColumnKind): number {
  const name = plainName(column)
  const list = names[kind]
  const whole = Math.max(list.indexOf(name), list.indexOf(name.replaceAll('_', '')))
  if (whole >= 0) return 10 - (4 * whole) / list.length
  const words = new Set(name.split('_'))
  const part = list.findIndex((known) => words.has(known))
  return part >= 0 ? 5 - (2 * part) / list.length : 0
}

/** A name that is in one of the lists as a whole: the sign of a header line. */
export function isKnownName(cell: string): boolean {
  return (Object.keys(names) as ColumnKind[]).some((kind) => nameScore(cell, kind) >= 6)
}
