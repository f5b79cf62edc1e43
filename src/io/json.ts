/**
 * JSON where JavaScript's own is too loose or too free: keys that occur twice, and text exactly as Python's
 * `json.dumps(value, indent=2, sort_keys=True)` writes it, in which 1.0 is not 1.
 */

/** A number that Python must read as a float: `1` is written `1.0`. */
export class PyFloat {
  readonly value: number
  constructor(value: number) {
    if (!Number.isFinite(value)) throw new Error(`JSON has no ${value}.`)
    this.value = value
  }
}

export type PyJson = null | boolean | number | string | PyFloat | PyJson[] | { [key: string]: PyJson }

/** Text as Python writes it with indent 2, ASCII escapes and, unless said, sorted keys; no newline at the end. */
export function pythonJson(value: PyJson, indent = '', sorted = true): string {
  if (value instanceof PyFloat) return pythonFloat(value.value)
  if (typeof value === 'string') return pythonString(value)
  if (typeof value === 'number' && !Number.isInteger(value)) return pythonFloat(value)
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  const inner = indent + '  '
  const wrap = (open: string, lines: string[], close: string) =>
    lines.length === 0 ? open + close : `${open}\n${inner}${lines.join(`,\n${inner}`)}\n${indent}${close}`
  if (Array.isArray(value))
    return wrap(
      '[',
      value.map((item) => pythonJson(item, inner, sorted)),
      ']',
    )
  const keys = sorted ? Object.keys(value).sort(byCodePoint) : Object.keys(value)
  return wrap(
    '{',
    keys.map((key) => `${pythonString(key)}: ${pythonJson(value[key]!, inner, sorted)}`),
    '}',
  )
}

/** `repr(float)`: shortest digits, `1.0` for 1, an exponent of two digits below 1e-4 and from 1e16. */
function pythonFloat(value: number): string {
  const size = Math.abs(value)
  if (size === 0 || (size >= 1e-4 && size < 1e16))
    return Number.isInteger(value) ? `${Object.is(value, -0) ? '-0' : value}.0` : `${value}`
  return value.toExponential().replace(/e([+-])(\d)$/, 'e$10$2')
}

function pythonString(text: string): string {
  return JSON.stringify(text).replace(
    /[^ -~]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** Python orders strings by code point; JavaScript by UTF-16 unit, which differs above U+FFFF. */
function byCodePoint(a: string, b: string): number {
  const x = [...a]
  const y = [...b]
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    const difference = x[i]!.codePointAt(0)! - y[i]!.codePointAt(0)!
    if (difference !== 0) return difference
  }
  return x.length - y.length
}

/**
 * The first key that one object of a valid JSON text names twice, or null. JSON.parse keeps the last silently, which
 * would let a file say one thing to us and another to the next reader.
 */
export function duplicateKey(text: string): string | null {
  const open: (Set<string> | null)[] = [] // a set for each open object, null for each open array
  const token = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\]]/g
  for (let match = token.exec(text); match; match = token.exec(text)) {
    const found = match[0]
    if (found === '{') open.push(new Set())
    else if (found === '[') open.push(null)
    else if (found === '}' || found === ']') open.pop()
    else {
      const keys = open.at(-1)
      if (!keys || !isKey(text, token.lastIndex)) continue
      const key: string = JSON.parse(found)
      if (keys.has(key)) return key
      keys.add(key)
    }
  }
  return null
}

/** Whether the string that ends at `end` is followed by a colon. */
function isKey(text: string, end: number): boolean {
  while (/\s/.test(text[end] ?? '')) end++
  return text[end] === ':'
}

/** Parses an object and refuses what is not one, naming `what` it is. */
export function parseObject(text: string, what: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new Error(`${what} is not valid JSON: ${(cause as Error).message}.`, { cause })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what} is not a JSON object.`)
  return value as Record<string, unknown>
}
