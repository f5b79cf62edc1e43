/** What is bundled with the page, by absolute URL: the worker is made from a blob and cannot resolve relative ones. */
import type { DataSource, ModelSource } from '../protocol.ts'

export const sampleSets = [
  { name: 'amazon', label: 'Amazon products' },
  { name: 'imdb', label: 'IMDb films' },
  { name: 'yelp', label: 'Yelp restaurants' },
] as const

export type SampleName = (typeof sampleSets)[number]['name']

/** 1,000 labelled sentences for each name. */
export function sampleReviews(names: readonly SampleName[]): DataSource {
  return {
    kind: 'sample',
    urls: names.map((name) => new URL(`./samples/${name}.json`, document.baseURI).href),
  }
}

/** The small model that comes with the page. */
export function miniRoberta(): ModelSource {
  return { kind: 'bundled', url: new URL('./models/mini-roberta/', document.baseURI).href }
}
