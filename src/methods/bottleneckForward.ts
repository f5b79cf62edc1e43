/**
 * What bottleneck adapters do at the end of a sub-layer (`BottleneckLayer` of `adapters`): before, h (the sub-layer's
 * output) and its residual u are prepared as the first adapter wants it; then each adapter works on the result; then the
 * last one says how it meets u and the frozen LayerNorm again.
 */
import type { Tensor3D } from '@tensorflow/tfjs-core'
import type { AdapterSetup, BnConfig } from '../config.ts'
import type { Bottleneck } from '../model/fused.ts'
import type { Matrix, Vector } from '../model/ops.ts'
import type { Var } from '../model/tape.ts'
import { downIndex, modulePath } from './bottleneckModules.ts'
import { compose, firstOf, lastOf, namesIn, type Place } from './composition.ts'
import { fuse, fusionKey } from './fusion.ts'
import { meanGate } from './gate.ts'
import type { Ending, FrozenNorm, SublayerSite, Walk } from './method.ts'
import { nonLinearity } from './nonLinearity.ts'
import { phm } from './phm.ts'

/** `nn.LayerNorm`'s own eps, which new norms have whatever the model's is. */
const ownEps = 1e-5

/** One sub-layer of the walk: where it is and which adapters have a module there. */
interface Here {
  walk: Walk
  site: SublayerSite
  norm: FrozenNorm
  /** The configuration of an adapter that stands here, else null. */
  configOf(name: string): BnConfig | null
}

/** What goes from adapter to adapter, [N,H] each, with rows of S tokens. */
interface State {
  x: Matrix
  u: Matrix
  /** The adapter's own residual, which `before` sets. */
  r: Matrix
  S: number
  /** The last adapter that was applied. */
  last: string | null
  /** Its up-projection, scaled, for a fusion. */
  up: (() => Matrix) | null
}

/** What an adapter adds: factor·o. */
interface Update {
  o: Matrix
  factor: number
}

/** A sub-layer's ending -> its output [B·S,H], with the active setup's bottlenecks. */
export function bottleneckSublayer(here: Here, ending: Ending): Matrix {
  const { walk, configOf } = here
  const { setup } = walk
  const names = namesIn(setup).filter((name) => configOf(name) !== null)
  if (setup === null || names.length === 0) return normOf(here, ending.sum())
  refuseGaps(here, setup)
  const alone = typeof setup === 'string' || (setup.type === 'Stack' && setup.children.includes(names[0]!))
  if (alone && names.length === 1) {
    const y = onlyOne(here, names[0]!, ending)
    if (y) return y
  }
  const [h, u] = [ending.h(), ending.u]
  const start: State = { x: h, u, r: u, S: walk.S, last: null, up: null }
  const { x, last } = compose(setup, start, walk.B, placeOf(here))
  return after(here, configOf(last!)!, x, h, u)
}

/**
 * The common case, one adapter whose result joins h and u before the LayerNorm: h + u is made once, for the norm before
 * and the sum behind. null when the adapter is not of that kind.
 */
function onlyOne(here: Here, name: string, ending: Ending): Matrix | null {
  const { walk, configOf } = here
  const { ops } = walk
  const config = configOf(name)!
  const { is_parallel, original_ln_before, original_ln_after, residual_before_ln, ln_after } = config
  if (!original_ln_after) return null
  if (!is_parallel && (residual_before_ln !== true || (ln_after && config.adapter_residual_before_ln)))
    return null
  const before = !is_parallel && original_ln_before ? here.norm : null
  const x = is_parallel ? ending.u : before ? null : ending.h()
  const sum = ending.sum()
  if (isPlain(here, config)) return plain(here, config, name, { x: x ?? sum, before, residual: sum })
  const input = x ?? normOf(here, sum)
  const raw = projected(here, config, name, input, walk.S)
  const { o, factor } = normed(here, config, name, gated(here, config, name, raw, input, walk.S))
  return normOf(here, ops.add(sum, o, factor))
}

/** Whether an adapter is two linear layers, an activation and a fixed factor, and nothing else in this walk. */
function isPlain({ walk, norm }: Here, config: BnConfig): boolean {
  const { phm_layer, ln_before, ln_after, use_gating, scaling, dropout, stochastic_depth } = config
  const drops = walk.ops.noise !== null && (dropout > 0 || (stochastic_depth > 0 && !config.is_parallel))
  const more = phm_layer || ln_before || ln_after || use_gating || typeof scaling !== 'number' || drops
  return !more && !norm.weight.trained && !norm.bias.trained
}

