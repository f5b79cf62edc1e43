/**
 * Tensors that the `adapters` library saves under several names, because several of its modules hold the same
 * parameter: the prefixes of all layers in one pool that every layer knows, and a LayerNorm that is also the first part
 * of the projection behind it.
 */
import type { HostTensor, TensorMap } from '../config.ts'

const pool = /^roberta\.prefix_tuning\.(prefix_tunings\..*)$/
const pooled = /^roberta\.encoder\.layer\.\d+\.attention\.self\.prefix_tuning\.pool\.(prefix_tunings\..*)$/
const norm = /^(.*)\.adapter_norm_before\.(weight|bias)$/

/** All names of a tensor in a model of `layers` layers, ours first. */
function namesOf(key: string, layers: number): string[] {
  const prefix = pool.exec(key)?.[1]
  const inLayer = (l: number) => `roberta.encoder.layer.${l}.attention.self.prefix_tuning.pool.${prefix}`
  if (prefix !== undefined) return [key, ...Array.from({ length: layers }, (_, l) => inLayer(l))]
  const [, path, part] = norm.exec(key) ?? []
  return path === undefined ? [key] : [key, `${path}.adapter_down.0.${part}`]
}

/** The tensors under all names of the library's state dict; the aliases hold the same arrays. */
export function withAliases(tensors: TensorMap, layers: number): TensorMap {
  const all: TensorMap = new Map(tensors)
  for (const [key, tensor] of tensors)
    for (const alias of namesOf(key, layers)) if (!all.has(alias)) all.set(alias, tensor)
  return all
}

/** Our name for a key of a file that holds `keys`. */
export function canonicalName(key: string, keys: { has(key: string): boolean }): string {
  const prefix = pooled.exec(key)?.[1]
  if (prefix !== undefined) return `roberta.prefix_tuning.${prefix}`
  const [, path, part] = /^(.*)\.adapter_down\.0\.(weight|bias)$/.exec(key) ?? []
  // Only with a norm in front is part 0 the norm; else it is the projection.
  return path !== undefined && keys.has(`${path}.adapter_down.1.weight`)
    ? `${path}.adapter_norm_before.${part}`
    : key
}

/** Adds a tensor under our name. Throws when another of its names gave other values. */
export function addOnce(tensors: TensorMap, key: string, tensor: HostTensor, name: string): void {
  const known = tensors.get(key)
  if (known && !sameTensor(known, tensor))
    throw new Error(
      `The file holds ${key} and ${name}, which are one tensor in the library, with different values.`,
    )
  if (!known) tensors.set(key, tensor)
}

/** Same shape and same 32 bits of every value. */
export function sameTensor(a: HostTensor, b: HostTensor): boolean {
  if (a.data === b.data && a.shape.join() === b.shape.join()) return true
  if (a.data.length !== b.data.length || a.shape.join() !== b.shape.join()) return false
  const x = new Uint32Array(a.data.buffer, a.data.byteOffset, a.data.length)
  const y = new Uint32Array(b.data.buffer, b.data.byteOffset, b.data.length)
  return x.every((bits, i) => bits === y[i])
}
