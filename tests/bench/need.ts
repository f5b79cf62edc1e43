/**
 * The arithmetic that one batch calls for, in floating-point operations of its matrix products (2 for a multiplication
 * and an addition; everything else is under a percent): forward, and back to what is trained and no further. A frozen
 * weight gets no gradient, and attention computes its scores once more on the way back, since nobody keeps them.
 */
import type {
  AdapterConfig,
  BnConfig,
  LoRAConfig,
  PrefixTuningConfig,
  RobertaConfig,
} from '../../src/config.ts'

export interface Need {
  forward: number
  backward: number
}

export interface Shape {
  config: RobertaConfig
  B: number
  S: number
}

/** One adapter, taken apart into what stands in every layer. */
interface Parts {
  bottleneck: BnConfig | null
  lora: LoRAConfig | null
  prefix: PrefixTuningConfig | null
  /** Every weight of the base trains. */
  full: boolean
  /** Nothing below the head trains. */
  frozen: boolean
}

/** What `adapter` needs on a batch of B rows of S tokens, with a classification head of `labels` classes. */
export function need(shape: Shape, adapter: AdapterConfig, labels: number): Need {
  const parts = partsOf(adapter)
  const sum = new Sum()
  const { config, B } = shape
  const H = config.hidden_size
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const lowest = layer === 0 && !parts.full
    layerNeed(sum, shape, parts, lowest)
  }
  if (parts.prefix) prefixNetwork(sum, shape, parts.prefix)
  sum.linear(B, H, H, true, !parts.frozen)
  sum.linear(B, H, labels, true, true)
  return { forward: sum.forward, backward: sum.backward }
}

function layerNeed(sum: Sum, shape: Shape, parts: Parts, lowest: boolean): void {
  const { config, B, S } = shape
  const { hidden_size: H, intermediate_size: I } = config
  const N = B * S
  const { full, frozen, bottleneck, lora, prefix } = parts
  /** Whether a gradient must reach the layer's input, and what the attention's results are made of. */
  const down = !frozen && !lowest
  const within = { q: down || lora !== null, k: down, v: down || lora !== null }
  const attends = within.q || within.k || within.v || prefix !== null
  for (let i = 0; i < 3; i++) sum.linear(N, H, H, full, down)
  for (let i = 0; lora && i < 2; i++) {
    sum.linear(N, H, lora.r, true, down)
    sum.linear(N, lora.r, H, true, true)
    if (lora.use_gating) sum.linear(N, H, 1, true, down)
  }
  const P = prefix?.prefix_length ?? 0
  if (prefix?.use_gating) sum.linear(N, H, 2, true, down)
  attention(sum, N, S, P, H, within)
  // A gradient passes the feed-forward part where something below it trains; a bottleneck stands behind it.
  sum.linear(N, H, H, full, attends)
  const parallel = bottleneck?.is_parallel === true
  sum.linear(N, H, I, full, attends)
  sum.linear(N, I, H, full, attends)
  if (!bottleneck) return
  const R = Math.floor(H / (bottleneck.reduction_factor as number))
  // Its input hangs on what trains below: the attention, or, behind the feed-forward part, all of this layer.
  const input = parallel ? attends : attends || lora !== null
  sum.linear(N, H, R, true, input)
  sum.linear(N, R, H, true, true)
  if (bottleneck.use_gating) sum.linear(N, H, 1, true, input)
}

/** q·kᵀ and p·v over S queries and P + S keys; back, the scores once more and one product for every gradient. */
function attention(
  sum: Sum,
  N: number,
  S: number,
  P: number,
  H: number,
  { q, k, v }: { q: boolean; k: boolean; v: boolean },
): void {
  sum.add(4 * N * (S + P) * H, 0)
  const one = 2 * N * H
  const own = S * (Number(q || k || v) + Number(q || k) + Number(q) + Number(k) + Number(v))
  // A prefix's keys and values are trained whatever lies below.
  const prefix = P * (4 + Number(q))
  sum.add(0, one * (own + prefix))
}

/** The network that makes all prefixes from their embeddings, once for a batch. */
function prefixNetwork(
  sum: Sum,
  { config }: Shape,
  { prefix_length: P, bottleneck_size: R }: PrefixTuningConfig,
): void {
  const { hidden_size: H, num_hidden_layers: L } = config
  sum.linear(P, H, R, true, true)
  sum.linear(P, R, 2 * L * H, true, true)
}

class Sum {
  forward = 0
  backward = 0

  add(forward: number, backward: number): void {
    this.forward += forward
    this.backward += backward
  }

  /** x [rows,inputs]·weightᵀ; `trains`: the weight gets a gradient; `down`: x does. */
  linear(rows: number, inputs: number, outputs: number, trains: boolean, down: boolean): void {
    const one = 2 * rows * inputs * outputs
    this.add(one, one * (Number(trains) + Number(down)))
  }
}

function partsOf(adapter: AdapterConfig): Parts {
  const children: AdapterConfig[] = adapter.architecture === 'union' ? adapter.configs : [adapter]
  const find = <C extends AdapterConfig>(architecture: C['architecture']) =>
    (children.find((child) => child.architecture === architecture) as C | undefined) ?? null
  return {
    bottleneck: find<BnConfig>(null),
    lora: find<LoRAConfig>('lora'),
    prefix: find<PrefixTuningConfig>('prefix_tuning'),
    full: adapter.architecture === 'full',
    frozen: adapter.architecture === 'head',
  }
}
