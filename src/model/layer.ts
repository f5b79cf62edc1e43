/** One encoder layer (transformers `RobertaLayer`, post-LN) with the places where methods stand. */
import type { FrozenNorm, SublayerSite } from '../methods/method.ts'
import type { Activation } from '../kernels/activations.ts'
import { linearAt, selfAttention } from './attention.ts'
import type { Matrix } from './ops.ts'
import type { Layer } from './roberta.ts'
import type { ModelWalk } from './walk.ts'

/** x [B·S,H] -> the next x [B·S,H]. Each half is a scope of its own, so that what only it needs is freed early. */
export function forwardLayer(walk: ModelWalk, layer: Layer, x: Matrix): Matrix {
  const { tape } = walk.ops
  const y = tape.scope(() => attended(walk, layer.attention, x))
  const next = tape.scope(() => fedForward(walk, layer, y))
  tape.release(y)
  const changed = walk.place('layerOutput')?.(walk, next)
  if (changed && changed !== next) tape.release(next)
  return changed ?? next
}

function attended(walk: ModelWalk, { self, output }: Layer['attention'], x: Matrix): Matrix {
  const { ops, base } = walk
  const o = ops.tape.scope(() => selfAttention(walk, self, x))
  const a = ops.linear(o, output.dense.weight, output.dense.bias)
  return sublayer(walk, 'attention.output', ops.dropout(a, base.hidden_dropout_prob), x, output.LayerNorm)
}

function fedForward(walk: ModelWalk, { intermediate, output }: Layer, y: Matrix): Matrix {
  const { ops, base } = walk
  const h = ops.tape.scope(() =>
    ops.activation(base.hidden_act as Activation, linearAt(walk, 'intermediate', y, intermediate.dense)),
  ) // [B·S,I]
  const f = linearAt(walk, 'output', h, output.dense) // [B·S,H]
  return sublayer(walk, 'output', ops.dropout(f, base.hidden_dropout_prob), y, output.LayerNorm)
}

/** LN(h + u), or what an adapter at this place makes of both: [B·S,H]. */
function sublayer(walk: ModelWalk, site: SublayerSite, h: Matrix, u: Matrix, norm: FrozenNorm): Matrix {
  const adapter = walk.place('sublayer')
  if (adapter) return adapter(walk, site, h, u, norm)
  return walk.ops.layerNorm(walk.ops.add(h, u), norm.weight, norm.bias, norm.eps)
}
