/** One walk through the model: what methods see of it (`Walk` in methods/method.ts), and which of them take part. */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterConfig, FusionConfig, ModelSetup, RobertaConfig } from '../config.ts'
import { namesIn, replicas } from '../methods/composition.ts'
import type { LinearSite, Method, Walk } from '../methods/method.ts'
import { childConfigs, methodOf } from '../methods/registry.ts'
import type { Batch } from './batch.ts'
import { Ops, type Matrix } from './ops.ts'
import { constant, Tape, Var } from './tape.ts'

/** Dropout of one forward and backward pass. */
export interface Noise {
  seed: number
  /** Differs for every pass of a run. */
  call: number
  /** The base model drops too; otherwise only head and adapters do. */
  base: boolean
}

/** What a training pass gives for memory and for speed; evaluation gives nothing. */
export interface Saving {
  /** Each layer's activations are made again on the way down: a third more work. */
  recompute: boolean
  /** Activations wait for the way down in half precision: about three digits of each gradient. */
  halves: boolean
  /** Frozen matrices are multiplied in half precision where the device can: about three digits of each product. */
  inHalf: boolean
}

export const keepsAll: Saving = { recompute: false, halves: false, inHalf: false }

type Place = Extract<
  keyof Method,
  'embeddings' | 'linear' | 'lowRank' | 'keyValues' | 'prefix' | 'sublayer' | 'layerOutput' | 'beforeDecoder'
>

export class ModelWalk implements Walk {
  readonly tape: Tape
  readonly ops: Ops
  readonly base: RobertaConfig
  layer = -1
  B: number
  S: number
  padding: Matrix
  first: Int32Array
  lengths: Int32Array
  /** Tokens of the text's own rows, padding included; S is larger when a prompt stands in front. */
  readonly textLength: number
  /** How often the batch stands one after another, for Parallel. */
  readonly replicas: number
  readonly #methods: Method[]
  readonly #once = new Map<string, Var>()

  constructor(
    config: RobertaConfig,
    readonly model: { setup: ModelSetup; vars: ReadonlyMap<string, Var> },
    batch: Batch,
    noise: Noise | null,
    /** Gradients will be asked for. */
    learns: boolean,
    /** An adapter that is passed by, to see what it does; null: none. */
    readonly without: string | null = null,
    readonly saving: Saving = keepsAll,
  ) {
    this.tape = new Tape({ records: learns, halves: saving.halves, inHalf: saving.inHalf })
    this.ops = new Ops(this.tape, noise)
    this.base = noise && !noise.base ? quiet(config) : config
    const { active, adapters } = model.setup
    const k = (this.replicas = replicas(active))
    this.B = batch.B * k
    this.S = this.textLength = batch.S
    const again = (rows: Int32Array) =>
      Int32Array.from({ length: k * rows.length }, (_, i) => rows[i % rows.length]!)
    this.first = again(batch.first)
    this.lengths = again(batch.lengths)
    this.padding = constant(k === 1 ? batch.padding : tf.tile(batch.padding, [k, 1]))
    const configs = namesIn(active).flatMap((name) => {
      const config = adapters[name]
      if (!config) throw new Error(`The adapter “${name}” is active, but it was never loaded.`)
      return childConfigs(config)
    })
    this.#methods = [...new Set(configs.map(methodOf))]
  }

  get setup(): ModelSetup['active'] {
    return this.model.setup.skip_layers.includes(this.layer) ? null : this.model.setup.active
  }

  /** What an active method does at a place of the model, or undefined where none does anything. */
  place<P extends Place>(place: P): Method[P] | undefined {
    if (this.setup === null) return undefined
    return this.#methods.find((method) => method[place] !== undefined)?.[place]
  }

  /** Whether an active method does anything to a linear layer of the present layer. */
  changes(site: LinearSite): boolean {
    return this.setup !== null && this.#methods.some((method) => method.changes?.(this, site) ?? false)
  }

  config<C extends AdapterConfig>(
    { architecture }: Method<C>,
    name: string,
    fits: (config: C) => boolean = () => true,
  ): C | null {
    const config = name === this.without ? undefined : this.model.setup.adapters[name]
    if (!config) return null
    const children = childConfigs(config).filter(
      (child) => methodOf(child).architecture === architecture,
    ) as C[]
    return children.find(fits) ?? null
  }

  fusion(key: string): FusionConfig {
    const config = this.model.setup.fusions[key]
    if (!config) throw new Error(`The fusion “${key}” is active, but it was never loaded.`)
    return config
  }

  parameter<T extends Var = Matrix>(key: string): T {
    const found = this.model.vars.get(key)
    if (!found) throw new Error(`The adapter tensor ${key} was never loaded.`)
    return found as unknown as T
  }

  constant<T extends Var = Matrix>(
    values: ArrayLike<number>,
    shape: number[],
    dtype: 'float32' | 'int32' = 'float32',
  ): T {
    const host = dtype === 'int32' ? Int32Array.from(values) : Float32Array.from(values)
    return new Var(tf.tensor(host, shape, dtype), false, false) as unknown as T
  }

  once<T extends Var>(key: string, make: () => T): T {
    const made = this.#once.get(key) ?? this.tape.apart(make)
    if (!this.#once.has(key)) {
      this.#once.set(key, made)
      tf.keep(made.tensor)
    }
    return made as T
  }

  /** Frees what this walk still holds. */
  dispose(): void {
    this.tape.dispose()
    for (const { tensor, leaf } of this.#once.values()) if (!leaf) tensor.dispose()
    this.#once.clear()
  }
}

/** The configuration without the base's own dropout; the head keeps the rate it would have had. */
function quiet(config: RobertaConfig): RobertaConfig {
  const classifier_dropout = config.classifier_dropout ?? config.hidden_dropout_prob
  return { ...config, classifier_dropout, hidden_dropout_prob: 0, attention_probs_dropout_prob: 0 }
}
