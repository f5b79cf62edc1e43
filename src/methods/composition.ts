/**
 * Composition blocks (`adapters.composition` and `ComposableAdapterLayerBase`): one walk over the tree of blocks for
 * every kind of place; a place says how it treats a single adapter and how its state is cut and joined.
 */
import type { AdapterSetup } from '../config.ts'

type Block = Exclude<AdapterSetup, string>

/** What a place knows of its own state S. A block that it lacks is one that the library does not allow there. */
export interface Place<S> {
  /** For messages: “LoRA”. */
  what: string
  /** Whether adapter `name` has a module here; one that has none is passed by. */
  has(name: string): boolean
  single(name: string, state: S): S
  /** What comes before each adapter of a Stack, and once before the parts of another block, as its first adapter has it. */
  before?(name: string, state: S): S
  /** `count` rows of the batch from `start`, and the inverse; `whole` is what the parts were cut from. */
  rows(state: S, start: number, count: number): S
  join(parts: S[], whole: S): S
  /** Σ weights[i]·parts[i] */
  average?(parts: S[], weights: number[]): S
  fuse?(block: Extract<Block, { type: 'Fuse' }>, state: S): S
  /** `count` tokens of every row from `start`, the inverse, and how many a row has. */
  tokens?(state: S, start: number, count: number): S
  joinTokens?(parts: S[], whole: S): S
  length?(state: S): number
}

/** Names of all adapters in a setup, left to right. */
export function namesIn(setup: AdapterSetup | null): string[] {
  if (setup === null) return []
  return typeof setup === 'string' ? [setup] : setup.children.flatMap(namesIn)
}

/** How often the batch is repeated: the number of children of a Parallel block, 1 without one. */
export function replicas(setup: AdapterSetup | null): number {
  if (setup === null || typeof setup === 'string') return 1
  return setup.type === 'Parallel' ? setup.children.length : Math.max(...setup.children.map(replicas), 1)
}

/** The first adapter of a setup, whose configuration begins a place's computation. */
export function firstOf(setup: AdapterSetup): string {
  return typeof setup === 'string' ? setup : firstOf(setup.children[0]!)
}

/** The last adapter of a setup, whose configuration ends a place's computation. */
export function lastOf(setup: AdapterSetup): string {
  return typeof setup === 'string' ? setup : lastOf(setup.children.at(-1)!)
}

/** Applies `setup` to a state of B rows. Throws when a block is not possible at this place or does not fit the batch. */
export function compose<S>(setup: AdapterSetup, state: S, B: number, place: Place<S>): S {
  if (typeof setup === 'string')
    return place.has(setup) ? place.single(setup, place.before?.(setup, state) ?? state) : state
  if (!namesIn(setup).some((name) => place.has(name))) return state
  if (setup.type === 'Stack')
    return setup.children.reduce<S>((current, child) => compose(child, current, B, place), state)
  if (setup.type === 'Fuse') {
    if (!place.fuse) throw new Error(`Fuse is not possible with ${place.what}.`)
    return place.fuse(setup, state)
  }
  return parts(setup, place.before?.(firstOf(setup), state) ?? state, B, place)
}

/** A block whose children each get a share of the state, or all of it. */
function parts<S>(
  setup: Exclude<Block, { type: 'Stack' | 'Fuse' }>,
  state: S,
  B: number,
  place: Place<S>,
): S {
  const { children, type } = setup
  if (type === 'Parallel') {
    const each = B / children.length
    return batches(children, children.map(() => each), state, B, place) // prettier-ignore
  }
  if (type === 'BatchSplit') return batches(children, setup.batch_sizes, state, B, place)
  if (type === 'Split') return split(setup, state, B, place)
  if (!place.average) throw new Error(`Average is not possible with ${place.what}.`)
  return place.average(
    children.map((child) => part(child, state, B, place)),
    averageWeights(setup),
  )
}

/** A child of a block that has done what comes before: a name alone does not do it again. */
function part<S>(child: AdapterSetup, state: S, B: number, place: Place<S>): S {
  if (typeof child !== 'string') return compose(child, state, B, place)
  return place.has(child) ? place.single(child, state) : state
}

function split<S>(
  { children, splits }: Extract<Block, { type: 'Split' }>,
  state: S,
  B: number,
  place: Place<S>,
): S {
  const { tokens, joinTokens, length } = place
  if (!tokens || !joinTokens || !length) throw new Error(`Split is not possible with ${place.what}.`)
  const total = splits.reduce((a, b) => a + b, 0)
  if (total !== length(state))
    throw new Error(
      `The parts of the text (${splits.join(' + ')} tokens) do not add up to the ${length(state)} tokens of this batch.`,
    )
  let start = 0
  const cut = children.map((child, i) => {
    const own = tokens(state, start, splits[i]!)
    start += splits[i]!
    return part(child, own, B, place)
  })
  return joinTokens(cut, state)
}

/** The factor of each child, as the library has it: weights that add up to 1, divided once more by their number. */
function averageWeights({
  children,
  weights,
  normalize_weights,
}: Extract<Block, { type: 'Average' }>): number[] {
  const given = weights ?? children.map(() => 1 / children.length)
  const total = normalize_weights ? given.reduce((a, b) => a + b, 0) : 1
  return given.map((weight) => weight / total / children.length)
}

function batches<S>(children: AdapterSetup[], sizes: number[], state: S, B: number, place: Place<S>): S {
  const total = sizes.reduce((a, b) => a + b, 0)
  if (total !== B)
    throw new Error(`The parts of the batch (${sizes.join(' + ')} rows) do not add up to its ${B} rows.`)
  let start = 0
  const cut = children.map((child, i) => {
    const own = place.rows(state, start, sizes[i]!)
    start += sizes[i]!
    return part(child, own, sizes[i]!, place)
  })
  return place.join(cut, state)
}
