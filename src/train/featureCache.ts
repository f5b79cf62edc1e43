/**
 * Features: what the layers below everything that trains make of a text. They are the same in every epoch while the
 * base's own dropout is off, so they are computed once for a run, and later passes begin above those layers. A head alone
 * needs one vector of each text; with trained layers above, all hidden states of its own tokens are kept. Hidden words
 * are drawn anew for every batch, so masked-LM batches begin with their ids.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { Targets } from '../config.ts'
import { uploadTensor } from '../kernels/backend.ts'
import { onGpu } from '../kernels/program.ts'
import { settledLayers } from '../methods/settledLayers.ts'
import { extents, uploadBatch, type HostBatch } from '../model/batch.ts'
import { readingOf, type Reading } from '../model/heads/reading.ts'
import { lowerLayers, type Model } from '../model/model.ts'
import type { TrainingArguments } from '../trainingArguments.ts'
import { KeptRows, type RowRoom } from './keptRows.ts'

/** One text of a batch. */
interface Row {
  /** The text itself: equal texts have equal features, in whichever split. */
  key: string
  /** Numbers that are kept of it, and where they begin in its part of the batch's features. */
  count: number
  offset: number
}

/** Which features of a text a run keeps. */
export interface Features {
  /** Layers that are computed once for a text. */
  layers: number
  /** Of the last hidden state only this vector is kept; null: the hidden states after `layers` layers. */
  reading: Reading | null
}

/**
 * What a run keeps; null where nothing can be kept: the base drops, or what trains or changes by chance stands in the
 * lowest layer or below. `random`: AdapterDrop draws its layers.
 */
export function featuresOf(
  { roberta, setup }: Model,
  { base_dropout }: TrainingArguments,
  random: boolean,
): Features | null {
  const { num_hidden_layers, hidden_dropout_prob, attention_probs_dropout_prob } = roberta.config
  if (base_dropout && (hidden_dropout_prob > 0 || attention_probs_dropout_prob > 0)) return null
  const layers = settledLayers(setup, num_hidden_layers, random)
  if (layers === 0) return null
  const readings = new Set(setup.active_heads.map((name) => readingOf(setup.heads[name]!)))
  const [only] = layers === num_hidden_layers && readings.size === 1 ? readings : []
  return { layers, reading: only ?? null }
}

/** Whether a batch begins with features at all. */
export function hasFeatures({ reading }: Features, { targets }: HostBatch): boolean {
  if (targets?.kind === 'masked_lm') return false
  return reading !== 'label_word' || targets?.kind === 'label_words'
}

/** The features of a whole batch, [B,H] where one vector of each text is kept and else [B·S,H]; the caller's. */
export function computeFeatures(model: Model, { layers, reading }: Features, host: HostBatch): tf.Tensor2D {
  return tf.tidy(() => lowerLayers(model, uploadBatch(model.roberta.config, host), layers, reading))
}

/** The batch begun with its features `x`, which stay the caller's. */
export function begunWith({ layers, reading }: Features, host: HostBatch, x: tf.Tensor2D): HostBatch {
  return { ...(reading ? vectorsAlone(host) : host), start: { layers, x } }
}

export class FeatureCache {
  readonly #kept: KeptRows
  /** Where a batch is put together for the GPU: memory that is new each time costs more than the copy into it. */
  #desk = new Float32Array(0)

  private constructor(
    readonly model: Model,
    readonly features: Features,
    room: RowRoom,
  ) {
    this.#kept = new KeptRows(room)
  }

  /** The cache of a run; null where `featuresOf` is. */
  static of(model: Model, args: TrainingArguments, random: boolean, room: RowRoom): FeatureCache | null {
    const features = featuresOf(model, args, random)
    return features && new FeatureCache(model, features, room)
  }

