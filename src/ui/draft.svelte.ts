/**
 * A composition as the user puts it together: kept adapters, how they work together, and what is passed by. One for the
 * run that is being prepared, where the run's own adapter takes part as “new”, and one for what is in use.
 */
import type { AdapterConfig, AdapterSetup, FusionConfig } from '../config.ts'
import { adapterName } from '../io/adapterKeys.ts'
import { dynamicFusion, fusionKey } from '../methods/fusion.ts'
import { formatSetup, nestingProblems, parseSetup, type Block } from '../methods/setupText.ts'
import type { Assembly, Member } from '../protocol.ts'
import type { RunRecord } from '../io/db.ts'

/** What the run's own adapter is called until the run has a name. */
export const ownName = 'new'

/** How the adapters work together; `written`: as the user wrote it. */
export type Way = Block['type'] | 'written'

export interface DraftMember extends Member {
  config: AdapterConfig
  id2label: string[]
  title: string
}

/** Whether a kept run is one adapter, or a head, that can be put beside others. */
export function canJoin({ size, adapter, assembly }: RunRecord): boolean {
  const whole = adapter.architecture === 'full' || adapter.architecture === 'bitfit'
  return size > 0 && !whole && (assembly?.members.length ?? 0) === 0
}

/** Tokens of a text and rows of a batch that parts begin with; both can be changed in the text. */
const tokens = 128
const rows = 16

export class Draft {
  members = $state<DraftMember[]>([])
  way = $state<Way>('Stack')
  written = $state('')
  skip_layers = $state<number[]>([])
  fusion = $state<FusionConfig>(structuredClone(dynamicFusion))
  /** Whether a run's own adapter takes part. */
  own = $state(false)

  /** The setup as text, in Python's notation. */
  get text(): string {
    return this.way === 'written' ? this.written : formatSetup(this.#composed(this.way))
  }

  /** What is active; null when nothing is, or when the text cannot be read. */
  get active(): AdapterSetup | null {
    return this.#read().setup
  }

  /** What is wrong with the composition itself, in sentences. */
  get problems(): string[] {
    const { setup, error } = this.#read()
    return error === null ? nestingProblems(setup) : [error]
  }

  /** Everything as the worker takes it, with the run's own adapter under `name`. */
  assembly(name: string): Assembly {
    const members = this.members.map(({ config: _c, id2label: _l, title: _t, ...member }) => ({ ...member }))
    const active = renamed(this.active, name)
    const keys = fusionKeys(active)
    const fusion = $state.snapshot(this.fusion)
    return {
      members,
      active,
      skip_layers: [...this.skip_layers],
      fusions: Object.fromEntries(keys.map((key) => [key, fusion])),
    }
  }

  /** Nothing but the run's own adapter, in all layers: no need to say anything. */
  get plain(): boolean {
    return this.members.length === 0 && this.skip_layers.length === 0 && this.way !== 'written'
  }

  add({ id, name, adapter, id2label }: RunRecord, with_head: boolean): void {
    const used = [ownName, ...this.members.map((member) => member.name)]
    const clean = adapterName(name)
    let unique = clean
    for (let i = 2; used.includes(unique); i++) unique = `${clean}-${i}`
    const config = $state.snapshot(adapter) as AdapterConfig
    const member = { name: unique, runId: id, with_head, train: false, train_head: false }
    this.members.push({ ...member, config, id2label: [...id2label], title: name })
  }

  remove(name: string): void {
    this.members = this.members.filter((member) => member.name !== name)
  }

  /** Moves a member one place up or down. */
  move(name: string, by: -1 | 1): void {
    const from = this.members.findIndex((member) => member.name === name)
    const to = from + by
    if (from < 0 || to < 0 || to >= this.members.length) return
    const [member] = this.members.splice(from, 1)
    if (member) this.members.splice(to, 0, member)
  }

  /** From here on the text is the user's. */
  write(text: string): void {
    this.written = text
    this.way = 'written'
  }

  clear(): void {
    this.members = []
    this.way = 'Stack'
    this.written = ''
    this.skip_layers = []
  }

  #read(): { setup: AdapterSetup | null; error: string | null } {
    if (this.way !== 'written') return { setup: this.#composed(this.way), error: null }
    try {
      return { setup: parseSetup(this.written), error: null }
    } catch (error) {
      return { setup: null, error: error instanceof Error ? error.message : String(error) }
    }
  }

  /** All adapters in one block, the run's own last. */
  #composed(type: Block['type']): AdapterSetup | null {
    const names = this.members.map(({ name }) => name)
    if (this.own) names.push(ownName)
    const [only] = names
    if (only === undefined) return null
    if (names.length === 1) return only
    const share = (whole: number) => names.map(() => Math.floor(whole / names.length))
    if (type === 'Split') return { type, children: names, splits: share(tokens) }
    if (type === 'BatchSplit') return { type, children: names, batch_sizes: share(rows) }
    if (type === 'Average') return { type, children: names, weights: null, normalize_weights: true }
    return { type, children: names }
  }
}

/** The library's names of all Fuse blocks. */
function fusionKeys(setup: AdapterSetup | null): string[] {
  if (setup === null || typeof setup === 'string') return []
  const own = setup.type === 'Fuse' ? [fusionKey(setup)] : []
  return [...own, ...setup.children.flatMap(fusionKeys)]
}

/** The setup with the run's own adapter under its real name. */
function renamed(setup: AdapterSetup | null, name: string): AdapterSetup | null {
  if (setup === null) return null
  if (typeof setup === 'string') return setup === ownName ? name : setup
  return { ...setup, children: setup.children.map((child) => renamed(child, name) ?? child) }
}
