/** Whether the values of a configuration are of the types that its method's fields have, before anyone reads them. */
import type { Field, Method } from './method.ts'

/** What is wrong with the fields of a method's configuration, one sentence each: unknown ones, and those of a wrong type. */
export function fieldProblems(method: Method, config: object): string[] {
  const what = method.architecture ?? 'bottleneck'
  const defaults = new Map<string, unknown>(Object.entries(method.defaults))
  return Object.entries(config).flatMap(([key, value]: [string, unknown]) => {
    if (!defaults.has(key)) return [`A ${what} configuration has no field “${key}”.`]
    const field = method.fields.find((one) => one.key === key)
    const expected = wrongType(field, defaults.get(key), value)
    return expected === null ? [] : [`${key} is ${JSON.stringify(value)}; it must be ${expected}.`]
  })
}

/** What the value ought to be, or null when it is. */
function wrongType(field: Field | undefined, fallback: unknown, value: unknown): string | null {
  if (value === null && fallback === null) return null
  if (field?.choices?.some((choice) => choice === value)) return null
  switch (field?.kind) {
    case 'number':
      return typeof value === 'number' && Number.isFinite(value) ? null : 'a number'
    case 'integer':
      return Number.isInteger(value) ? null : 'a whole number'
    case 'switch':
      return typeof value === 'boolean' ? null : 'true or false'
    case 'layers':
      return isLayers(value) || value === fallback ? null : 'a list of layer numbers'
    case 'factor':
      return isFactor(value) ? null : 'a number above 0, or one for each layer with a “default”'
    case 'matrices':
      return Array.isArray(value) && value.every((one) => ['q', 'k', 'v'].includes(one as string))
        ? null
        : 'a list of “q”, “k” and “v”'
    case 'text':
      return typeof value === 'string' ? null : 'a text'
    case 'choice':
      if (typeof value === 'number' && typeof fallback === 'number') return null
      return `one of ${field.choices?.map((choice) => JSON.stringify(choice)).join(', ')}`
    case undefined:
      return likeDefault(fallback, value)
  }
}

/** A field without a form has the type of its default; one whose default is null takes a number or a text. */
function likeDefault(fallback: unknown, value: unknown): string | null {
  if (fallback === null)
    return typeof value === 'number' || typeof value === 'string' ? null : 'a number or null'
  if (Array.isArray(fallback)) return Array.isArray(value) ? null : 'a list'
  return typeof value === typeof fallback ? null : `a ${typeof fallback}`
}

function isLayers(value: unknown): boolean {
  return Array.isArray(value) && value.every((layer) => Number.isInteger(layer) && (layer as number) >= 0)
}

function isFactor(value: unknown): boolean {
  const good = (one: unknown) => typeof one === 'number' && one > 0 && Number.isFinite(one)
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return good(value)
  return Object.entries(value).every(
    ([layer, one]) => (layer === 'default' || /^\d+$/.test(layer)) && good(one),
  )
}
