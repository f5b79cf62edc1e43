/**
 * Why a setup would not do what it says: trained but not active, active but never loaded, blocks where they cannot
 * stand, and adapters that the library passes over in silence.
 */
import type { AdapterConfig, AdapterSetup, ModelSetup } from '../config.ts'
import { lastOf, namesIn } from './composition.ts'
import { nestingProblems, type Block, type BlockType } from './setupText.ts'
import { childConfigs } from './union.ts'

/** What stops a run on `setup`, one sentence each; empty when it can start. */
export function activeProblems(setup: ModelSetup): string[] {
  const { active, adapters, train } = setup
  const problems = [
    ...missing(setup),
    ...untrainable(setup),
    ...nestingProblems(active),
    ...fusionProblems(setup),
    ...headProblems(setup),
  ]
  if (active !== null && problems.length === 0)
    problems.push(...unsupported(active, adapters), ...passedOver(active, setup))
  const trains = train.adapters.length + train.fusions.length + train.heads.length
  if (trains === 0 && train.base === 'none')
    problems.push('Nothing is set to train; choose an adapter, a fusion or a head.')
  return problems
}

function missing({ active, adapters }: ModelSetup): string[] {
  return unique(namesIn(active))
    .filter((name) => !(name in adapters))
    .map(
      (name) =>
        `The adapter “${name}” is active, but it was never loaded; add or load it, or take it out of the setup.`,
    )
}

function untrainable({ active, adapters, fusions, heads, train }: ModelSetup): string[] {
  const inPath = namesIn(active)
  return [
    ...train.adapters.flatMap((name) => {
      if (!(name in adapters)) return [`The adapter “${name}” is to be trained, but it was never loaded.`]
      if (inPath.includes(name)) return []
      return [
        `The adapter “${name}” is to be trained, but it is not active, so it would learn nothing; add it to the setup.`,
      ]
    }),
    ...train.fusions
      .filter((key) => !(key in fusions))
      .map((key) => `The fusion “${key}” is to be trained, but there is none of that name.`),
    ...train.heads
      .filter((name) => !(name in heads))
      .map((name) => `The head “${name}” is to be trained, but it was never loaded.`),
  ]
}

function fusionProblems({ active, adapters, fusions, train }: ModelSetup): string[] {
  const keys = blocksIn(active, 'Fuse').map(({ children }) => children.map(lastOf).join(','))
  return [
    ...keys
      .filter((key) => !(key in fusions))
      .map((key) => `The setup fuses ${key}, but there is no fusion of these adapters; add one first.`),
    ...train.fusions
      .filter((key) => key in fusions && !keys.includes(key))
      .map((key) => `The fusion “${key}” is to be trained, but it is not active, so it would learn nothing.`),
    ...Object.keys(fusions).flatMap((key) =>
      key
        .split(',')
        .filter((name) => !(name in adapters))
        .map((name) => `The fusion “${key}” needs the adapter “${name}”, which was never loaded.`),
    ),
  ]
}

function headProblems({ active_heads, heads, train }: ModelSetup): string[] {
  const problems = active_heads
    .filter((name) => !(name in heads))
    .map((name) => `The head “${name}” is active, but it was never loaded.`)
  if (active_heads.length === 0) problems.push('No head is active, so nothing would be predicted or learnt.')
  for (const name of train.heads)
    if (name in heads && !active_heads.includes(name))
      problems.push(`The head “${name}” is to be trained, but it is not active, so it would learn nothing.`)
  return problems
}

/** The blocks that a method's places know, and how it is called in a message. */
const supported: Record<string, { what: string; blocks: BlockType[] }> = {
  lora: { what: 'LoRA, DoRA and (IA)³', blocks: ['Stack', 'Parallel', 'BatchSplit', 'Average'] },
  prefix_tuning: { what: 'Prefix tuning', blocks: ['Stack', 'Parallel', 'BatchSplit'] },
}

/** Adapters inside blocks that their method does not know; the library stops there as well. */
function unsupported(active: AdapterSetup, adapters: ModelSetup['adapters']): string[] {
  if (typeof active === 'string') return []
  const own = unique(namesIn(active)).flatMap((name) =>
    childConfigs(adapters[name]!).flatMap(({ architecture }) => {
      const known = supported[String(architecture)]
      if (!known || known.blocks.includes(active.type)) return []
      return [`${known.what} cannot stand inside ${active.type}; take “${name}” out of it.`]
    }),
  )
  return unique([...own, ...active.children.flatMap((child) => unsupported(child, adapters))])
}

/** Trained adapters that stand in the setup without any effect, so that no gradient would reach them. */
function passedOver(active: AdapterSetup, { adapters, train }: ModelSetup): string[] {
  const first = firstOf(active)
  return train.adapters.flatMap((name) => {
    const config = adapters[name]
    if (!config) return []
    if (name !== first && childConfigs(config).every(onlyFirst))
      return [
        `The adapter “${name}” would learn nothing: of ${config.architecture === 'reft' ? 'ReFT' : 'prompt tuning'} ` +
          `only the first adapter of a setup counts, and that is “${first}”.`,
      ]
    const after = blocksIn(active, 'Stack').find((stack) => overwritten(stack, name, adapters))
    return after
      ? [
          `The adapter “${name}” would learn nothing: of parallel bottlenecks in a Stack only the last one counts.`,
        ]
      : []
  })
}

function onlyFirst({ architecture }: AdapterConfig): boolean {
  return architecture === 'reft' || architecture === 'prompt_tuning'
}

/** Whether a later parallel bottleneck of this Stack starts again from the input and so undoes `name`. */
function overwritten({ children }: Block, name: string, adapters: ModelSetup['adapters']): boolean {
  const config = adapters[name]
  const at = children.indexOf(name)
  if (at < 0 || config?.architecture !== null || !config.is_parallel) return false
  return children.slice(at + 1).some((child) => {
    const later = typeof child === 'string' ? adapters[child] : undefined
    if (later?.architecture !== null || !later.is_parallel || later.leave_out.length > 0) return false
    return later.mh_adapter >= config.mh_adapter && later.output_adapter >= config.output_adapter
  })
}

/** All blocks of one type in a setup, outer ones first. */
function blocksIn(setup: AdapterSetup | null, type: BlockType): Block[] {
  if (setup === null || typeof setup === 'string') return []
  const inner = setup.children.flatMap((child) => blocksIn(child, type))
  return setup.type === type ? [setup, ...inner] : inner
}

function firstOf(setup: AdapterSetup): string {
  return typeof setup === 'string' ? setup : firstOf(setup.children[0]!)
}

function unique(texts: string[]): string[] {
  return [...new Set(texts)]
}
