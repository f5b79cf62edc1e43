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

/**
 * What `adapter` needs on a batch of B rows of S tokens, with a classification head of `labels` classes: every token through
 * every layer, as the model is written down. `floor`: of the last layer only what the head's one token takes.
 */
export function need(shape: Shape, adapter: AdapterConfig, labels: number, floor = false): Need {
  const parts = partsOf(adapter)
  const sum = new Sum()
  const { config, B } = shape
  const H = config.hidden_size
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const top = floor && layer === config.num_hidden_layers - 1
    layerNeed(sum, shape, parts, layer, top ? B : B * shape.S)
  }
  if (parts.prefix) prefixNetwork(sum, shape, parts.prefix)
  sum.linear(B, H, H, true, !parts.frozen)
  sum.linear(B, H, labels, true, true)
  return { forward: sum.forward, backward: sum.backward }
}

/** One layer; `rows`: how many are needed above its keys and values. */
function layerNeed(sum: Sum, shape: Shape, parts: Parts, layer: number, rows: number): void {
  const { config, B, S } = shape
  const { hidden_size: H, intermediate_size: I } = config
  const { full, frozen, bottleneck, lora, prefix } = parts
  const N = B * S
  /** Whether a gradient must reach the layer's input, and what the attention's results are made of. */
  const down = !frozen && (layer > 0 || full)
  const within = { q: down || lora !== null, k: down, v: down || lora !== null }
  const attends = within.q || within.k || within.v || prefix !== null
  for (const count of [rows, N, N]) sum.linear(count, H, H, full, down)
  for (const count of lora ? [rows, N] : []) {
    sum.linear(count, H, lora!.r, true, down)
    sum.linear(count, lora!.r, H, true, true)
    if (lora!.use_gating) sum.linear(count, H, 1, true, down)
  }
  const P = prefix?.prefix_length ?? 0
  if (prefix?.use_gating) sum.linear(N, H, 2, true, down)
  attention(sum, rows, S, P, H, within)
  // A gradient passes the feed-forward part where something below it trains; a bottleneck stands behind or beside it.
  sum.linear(rows, H, H, full, attends)
  sum.linear(rows, H, I, full, attends)
  sum.linear(rows, I, H, full, attends)
  if (!bottleneck) return
  const R = Math.floor(H / (bottleneck.reduction_factor as number))
  sum.linear(rows, H, R, true, attends)
  sum.linear(rows, R, H, true, true)
  if (bottleneck.use_gating) sum.linear(rows, H, 1, true, attends)
}

/** q·kᵀ and p·v of N queries over P + S keys; back, the scores once more and one product for every gradient. */
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
