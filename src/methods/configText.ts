/**
 * Adapter configurations as the library's strings: `lora[r=4,alpha=16]`, and unions such as
 * `prefix_tuning[flat=True]|par_bn[reduction_factor=8]` (`resolve_adapter_config`). Only what differs from the preset is
 * written; what is written can be given to `add_adapter(name, config=…)` as it stands.
 */
import type { AdapterConfig } from '../config.ts'
import { aliases } from './presets.ts'
import { childConfigs, presetOf, presets } from './registry.ts'

/** Strings of ours that the library's map lacks: AdapterPlus has only a class there, and a comparison is no adapter. */
const ours = ['adapterplus', 'head', 'bitfit', 'full']

type Json = string | number | boolean | null | Json[] | { [key: string]: Json }

/** The string of a configuration; null when the library has none for it. */
export function formatConfig(config: AdapterConfig): string | null {
  if (same(config, presetOf(config)?.config)) {
    const { name } = presetOf(config)!
    if (!ours.includes(name)) return name
  }
  const texts = childConfigs(config).map(formatOne)
  return texts.includes(null) ? null : texts.join('|')
}

/**
 * A configuration from such a string. Throws one sentence for a name or a field that does not exist, or a value that
 * is not a Python literal; whether values make sense is for `configProblems`.
 */
export function parseConfig(text: string): AdapterConfig {
  const configs = text.split('|').map((part) => parseOne(part.trim()))
  const [only] = configs
  return configs.length === 1 && only ? only : { architecture: 'union', configs }
}

function formatOne(config: AdapterConfig): string | null {
  const known = presets.filter(({ name }) => !ours.includes(name))
  const own = presetOf(config)
  const preset =
    known.find((one) => one === own) ?? known.find((one) => one.config.architecture === config.architecture)
  if (!preset) return null
  const before = new Map(Object.entries(preset.config))
  const changed = Object.entries(config).filter(([key, value]) => !same(value, before.get(key)))
  const fields = changed.map(([key, value]) => `${key}=${literal(value as Json, key)}`)
  return fields.length > 0 ? `${preset.name}[${fields.join(',')}]` : preset.name
}

/** A value as Python writes it. The library tells a float from an int in `scaling` alone. */
function literal(value: Json, key: string): string {
  if (value === null) return 'None'
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (typeof value === 'string') return `'${value}'`
  if (typeof value === 'number')
    return key === 'scaling' && Number.isInteger(value) ? `${value}.0` : `${value}`
  if (Array.isArray(value)) return `[${value.map((one) => literal(one, '')).join(', ')}]`
  return `{${Object.entries(value)
    .map(([inner, one]) => `'${inner}': ${literal(one, '')}`)
    .join(', ')}}`
}

function parseOne(text: string): AdapterConfig {
  const match = /^([^[\]|\n]+)(?:\[(.*)\])?$/s.exec(text)
  if (!match) throw new Error(`“${text}” is no configuration; write for example lora[r=4,alpha=16].`)
  const name = match[1]!.trim()
  const preset = presets.find((one) => one.name === (aliases[name] ?? name))
  if (!preset)
    throw new Error(`“${name}” is no method; there are ${presets.map((one) => one.name).join(', ')}.`)
  const config = structuredClone(preset.config)
  const given = readFields(match[2] ?? '')
  for (const child of childConfigs(config)) {
    const fields = new Map(Object.entries(child))
    for (const [key, value] of given) {
      if (!fields.has(key) || key === 'architecture') throw new Error(`${name} has no field “${key}”.`)
      fields.set(key, value)
    }
    Object.assign(child, Object.fromEntries(fields))
  }
  return config
}

/** `a=1, b=[True]` -> pairs. */
function readFields(text: string): [string, Json][] {
  const cursor = { text, at: 0 }
  const fields: [string, Json][] = []
  while (!take(cursor, /^$/)) {
    const key = take(cursor, /^\w+\s*=/)
    if (!key) throw unreadable(cursor)
    fields.push([key[0].replace(/\s*=$/, ''), readLiteral(cursor)])
    if (!take(cursor, /^,/) && !take(cursor, /^$/)) throw unreadable(cursor)
  }
  return fields
}

interface Cursor {
  text: string
  at: number
}

function take(cursor: Cursor, pattern: RegExp): RegExpExecArray | null {
  cursor.at += /^\s*/.exec(cursor.text.slice(cursor.at))![0].length
  const match = pattern.exec(cursor.text.slice(cursor.at))
  if (match) cursor.at += match[0].length
  return match
}

function unreadable({ text, at }: Cursor): Error {
  return new Error(`The configuration cannot be read at “${text.slice(at).trim() || text}”.`)
}

function readLiteral(cursor: Cursor): Json {
  const quoted = take(cursor, /^"([^"]*)"|^'([^']*)'/)
  if (quoted) return quoted[1] ?? quoted[2] ?? ''
  const word = take(cursor, /^(True|False|None)\b/)?.[0]
  if (word) return word === 'None' ? null : word === 'True'
  const number = take(cursor, /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i)
  if (number) return Number(number[0])
  if (take(cursor, /^\[/)) return readList(cursor)
  if (take(cursor, /^\{/)) return readMap(cursor)
  throw unreadable(cursor)
}

function readList(cursor: Cursor): Json[] {
  const values: Json[] = []
  while (!take(cursor, /^\]/)) {
    values.push(readLiteral(cursor))
    if (!take(cursor, /^,/) && !/^\s*\]/.test(cursor.text.slice(cursor.at))) throw unreadable(cursor)
  }
  return values
}

function readMap(cursor: Cursor): { [key: string]: Json } {
  const entries: [string, Json][] = []
  while (!take(cursor, /^\}/)) {
    const key = readLiteral(cursor)
    if (!take(cursor, /^:/)) throw unreadable(cursor)
    entries.push([String(key), readLiteral(cursor)])
    if (!take(cursor, /^,/) && !/^\s*\}/.test(cursor.text.slice(cursor.at))) throw unreadable(cursor)
  }
  return Object.fromEntries(entries)
}

function same(a: unknown, b: unknown): boolean {
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return a === b
  const [left, right] = [Object.entries(a), new Map(Object.entries(b))]
  return (
    left.length === right.size && left.every(([key, value]) => right.has(key) && same(value, right.get(key)))
  )
}
