/** Why Train cannot act, in one sentence. */
import { adapterName } from '../io/adapterKeys.ts'
import { settingsProblem } from './fields.ts'
import { knownMethods } from './methods.svelte.ts'
import type { Session } from './session.svelte.ts'

/** The first thing that is missing or wrong, along the path; null when a run can begin. */
export function blockedReason(session: Session): string | null {
  const { pending, selfTest, model, tables, mapping, dataset, plan, args } = session
  if (session.training) return 'A run is going on.'
  if (pending.includes('train') || pending.includes('resumeRun')) return 'The run is being prepared.'
  if (selfTest && !selfTest.passed)
    return 'The self-test of this device failed, so its numbers cannot be trusted.'
  if (!model) return 'Load a model first.'
  if (tables.length === 0) return 'Choose some data first.'
  if (!mapping) return 'Say which columns hold the text and the label.'
  if (pending.includes('mapData')) return 'The data is being checked.'
  if (!dataset) return 'The data cannot be used as it is; the reason stands above.'
  const error = dataset.problems.find((problem) => problem.level === 'error')
  if (error) return error.message
  const methods = knownMethods()
  if (!methods) return 'The methods are being loaded.'
  return (
    methods.planProblems(plan, model.config, model.rounded)[0] ??
    wordsProblem(session) ??
    settingsProblem(args, model.config)
  )
}

/** The words of an earlier data set do not fit the classes of this one. */
function wordsProblem({ plan: { labelWords }, dataset, mapping }: Session): string | null {
  const classes = dataset?.id2label.length ?? 0
  if (!labelWords || (mapping?.task ?? 'classes') !== 'classes') return null
  const { length } = labelWords.words
  if (length === classes || (length === 1 && classes === 2)) return null
  return `There are ${classes} classes but ${length} words to answer with (label_words); give one for each.`
}

/** Why a run of this name cannot begin, or null: the adapters of a run must be told apart by name. */
export function nameProblem({ plan }: Session, name: string): string | null {
  const own = adapterName(name)
  const other = plan.draft.members.find((member) => member.name === own)
  if (!other) return null
  return `The run and the adapter “${other.title}”, which takes part in it, would both be called ${own}; name the run otherwise.`
}