/** A plain adapter with the LayerNorms around it, as one operation. */
function plain(
  { walk, site, norm }: Here,
  config: BnConfig,
  name: string,
  parts: Pick<Bottleneck, 'x' | 'before' | 'residual'>,
): Matrix {
  const path = modulePath(walk.layer, site, name)
  const linear = (key: string) => ({
    weight: walk.parameter(`${path}.${key}.weight`),
    bias: walk.parameter<Vector>(`${path}.${key}.bias`),
  })
  return walk.ops.bottleneck({
    ...parts,
    down: linear(`adapter_down.${downIndex(config)}`),
    activation: nonLinearity(config.non_linearity),
    up: linear('adapter_up'),
    factor: config.scaling as number,
    after: norm,
  })
}

function placeOf(here: Here): Place<State> {
  const { ops } = here.walk
  const config = (name: string) => here.configOf(name)!
  const all = ({ x, u, r }: State, cut: (m: Matrix) => Matrix) => ({ x: cut(x), u: cut(u), r: cut(r) })
  return {
    what: 'bottleneck adapters',
    has: (name) => here.configOf(name) !== null,
    before: (name, state) => ({ ...state, ...before(here, config(name), state) }),
    single: (name, state) => single(here, config(name), name, state),
    rows: (state, start, count) => ({
      ...state,
      ...all(state, (m) => ops.slice(m, 0, start * state.S, count * state.S)),
    }),
    join: (parts, whole) => ({
      ...whole,
      x: ops.concat(parts.map(({ x }) => x), 0), // prettier-ignore
      last: parts.at(-1)!.last,
    }),
    average: (parts, weights) => ({
      ...parts[0]!,
      x: parts.slice(1).reduce((sum, { x }, i) => ops.add(sum, x, weights[i + 1]!), ops.scale(parts[0]!.x, weights[0]!)), // prettier-ignore
      last: parts.at(-1)!.last,
    }),
    fuse: (block, state) => fused(here, block, state),
    length: ({ S }) => S,
    tokens: (state, start, count) => ({
      ...state,
      ...all(state, (m) => tokensOf(here, m, state.S, start, count)),
      S: count,
    }),
    joinTokens: (parts, whole) => ({
      ...whole,
      x: joinedTokens(here, parts),
      last: parts.at(-1)!.last,
    }),
  }
}

/** What the adapter reads, and its own residual (`pre_forward`). */
function before(here: Here, config: BnConfig, { x, u }: Pick<State, 'x' | 'u'>): Pick<State, 'x' | 'r'> {
  const { ops } = here.walk
  if (config.is_parallel) return { x: u, r: u }
  if (!config.original_ln_before) return { x, r: x }
  const sum = ops.add(x, u)
  const input = normOf(here, sum)
  const r = config.residual_before_ln === true ? x : config.residual_before_ln === 'post_add' ? sum : input
  return { x: input, r }
}

/** One adapter on what `before` made (`forward`); a parallel one leaves its residual to `after`. */
function single(here: Here, config: BnConfig, name: string, state: State): State {
  const { ops } = here.walk
  const { x, r, S } = state
  const raw = projected(here, config, name, x, S)
  const part = gated(here, config, name, raw, x, S)
  const next = { ...state, last: name, up: () => ops.scale(raw.o, raw.factor) }
  if (config.is_parallel) {
    const { o, factor } = normed(here, config, name, part)
    return { ...next, x: ops.scale(o, factor) }
  }
  if (config.adapter_residual_before_ln) {
    const sum = { o: ops.add(r, part.o, part.factor), factor: 1 }
    return { ...next, x: normed(here, config, name, sum).o }
  }
  const { o, factor } = normed(here, config, name, part)
  return { ...next, x: ops.add(r, o, factor) }
}

/** The sub-layer's end (`post_forward`), as the adapter that came last has it. */
function after(here: Here, config: BnConfig, x: Matrix, h: Matrix, u: Matrix): Matrix {
  const { ops } = here.walk
  const y = config.is_parallel ? ops.add(x, h) : x
  return config.original_ln_after ? normOf(here, ops.add(y, u)) : y
}

/** Up(act(Down(x))), its depth dropped by chance, times what is learned of the scale; the rest is the factor. */
function projected(here: Here, config: BnConfig, name: string, x: Matrix, S: number): Update {
  const { walk, site } = here
  const { ops } = walk
  const path = modulePath(walk.layer, site, name)
  const linear = (key: string, position: 'down' | 'up', input: Matrix) =>
    config.phm_layer
      ? phm(walk, config, name, `${path}.${key}`, position, input)
      : ops.linear(
          input,
          walk.parameter(`${path}.${key}.weight`),
          walk.parameter<Vector>(`${path}.${key}.bias`),
        )
  const input = config.ln_before ? ownNorm(here, `${path}.adapter_norm_before`, x) : x
  const down = linear(`adapter_down.${downIndex(config)}`, 'down', input)
  let up = linear('adapter_up', 'up', ops.activation(nonLinearity(config.non_linearity), down))
  if (!config.is_parallel) up = dropRows(walk, up, S, config.stochastic_depth)
  if (typeof config.scaling === 'number') return { o: up, factor: config.scaling }
  return { o: ops.mul(up, walk.parameter<Vector>(`${path}.scaling`)), factor: 1 }
}

