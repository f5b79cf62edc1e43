/**
 * What an adapter method is: plain facts about its tensors, and what it does where the walk through the model offers it
 * a place. One file a method, one line in registry.ts; nothing here runs, and methods import no tfjs.
 */
import type { AdapterConfig, AdapterSetup, FusionConfig, RobertaConfig, TensorMap } from '../config.ts'
import type { Heads, Matrix, Ops, Vector } from '../model/ops.ts'
import type { Var } from '../model/tape.ts'
import type { TorchGenerator } from '../random.ts'
import type { Gate } from './gate.ts'

/** One tensor of an adapter, by its key in the library's files. */
export interface Parameter {
  key: string
  shape: number[]
  /** `buffer`: saved but no parameter (never trained, never counted). `idle`: counted, but out of the path: no gradient. */
  role?: 'buffer' | 'idle'
  /** The key under which the library's files hold the same tensor a second time. */
  alias?: string
}

/** A field of a configuration as a form and a parser need it. */
export interface Field {
  key: string
  kind: 'number' | 'integer' | 'switch' | 'choice' | 'layers' | 'factor' | 'matrices' | 'text'
  /** A few words for the form. */
  label: string
  /** One sentence: what it does. */
  help: string
  min?: number
  max?: number
  /** Values of a `choice`, in JSON: numbers, strings, booleans or null; of a number, words that may stand in its place. */
  choices?: (string | number | boolean | null)[]
  /** Shown among the first fields of the form; the rest wait behind “more”. */
  first?: boolean
}

/** A frozen linear layer that a method may change: its key without `.weight`, and its tensors. */
export interface FrozenLinear {
  weight: Matrix // [out,in]
  bias: Vector // [out]
}

/** What LoRA adds to a linear layer: factor·B·A·x; a gate, where there is one, takes the place of the factor, then 1. */
export interface LowRank {
  A: Matrix // [r,in]
  B: Matrix // [out,r]
  factor: number
  /** From the layer's input x [B·S,in]. */
  gate: ((x: Matrix) => Gate) | null
}

/** What prefix tuning puts before the keys and values of a layer. */
export interface Prefix {
  /** Of P positions the keys and values of all layers, of which this layer's keys and values begin at column `first`. */
  pool: Matrix // [P,2·layers·H]
  first: number
  /** What each text multiplies them by, from the attention's input x [B·S,H]; null: nothing. */
  gate: ((x: Matrix) => Gate) | null
}

export type LinearSite = 'query' | 'key' | 'value' | 'intermediate' | 'output'
export type SublayerSite = 'attention.output' | 'output'

/** What a method sees of one walk, at the layer where it stands. */
export interface Walk {
  ops: Ops
  base: RobertaConfig
  /** The layer from 0; -1 in the embeddings. */
  layer: number
  /** Rows and tokens of the batch as they are now: Parallel multiplies B, prompts lengthen S. */
  B: number
  S: number
  /** Keys that are hidden before those that are seen, and behind: int32 [B,2], or [B·S,2] where queries see different ones. */
  padding: Matrix
  /** Index of each row's first token and how many it has, without prompts: host numbers, [B] each. */
  first: Int32Array
  lengths: Int32Array
  /** What is active here; null in a layer that is passed by. */
  setup: AdapterSetup | null
  /** The configuration (of a union: the first child that `fits`) with which adapter `name` takes part in `method`. */
  config<C extends AdapterConfig>(method: Method<C>, name: string, fits?: (config: C) => boolean): C | null
  fusion(key: string): FusionConfig
  /** A parameter of an adapter or fusion by key. Throws when it was never loaded. */
  parameter<T extends Var = Matrix>(key: string): T
  /** Host numbers as a constant of this pass. */
  constant<T extends Var = Matrix>(values: ArrayLike<number>, shape: number[], dtype?: 'float32' | 'int32'): T
  /** The value under `key`, made on the first call of this walk: for what all layers share. */
  once<T extends Var>(key: string, make: () => T): T
}

/** What fresh adapters are made from. */
export interface Start {
  /** Seeded once for the run; adapters and heads draw from it one after another. */
  generator: TorchGenerator
  base: RobertaConfig
  /** A weight of the base by its checkpoint key (`roberta.…`), for the few methods that start from one. */
  weight(key: string): Promise<Float32Array>
  /** Token ids of a text without `<s>` and `</s>`. */
  tokens(text: string): number[]
}

/** An adapter method of the `adapters` library. All but the first five members are its places in the walk. */
export interface Method<C extends AdapterConfig = AdapterConfig> {
  architecture: C['architecture']
  /** Every field with the library's default. */
  defaults: C
  fields: Field[]
  /** Sentences on values that cannot work on this base; empty when all can. `base` null: not known yet. */
  problems(config: C, base: RobertaConfig | null): string[]
  /** Key and shape of every tensor, in the order in which the library creates them. */
  parameters(base: RobertaConfig, config: C, name: string): Parameter[]
  /** Values of a fresh adapter, draw for draw the library's. */
  initialise(start: Start, config: C, name: string): TensorMap | Promise<TensorMap>

  /** Embeddings [B·S,H] -> [B'·S',H]; sets B, S and the padding of the walk when it changes them. */
  embeddings?(walk: Walk, x: Matrix): Matrix
  /** Whether `linear` does anything there at this layer; elsewhere the frozen layer is alone, which is faster. */
  changes?(walk: Walk, site: LinearSite): boolean
  /** x [N,in] -> [N,out], the frozen layer included. */
  linear?(walk: Walk, site: LinearSite, x: Matrix, frozen: FrozenLinear): Matrix
  /** What `linear` adds to the frozen layer, if that is all it does there, so that layers of one x are made together. */
  lowRank?(walk: Walk, site: LinearSite): LowRank | undefined
  /** Keys and values [B,N,S,D] of a layer -> [B,N,P+S,D] and their padding, given the attention's input x [B·S,H]. */
  keyValues?(walk: Walk, x: Matrix, k: Heads, v: Heads): { k: Heads; v: Heads; padding: Matrix }
  /** What `keyValues` puts in front, if that is all it does there: null where that is nothing, undefined where it is not. */
  prefix?(walk: Walk): Prefix | null | undefined
  /** A sub-layer's ending -> its output [N,H], its LayerNorm included. */
  sublayer?(walk: Walk, site: SublayerSite, ending: Ending, norm: FrozenNorm): Matrix
  /** A layer's output [N,H] -> [N,H]. */
  layerOutput?(walk: Walk, x: Matrix): Matrix
  /** Before a masked-LM head's decoder: [M,H] -> [M,H] (the inverse of an invertible adapter). */
  beforeDecoder?(walk: Walk, x: Matrix): Matrix
}

/**
 * What meets at the end of a sub-layer, [N,H] each: its residual u, and h, which comes from its dense layer and dropout.
 * Ask for h before the sum if both are needed; the sum alone costs no more than h.
 */
export interface Ending {
  u: Matrix
  h(): Matrix
  /** h + u */
  sum(): Matrix
}

/** A sub-layer's own frozen LayerNorm. */
export interface FrozenNorm {
  weight: Vector
  bias: Vector
  eps: number
}

/** A named, ready configuration, as the library's strings name them. */
export interface Preset {
  /** The library's string, `seq_bn`. */
  name: string
  /** For people: “Bottleneck”, “LoRA”. */
  title: string
  /** One sentence in plain words. */
  help: string
  config: AdapterConfig
}
