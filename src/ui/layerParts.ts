/** The parts of one RoBERTa layer from the bottom up, with their parameter counts and what the adapter adds to each. */
import type { AdapterConfig, RobertaConfig } from '../protocol.ts'

export interface Part {
  name: string
  params: number
  trained: boolean
  /** Trained parameters on a path beside this frozen part: LoRA's two thin matrices. */
  beside: number
}

/** Parts at one height; those of one row work side by side on the same input. */
export interface Row {
  parts: Part[]
  /** Row whose input is added to this row's result: 0 is the lowest, null for none. */
  adds: number | null
}

export interface LayerParts {
  rows: Row[]
  frozen: number
  trained: number
  /** Layers of the model that get no adapter. */
  without: number
}

function part(name: string, params: number, beside = 0): Part {
  return { name, params, trained: false, beside }
}

/** A row of one part. */
function single(only: Part, adds: number | null = null): Row {
  return { parts: [only], adds }
}

/** Parts of a layer that carries the adapter, after `RobertaLayer` and the library's `seq_bn` and `lora`. */
export function partsOf(config: RobertaConfig, adapter: AdapterConfig): LayerParts {
  const { hidden_size: H, intermediate_size: I, num_hidden_layers: L } = config
  const lora = adapter.method === 'lora' ? adapter : null
  const r = lora?.r ?? 0
  const attention = (matrix: 'q' | 'k' | 'v'): number =>
    lora?.selfattn_lora && lora.attn_matrices.includes(matrix) ? r * 2 * H : 0
  const square = H * H + H
  const rows = [
    {
      parts: [
        part('query', square, attention('q')),
        part('key', square, attention('k')),
        part('value', square, attention('v')),
      ],
      adds: null,
    },
    single(part('attention output', square)),
    single(part('add, LayerNorm', 2 * H), 0),
    single(part('feed-forward, up', H * I + I, lora?.intermediate_lora ? r * (H + I) : 0)),
    single(part('feed-forward, down', I * H + H, lora?.output_lora ? r * (H + I) : 0)),
  ]
  if (adapter.method === 'seq_bn') {
    const width = Math.max(Math.floor(H / adapter.reduction_factor), 1)
    const params = 2 * H * width + width + H
    const bottleneck = { name: `adapter ${H} → ${width} → ${H}`, params, trained: true, beside: 0 }
    rows.push(single(bottleneck, rows.length))
  }
  rows.push(single(part('add, LayerNorm', 2 * H), 3))
  const parts = rows.flatMap((row) => row.parts)
  const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0)
  return {
    rows,
    frozen: sum(parts.map(({ params, trained }) => (trained ? 0 : params))),
    trained: sum(parts.map(({ params, trained, beside }) => beside + (trained ? params : 0))),
    without: adapter.method === 'head' ? L : adapter.leave_out.filter((layer) => layer < L).length,
  }
}
