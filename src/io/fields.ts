/**
 * Fields of the configuration files that people and other programs write, and one sentence for what is wrong with them.
 */
import { suggestion } from './nearest.ts'

/** A JSON object as parsed. */
export type Fields = Record<string, unknown>

export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * `given` over `defaults`. Throws one sentence for a field that `defaults` lacks and for one of `required` that is
 * missing. With `notes`, a field that nobody knows but that is off (null, false, 0, empty) is noted there: it changes
 * nothing in the library either. A misspelt one is always refused.
 */
export function readFields(
  given: Fields,
  defaults: Fields,
  required: string[],
  what: string,
  notes: string[] | null,
): Fields {
  const fields: Fields = { ...defaults }
  for (const [field, value] of Object.entries(given)) {
    if (Object.hasOwn(defaults, field)) {
      fields[field] = value
      continue
    }
    const meant = suggestion(field, Object.keys(defaults))
    if (meant !== '' || notes === null || !isOff(value))
      throw new Error(`The ${what} has the field ${field}, which the library does not know${meant}.`)
    notes.push(`The unknown field ${field} is off and was left out.`)
  }
  const absent = required.find((field) => !Object.hasOwn(given, field))
  if (absent) throw new Error(`The ${what} lacks the field ${absent}, which it must have.`)
  return fields
}

function isOff(value: unknown): boolean {
  return !value || (typeof value === 'object' && Object.keys(value).length === 0)
}

/** Throws unless every value has the type of its default; where that is null, the type in `nullable`. */
export function checkTypes(
  fields: Fields,
  defaults: Fields,
  nullable: Record<string, 'number' | 'string'>,
  what: string,
): void {
  for (const [field, value] of Object.entries(fields)) {
    if (value === null && Object.hasOwn(nullable, field)) continue
    const type = nullable[field] ?? typeof defaults[field]
    const right = type === 'number' ? Number.isFinite(value) : typeof value === type
    const words = { number: 'a number', string: 'a text', boolean: 'true or false' }[type as 'number'] ?? type
    const or = Object.hasOwn(nullable, field) ? ' or null' : ''
    if (!right)
      throw new Error(`The field ${field} of the ${what} is ${shown(value)}; it must be ${words}${or}.`)
  }
}

/** JSON of a value, short enough for a sentence. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}
