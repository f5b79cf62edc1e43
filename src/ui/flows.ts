/** What takes several commands: the sample run, and bringing a kept run back. */
import { trainingDefaults } from '../trainingArguments.ts'
import type { Command, Mapping, Role, SplitArguments } from '../protocol.ts'
import { historyOf, isWhole, type RunRecord } from './library.svelte.ts'
import { loadMethods } from './methods.svelte.ts'
import { miniRoberta, sampleReviews, sampleSets } from './samples.ts'
import type { Run } from './currentRun.ts'
import type { Session } from './session.svelte.ts'

const bundledName = 'mini-roberta'

async function loadBundled(session: Session): Promise<boolean> {
  return session.model?.base.name === bundledName || session.openModel(miniRoberta())
}

/** One click to a finished run: the bundled model, the sample reviews, a bottleneck adapter with its defaults. */
export async function trySample(session: Session): Promise<void> {
  const { firstChoices } = await loadMethods()
  const [first] = firstChoices
  if (first) session.adopt(first.config, trainingDefaults)
  session.plan.draft.clear()
  if (!(await loadBundled(session))) return
  if (!(await session.openData(sampleReviews(sampleSets.map(({ name }) => name))))) return
  await session.train('Sample reviews')
}

/** A kept run as the page draws it. */
export function runOf(record: RunRecord): Run {
  const { id, name, id2label, best_step, test, history } = record
  const curves = historyOf(record)
  const last = history.evaluation.findLast(({ split }) => split === 'validation')?.metrics
  return {
    runId: id,
    name,
    total_steps: history.step.at(-1)?.step ?? best_step,
    id2label,
    state: 'kept',
    note: null,
    best_step,
    test: isWhole(test) ? test : null,
    judged: [],
    slow: /^wasm|slow/.test(record.device),
    step: history.step.at(-1)?.step ?? best_step,
    seconds_left: null,
    history: curves,
    latest: null,
    validation: isWhole(last) ? last : null,
    inPath: [],
  }
}

/** Loads the base that a run stood on when the page has it, and says what to do when it has not. */
async function loadBaseOf(
  session: Session,
  { name, base }: RunRecord,
  need: Command['type'],
): Promise<boolean> {
  if (!base) {
    if (session.model) return true
    session.alert(
      `“${name}” does not say which model it belongs to: load that model under Model, then open it again.`,
      false,
      need,
    )
    return false
  }
  if (session.model?.base.sha256 === base.sha256) return true
  if (base.name === bundledName) return loadBundled(session)
  session.alert(
    `“${name}” belongs to ${base.name}: load that model under Model, then open it again.`,
    false,
    need,
  )
  return false
}

/** Shows a kept run, and puts its adapter into the model. */
export async function openKept(session: Session, record: RunRecord): Promise<boolean> {
  if (session.training) return false
  // An imported adapter brings no record of its training: there is nothing to draw.
  session.show(record.status === 'imported' ? null : runOf(record))
  return (await loadBaseOf(session, record, 'openRun')) && session.use.openRun(record.id)
}

/** Opens again the data a run learnt from when it is a bundled sample; other files only their owner can give. */
async function openDataOf(session: Session, { name, data }: RunRecord, step: number): Promise<boolean> {
  const names = data?.names ?? []
  const stem = (file: string): string => (file.split('/').at(-1) ?? file).replace(/\.json$/, '')
  if (names.length > 0 && names.join() === session.tables.map((table) => table.name).join()) return true
  const samples = sampleSets.map((set) => set.name).filter((set) => names.some((file) => stem(file) === set))
  if (names.length > 0 && samples.length === names.length) return session.openData(sampleReviews(samples))
  session.alert(
    `To go on with “${name}”, open ${names.join(', ') || 'its data'} again under Data, then press Resume from step ${step}.`,
    false,
    'resumeRun',
  )
  return false
}

/** What `mapData` was asked when the run began; io keeps it without knowing its type. */
function isMapping(value: unknown): value is Mapping {
  return (
    typeof value === 'object' && value !== null && 'text' in value && 'label' in value && 'threshold' in value
  )
}

function isSplit(value: unknown): value is SplitArguments {
  return (
    typeof value === 'object' && value !== null && 'validation' in value && 'test' in value && 'seed' in value
  )
}

function isRole(value: unknown): value is Role {
  return ['all', 'train', 'validation', 'test', 'ignore'].some((role) => role === value)
}

/** Goes on with a run that was cut off, from its checkpoint at `step`. */
export async function resumeKept(session: Session, record: RunRecord, step: number): Promise<void> {
  if (session.training) return
  session.adopt(record.adapter, record.args)
  session.show(runOf(record))
  if (!(await loadBaseOf(session, record, 'resumeRun'))) return
  if (!(await openDataOf(session, record, step))) return
  const { data } = record
  if (data && isMapping(data.mapping) && isSplit(data.split))
    session.choose(data.mapping, data.split, data.roles.filter(isRole))
  if (await session.mapData()) await session.resumeRun(record.id)
}

/** Takes an adapter's files in and, with a model loaded, puts it to use. */
export async function importKept(session: Session, files: File[], with_head: boolean): Promise<void> {
  if (!(await session.importAdapter(files, with_head)) || !with_head || !session.model || !session.imported)
    return
  await session.use.openRun(session.imported)
}