  /** The batches, begun as far up as their features go; whoever calls this frees each `start.x`. */
  async begin(batches: HostBatch[]): Promise<HostBatch[]> {
    const begun: HostBatch[] = []
    try {
      for (const host of batches)
        begun.push(hasFeatures(this.features, host) ? await this.#begun(host) : host)
    } catch (error) {
      disposeStarts(begun)
      throw error
    }
    return begun
  }

  /** Frees what is kept. */
  close(): Promise<void> {
    this.#desk = new Float32Array(0)
    return this.#kept.close()
  }

  /** A batch without a single kept text goes through the layers as it is; else those that are missing go by themselves. */
  async #begun(host: HostBatch): Promise<HostBatch> {
    const rows = this.#rowsOf(host)
    const missing = [...rows.keys()].filter((b) => !this.#kept.has(rows[b]!.key))
    const { model, features } = this
    if (missing.length === rows.length) {
      const x = computeFeatures(model, features, host)
      if (await this.#kept.hasRoom(Math.min(...rows.map(({ count }) => count)))) await this.#keep(x, rows)
      return begunWith(features, host, x)
    }
    let fresh: ReadonlyMap<string, Float32Array> = new Map()
    if (missing.length > 0) {
      const part = someRows(host, missing)
      const x = computeFeatures(model, features, part)
      fresh = await this.#keep(x, this.#rowsOf(part))
      x.dispose()
    }
    return begunWith(features, host, this.#uploaded(rows, features.reading ? { ...host, S: 1 } : host, fresh))
  }

  /** Each row's part of a batch's features, by its key; those that find room are kept. Frees x when it cannot be read. */
  async #keep(x: tf.Tensor2D, rows: Row[]): Promise<ReadonlyMap<string, Float32Array>> {
    try {
      const values = (await x.data()) as Float32Array
      const each = values.length / rows.length
      const parts = new Map<string, Float32Array>()
      rows.forEach(({ key, count, offset }, b) =>
        parts.set(key, values.subarray(b * each + offset, b * each + offset + count)),
      )
      for (const [key, part] of parts) await this.#kept.put(key, part)
      return parts
    } catch (error) {
      x.dispose()
      throw error
    }
  }

  /** Kept and fresh rows as [B·S,H], zeros where a row is padded: no text looks there. */
  #uploaded(rows: Row[], { B, S }: HostBatch, fresh: ReadonlyMap<string, Float32Array>): tf.Tensor2D {
    const H = this.model.roberta.config.hidden_size
    const data = this.#blank(B * S * H)
    rows.forEach(({ key, count, offset }, b) => {
      const into = data.subarray(b * S * H + offset, b * S * H + offset + count)
      const own = fresh.get(key)
      if (own) into.set(own)
      else this.#kept.read(key, into)
    })
    return uploadTensor<tf.Rank.R2>(data, [B * S, H])
  }

  /** So many zeros; off the GPU a tensor may keep them, so that they are new. */
  #blank(count: number): Float32Array<ArrayBuffer> {
    if (!onGpu()) return new Float32Array(count)
    if (this.#desk.length < count) this.#desk = new Float32Array(count)
    return this.#desk.subarray(0, count).fill(0)
  }

  #rowsOf(host: HostBatch): Row[] {
    const { S, input_ids, targets } = host
    const H = this.model.roberta.config.hidden_size
    const { first: starts, lengths } = extents(host)
    return Array.from(starts, (first, b) => {
      const length = lengths[b]!
      const ids = input_ids.slice(b * S + first, b * S + first + length)
      const text = String.fromCharCode(...new Uint16Array(ids.buffer))
      if (!this.features.reading) return { key: text, count: length * H, offset: first * H }
      const at = targets?.kind === 'label_words' ? targets.positions[b]! - b * S - first : 0
      return { key: `${at} ${text}`, count: H, offset: 0 }
    })
  }
}

/**
 * Does `work` on batches begun as far up as their features go, and frees what was uploaded for that; on the batches as
 * they are when nothing is kept.
 */
export async function withFeatures<T>(
  features: FeatureCache | null,
  batches: HostBatch[],
  work: (batches: HostBatch[]) => T,
): Promise<T> {
  if (!features) return work(batches)
  const begun = await features.begin(batches)
  try {
    return work(begun)
  } finally {
    disposeStarts(begun)
  }
}

function disposeStarts(batches: HostBatch[]): void {
  tf.dispose(batches.flatMap(({ start }) => (start ? [start.x] : [])))
}

/** The batch as texts of one token, which is the vector that a head reads. */
function vectorsAlone(host: HostBatch): HostBatch {
  const { B, S, input_ids, targets } = host
  return {
    ...host,
    S: 1,
    input_ids: Int32Array.from({ length: B }, (_, b) => input_ids[b * S]!),
    attention_mask: new Int32Array(B).fill(1),
    targets:
      targets &&
      moved(
        targets,
        Int32Array.from({ length: B }, (_, b) => b),
      ),
  }
}

/** Some rows of a batch, for their features alone. */
function someRows({ S, input_ids, attention_mask, targets }: HostBatch, rows: number[]): HostBatch {
  const B = rows.length
  const cut = (values: Int32Array) => {
    const own = new Int32Array(B * S)
    rows.forEach((row, b) => own.set(values.subarray(row * S, (row + 1) * S), b * S))
    return own
  }
  const positions =
    targets?.kind === 'label_words' ? rows.map((row, b) => targets.positions[row]! + (b - row) * S) : []
  return {
    B,
    S,
    input_ids: cut(input_ids),
    attention_mask: cut(attention_mask),
    labels: new Int32Array(B),
    targets: targets?.kind === 'label_words' ? moved(targets, Int32Array.from(positions)) : null,
  }
}

function moved(targets: Targets, positions: Int32Array): Targets {
  return targets.kind === 'label_words' ? { ...targets, positions } : targets
}
