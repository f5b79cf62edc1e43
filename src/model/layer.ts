/** One encoder layer (transformers `RobertaLayer`, post-LN) with the places where methods stand. */
import type { Ending, FrozenNorm, SublayerSite } from '../methods/method.ts'
import type { Activation } from '../kernels/activations.ts'
import { linearAt, selfAttention } from './attention.ts'
import type { Matrix } from './ops.ts'
import type { Layer } from './roberta.ts'
import type { ModelWalk } from './walk.ts'

/**
 * x [B·S,H] -> the next x [B·S,H]; where only the first token of each text is `read` of it, [B,H], and the walk's rows
 * have one token from then on. Each half is a scope of its own, so that what only it needs is freed early.
 */
export function forwardLayer(walk: ModelWalk, layer: Layer, x: Matrix, read = false): Matrix {
  const { tape } = walk.ops
  const y = tape.scope(() => attended(walk, layer.attention, x, read))
  const next = tape.scope(() => fedForward(walk, layer, y))
  tape.release(y)
  const changed = walk.place('layerOutput')?.(walk, next)
  if (changed && changed !== next) tape.release(next)
  return changed ?? next
}

function attended(walk: ModelWalk, { self, output }: Layer['attention'], x: Matrix, read: boolean): Matrix {
  const { ops, base, B } = walk
  const { weight, bias } = output.dense
  const all = ops.tape.scope(() => selfAttention(walk, self, x))
  const [o, u] = read ? [ops.firstToken(all, B), ops.firstToken(x, B)] : [all, x]
  if (read) walk.S = 1
  const dense = (residual: Matrix | null) => {
    const h = ops.linear(o, weight, bias, { rate: base.hidden_dropout_prob, residual })
    ops.tape.release(o)
    return h
  }
  return sublayer(walk, 'attention.output', new Joining(walk, dense, u), output.LayerNorm)
}

function fedForward(walk: ModelWalk, { intermediate, output }: Layer, y: Matrix): Matrix {
  const { ops, base } = walk
  const { hidden_act, hidden_dropout_prob: rate } = base
  const act = hidden_act as Activation
  const changed = { up: walk.changes('intermediate'), down: walk.changes('output') }
  const dense = (residual: Matrix | null) => {
    const parts = { up: intermediate.dense, down: output.dense }
    if (!changed.up && !changed.down) return ops.feedForward(act, y, parts, { rate, residual })
    const u = linearAt(walk, 'intermediate', y, intermediate.dense) // [B·S,I]
    if (!changed.down) {
      const { weight, bias } = output.dense
      const h = ops.activatedLinear(act, u, weight, bias, { rate, residual })
      ops.tape.release(u)
      return h
    }
    const h = ops.tape.scope(() => ops.activation(act, u))
    const f = ops.dropout(linearAt(walk, 'output', h, output.dense), rate) // [B·S,H]
    return residual ? ops.add(f, residual) : f
  }
  return sublayer(walk, 'output', new Joining(walk, dense, y), output.LayerNorm)
}

/** h made alone, or with u added in the same product, whichever is asked for first. */
class Joining implements Ending {
  #h: Matrix | null = null
  #sum: Matrix | null = null

  constructor(
    private readonly walk: ModelWalk,
    private readonly dense: (residual: Matrix | null) => Matrix,
    readonly u: Matrix,
  ) {}

  h(): Matrix {
    if (this.#sum && !this.#h) throw new Error('h was asked for after h + u had been made without it.')
    return (this.#h ??= this.dense(null))
  }

  sum(): Matrix {
    return (this.#sum ??= this.#h ? this.walk.ops.add(this.#h, this.u) : this.dense(this.u))
  }
}

/** LN(h + u), or what an adapter at this place makes of both: [B·S,H]. */
function sublayer(walk: ModelWalk, site: SublayerSite, ending: Ending, norm: FrozenNorm): Matrix {
  const adapter = walk.place('sublayer')
  if (adapter) return adapter(walk, site, ending, norm)
  return walk.ops.layerNorm(ending.sum(), norm.weight, norm.bias, norm.eps)
}