/** What `projected` made of x, behind dropout and gate. */
function gated(
  here: Here,
  config: BnConfig,
  name: string,
  { o, factor }: Update,
  x: Matrix,
  S: number,
): Update {
  const { walk, site } = here
  const { ops } = walk
  const dropped = ops.dropout(o, config.dropout)
  if (!config.use_gating) return { o: dropped, factor }
  const path = `${modulePath(walk.layer, site, name)}.gate`
  const B = x.shape[0] / S
  const gate = meanGate(ops, x, walk.parameter(`${path}.weight`), walk.parameter<Vector>(`${path}.bias`), B)
  return { o: ops.timesGate(dropped, gate), factor }
}

/** The adapter's LayerNorm behind it, where it has one. */
function normed(here: Here, config: BnConfig, name: string, { o, factor }: Update): Update {
  if (!config.ln_after) return { o, factor }
  const { walk, site } = here
  const path = `${modulePath(walk.layer, site, name)}.adapter_norm_after`
  return { o: ownNorm(here, path, walk.ops.scale(o, factor)), factor: 1 }
}

/** Stochastic depth by rows (torchvision): a text keeps its update, over 1 - rate, or loses it; in training alone. */
function dropRows(walk: Walk, x: Matrix, S: number, rate: number): Matrix {
  if (rate <= 0 || !walk.ops.noise) return x
  const B = x.shape[0] / S
  const ones = walk.constant<Var<Tensor3D>>(new Float32Array(B).fill(1), [B, 1, 1])
  return walk.ops.timesGate(x, walk.ops.dropout(ones, rate))
}

/** AdapterFusion: the last member says what all of them read, and what is asked. */
function fused(here: Here, block: Extract<AdapterSetup, { type: 'Fuse' }>, state: State): State {
  const { walk, site, configOf } = here
  const last = lastOf(block)
  const config = configOf(last)!
  const key = fusionKey(block)
  const { x, r } = before(here, config, state)
  const within: State = { ...state, x, r, up: null }
  const B = x.shape[0] / state.S
  const ups = block.children.flatMap((child) => {
    if (typeof child === 'string') {
      const own = configOf(child)
      if (!own) return []
      const { o, factor } = projected(here, own, child, x, state.S)
      return [walk.ops.scale(o, factor)]
    }
    return compose(child, within, B, placeOf(here)).up?.() ?? []
  })
  const query = config.is_parallel ? state.u : walk.fusion(key).query_before_ln ? state.x : x
  return { ...within, x: fuse(walk, site, key, { query, ups, residual: r }), last }
}

/** `count` tokens of every row from `start`: [B·S,H] -> [B·count,H]. */
function tokensOf({ walk: { ops } }: Here, x: Matrix, S: number, start: number, count: number): Matrix {
  const [N, H] = x.shape
  const cut = ops.slice(ops.reshape<Tensor3D>(x, [N / S, S, H]), 1, start, count)
  return ops.reshape<Matrix['tensor']>(cut, [(N / S) * count, H])
}

function joinedTokens({ walk: { ops } }: Here, parts: State[]): Matrix {
  const joined = ops.concat(
    parts.map(({ x, S }) => ops.reshape<Tensor3D>(x, [x.shape[0] / S, S, x.shape[1]])),
    1,
  )
  const [B, S, H] = joined.shape
  return ops.reshape<Matrix['tensor']>(joined, [B * S, H])
}

function normOf({ walk, norm }: Here, x: Matrix): Matrix {
  return walk.ops.layerNorm(x, norm.weight, norm.bias, norm.eps)
}

function ownNorm({ walk }: Here, path: string, x: Matrix): Matrix {
  const weight = walk.parameter<Vector>(`${path}.weight`)
  return walk.ops.layerNorm(x, weight, walk.parameter<Vector>(`${path}.bias`), ownEps)
}

/**
 * Blocks other than Stack need a module of each of their parts where one of them has one: the library fails there with a
 * missing key. A fusion needs its last member's alone.
 */
function refuseGaps(here: Here, setup: AdapterSetup): void {
  if (typeof setup === 'string') return
  if (setup.type !== 'Stack' && namesIn(setup).some((name) => here.configOf(name) !== null)) {
    const needed = setup.type === 'Fuse' ? [lastOf(setup)] : setup.children.flatMap((child) => [firstOf(child), lastOf(child)]) // prettier-ignore
    const absent = needed.find((name) => here.configOf(name) === null)
    if (absent !== undefined)
      throw new Error(
        `The adapter “${absent}” has no bottleneck in layer ${here.walk.layer} (${here.site}), which ${setup.type} needs there because another of its adapters has one.`,
      )
  }
  setup.children.forEach((child) => refuseGaps(here, child))
}
