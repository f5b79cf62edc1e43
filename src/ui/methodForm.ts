/** Values of a configuration as a form shows and takes them, by the kind of their field. */
import type { Field } from '../methods/method.ts'

/** What a field of a configuration can hold. */
export type FieldValue = string | number | boolean | null | number[] | string[] | Record<string, number>

/** The fields of a configuration, by key; `architecture` is none. */
export function valuesOf(config: object): Map<string, FieldValue> {
  return new Map(Object.entries(config).filter(([key]) => key !== 'architecture'))
}

/** "0, 1, 5" -> [0, 1, 5]; what is no layer number is left out. */
export function layersIn(text: string): number[] {
  const numbers = text
    .split(/[\s,;]+/)
    .filter(Boolean)
    .map(Number)
    .filter((n) => Number.isInteger(n) && n >= 0)
  return [...new Set(numbers)].sort((a, b) => a - b)
}

/** "16", or by layer "0: 8, default: 16". NaN where there is no number, which the checks then say. */
export function factorIn(text: string): number | Record<string, number> {
  if (!text.includes(':')) return text.trim() === '' ? NaN : Number(text)
  const pairs = text.split(',').map((part): [string, number] => {
    const [layer = '', factor = ''] = part.split(':')
    return [layer.trim(), factor.trim() === '' ? NaN : Number(factor)]
  })
  return Object.fromEntries(pairs)
}

/** A value as the text of an input; what is not a number, and null, are blank. */
export function shown(value: FieldValue): string {
  if (value === null || (typeof value === 'number' && Number.isNaN(value))) return ''
  if (Array.isArray(value)) return value.join(', ')
  if (typeof value !== 'object') return String(value)
  return Object.entries(value)
    .map(([layer, factor]) => `${layer}: ${factor}`)
    .join(', ')
}

/** What was typed into the input of a field. A blank one is null where the method's default is, else not a number. */
export function typed(field: Field, text: string, fallback: FieldValue): FieldValue {
  const blank = text.trim() === ''
  if (blank && fallback === null) return null
  switch (field.kind) {
    case 'number':
    case 'integer':
    case 'choice':
      return blank ? NaN : Number(text)
    case 'factor':
      return factorIn(text)
    case 'layers':
      return typeof fallback === 'string' && text.trim() === fallback ? fallback : layersIn(text)
    default:
      return text
  }
}

/** The first sentence about this field, or null: problems name fields by their keys. */
export function problemAt(problems: string[], key: string): string | null {
  return problems.find((problem) => new RegExp(`(^|\\W)${key}(\\W|$)`).test(problem)) ?? null
}

/** Problems that name none of these fields. */
export function otherProblems(problems: string[], keys: string[]): string[] {
  return problems.filter((problem) => keys.every((key) => problemAt([problem], key) === null))
}
