/** The model as a run would have it, and why that run cannot begin: checked before anything is sent. */
import type { AdapterConfig, AdapterSetup, HeadConfig, ModelSetup, RobertaConfig } from '../config.ts'
import { roundedProblem, trainedBase } from '../methods/comparison.ts'
import { dropProblem } from '../methods/adapterDrop.ts'
import { lastOf, namesIn } from '../methods/composition.ts'
import { activeProblems, configProblems } from '../methods/registry.ts'
import type { Draft } from './draft.svelte.ts'
import { ownName } from './draft.svelte.ts'
import { isComparison, type Plan } from './plan.svelte.ts'

/** What stands, is active and trains when the run begins; its own adapter and head are called “new”. */
export function setupOf({ config, head, draft }: Plan): ModelSetup {
  const { members } = draft
  const own = !isComparison(config)
  const { active, fusions } = draft.assembly(ownName)
  const adapters: Record<string, AdapterConfig> = own ? { [ownName]: config } : {}
  const heads: Record<string, HeadConfig> = {
    [ownName]: { head_type: 'classification', num_labels: 2, ...head },
  }
  for (const member of members) {
    if (!isComparison(member.config)) adapters[member.name] = member.config
    if (member.with_head)
      heads[member.name] = { head_type: 'classification', num_labels: member.id2label.length, ...head }
  }
  const trained = (on: 'train' | 'train_head') =>
    members.filter((member) => member[on]).map(({ name }) => name)
  return {
    adapters,
    fusions,
    heads,
    active: draft.plain ? (own ? ownName : null) : active,
    active_heads: activeHeads(active, heads),
    train: {
      adapters: [...(own ? [ownName] : []), ...trained('train')],
      fusions: Object.keys(fusions),
      heads: [ownName, ...trained('train_head')],
      base: isComparison(config) ? trainedBase(config) : 'none',
    },
    skip_layers: draft.skip_layers,
  }
}

/** The heads of adapters that work in parallel when each has one, else the run's own: the library's choice. */
function activeHeads(active: AdapterSetup | null, heads: Record<string, HeadConfig>): string[] {
  const parallel = parallelIn(active)?.children.map(lastOf) ?? []
  return parallel.length > 0 && parallel.every((name) => name in heads) ? parallel : [ownName]
}

function parallelIn(setup: AdapterSetup | null): { children: AdapterSetup[] } | null {
  if (setup === null || typeof setup === 'string') return null
  return setup.type === 'Parallel'
    ? setup
    : (setup.children.map(parallelIn).find((one) => one !== null) ?? null)
}

/**
 * Everything that keeps this plan from being trained on `base`, in sentences; empty when nothing does. `rounded`: the
 * base's weights were rounded to half precision.
 */
export function planProblems(plan: Plan, base: RobertaConfig | null, rounded = false): string[] {
  return [
    ...configProblems(plan.config, base),
    ...precisionProblems(plan, rounded),
    ...headProblems(plan),
    ...wordProblems(plan),
    ...compositionProblems(plan.draft, base),
    ...dropProblems(plan, base),
    ...startProblems(plan),
  ]
}

/** What the base in half precision cannot be used for. */
export function precisionProblems({ config }: Plan, rounded: boolean): string[] {
  const problem = isComparison(config) ? roundedProblem(trainedBase(config), rounded) : null
  return problem === null ? [] : [problem]
}

/** Adapters that would be trained without being active, active without being loaded, and the like. */
export function startProblems(plan: Plan): string[] {
  return plan.draft.problems.length > 0 ? [] : activeProblems(setupOf(plan))
}

/** What is wrong with how adapters are put together, whatever they are. */
export function compositionProblems(draft: Draft, base: RobertaConfig | null): string[] {
  const L = base?.num_hidden_layers ?? Infinity
  const beyond = draft.skip_layers.find((layer) => layer >= L)
  const problems = [...draft.problems]
  if (beyond !== undefined)
    problems.push(`Layer ${beyond} is to be passed by, but this model’s layers go from 0 to ${L - 1}.`)
  return problems
}

function dropProblems({ adapterDrop }: Plan, base: RobertaConfig | null): string[] {
  const problem = adapterDrop && base ? dropProblem(adapterDrop, base.num_hidden_layers) : null
  return problem === null ? [] : [problem]
}

/** The words that answer must stand somewhere, and be there. */
function wordProblems({ labelWords }: Plan): string[] {
  if (labelWords === null) return []
  const { template, words } = labelWords
  const problems: string[] = []
  if (!template.includes('{text}') || template.split('<mask>').length !== 2)
    problems.push('The sentence around the text (template) needs {text}, and <mask> exactly once.')
  if (words.some((word) => word === '')) problems.push('Every class needs a word (label_words).')
  if (new Set(words).size < words.length) problems.push('Two classes have the same word (label_words).')
  return problems
}

/** A head must have a layer, and can drop only a part of its input. */
function headProblems({ head: { layers, dropout_prob } }: Plan): string[] {
  const problems: string[] = []
  if (!(Number.isInteger(layers) && layers >= 1))
    problems.push(`The head has ${layers} layers; it needs a whole number of at least 1.`)
  if (dropout_prob !== null && !(dropout_prob >= 0 && dropout_prob < 1))
    problems.push(`The head’s dropout_prob is ${dropout_prob}; it must be at least 0 and below 1.`)
  return problems
}

/** Why the kept adapters of a draft cannot be put to use together. */
export function useProblems(draft: Draft, base: RobertaConfig | null): string[] {
  const { members, active } = draft
  if (members.length === 0) return []
  const problems = compositionProblems(draft, base)
  if (problems.length > 0) return problems
  const heads = members.filter(({ with_head }) => with_head).map(({ name }) => name)
  if (heads.length === 0) problems.push('Nothing can answer: take at least one adapter with its head.')
  for (const name of namesIn(active))
    if (!members.some((member) => member.name === name))
      problems.push(
        `The adapter “${name}” is active, but it was never loaded; add it or take it out of the set-up.`,
      )
  const fused = JSON.stringify(active)?.includes('"Fuse"') ?? false
  if (fused)
    problems.push(
      'A fusion has to be trained first: put the adapters together under Adapter, train, and open that run.',
    )
  return problems
}
