/** What a visitor downloads before pressing anything: small, and without tensors. */
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join, posix } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, it } from 'vitest'
import { siteFolder } from './site.ts'

/** 80 kB, gzipped. */
const budget = 80_000

const text = (file: string) => readFileSync(join(siteFolder, file), 'utf8')

/** Scripts and styles that index.html loads, and all that these scripts import statically. */
function firstLoad(): string[] {
  const html = text('index.html')
  const waiting = [...html.matchAll(/<(?:script|link)[^>]+(?:src|href)="\.\/([^"]+\.(?:js|css))"/g)].map(
    (m) => m[1]!,
  )
  const files = new Set<string>()
  for (let file = waiting.pop(); file; file = waiting.pop()) {
    if (files.has(file)) continue
    files.add(file)
    if (!file.endsWith('.js')) continue
    for (const [, specifier] of text(file).matchAll(
      /(?:^|[;}\s])(?:import|export)\s*(?:[^"'();]*?from\s*)?["'](\.[^"']+)["']/g,
    )) {
      waiting.push(posix.join(posix.dirname(file), specifier!))
    }
  }
  return [...files]
}

/** Words that tfjs's code cannot be without. */
const tfjs = /WebGPUBackend|registerKernel|tidy\(/

it('is at most 80 kB gzipped, scripts and styles', () => {
  const files = firstLoad()
  expect(files.some((file) => file.endsWith('.js'))).toBe(true)
  expect(files.some((file) => file.endsWith('.css'))).toBe(true)
  const bytes = files.map((file) => gzipSync(text(file)).length)
  expect(bytes.reduce((a, b) => a + b, gzipSync(text('index.html')).length)).toBeLessThanOrEqual(budget)
})

it('holds no tfjs, which the worker does', () => {
  expect(firstLoad().filter((file) => tfjs.test(text(file)))).toEqual([])
  const scripts = readdirSync(join(siteFolder, 'assets')).filter((file) => file.endsWith('.js'))
  expect(scripts.filter((file) => tfjs.test(text(`assets/${file}`)))).not.toEqual([])
})

it('refers to nothing by an absolute path, so that it works from any sub-path', () => {
  const absolute = /(?:src|href)="\/[^/]/
  expect(text('index.html')).not.toMatch(absolute)
  expect(existsSync(join(siteFolder, 'samples/yelp.json'))).toBe(true)
  expect(existsSync(join(siteFolder, 'models/mini-roberta/model.safetensors'))).toBe(true)
})
