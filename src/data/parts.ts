/**
 * A batch in parts that a device computes one after another where the whole would take too much memory. The parts'
 * gradients, weighted by `share`, add up to the batch's own: an optimiser step stays the step that it was.
 */
import type { Targets } from '../config.ts'
import { rowsAtOnce } from '../trainingArguments.ts'
import type { Batch } from './batches.ts'

/**
 * Parts of at most `max_tokens` positions (B·S; 0: any number), every row in exactly one, longest rows first so that
 * each part is padded no further than it must be; with `same_length` all stay as long as the batch. A row alone may be
 * longer than the limit. Shares follow the number of rows, or of hidden words, without which a part is left out: it
 * has no loss.
 */
export function inParts(batch: Batch, max_tokens: number, same_length: boolean): Batch[] {
  if (max_tokens <= 0 || batch.B * batch.S <= max_tokens) return [batch]
  const lengths = lengthsOf(batch)
  const order = [...lengths.keys()].sort((a, b) => lengths[b]! - lengths[a]!)
  const parts: Batch[] = []
  for (let i = 0; i < order.length;) {
    const S = same_length ? batch.S : lengths[order[i]!]!
    const rows = order.slice(i, i + rowsAtOnce(max_tokens, S))
    parts.push(part(batch, rows, S, lengths))
    i += rows.length
  }
  return parts.filter(({ share }) => share !== 0)
}

/** Tokens of each row that are no padding. */
function lengthsOf({ B, S, attention_mask }: Batch): number[] {
  return Array.from({ length: B }, (_, b) =>
    attention_mask.subarray(b * S, (b + 1) * S).reduce((sum, one) => sum + one, 0),
  )
}

function part(batch: Batch, rows: number[], S: number, lengths: number[]): Batch {
  const B = rows.length
  const cut = (values: Int32Array) => {
    const own = new Int32Array(B * S)
    rows.forEach((row, b) => own.set(values.subarray(row * batch.S, row * batch.S + S), b * S))
    return own
  }
  const targets = batch.targets && targetsOf(batch.targets, rows, batch.S, S)
  return {
    ...batch,
    B,
    S,
    input_ids: cut(batch.input_ids),
    attention_mask: cut(batch.attention_mask),
    labels: Int32Array.from(rows, (row) => batch.labels[row]!),
    indices: Int32Array.from(rows, (row) => batch.indices[row]!),
    tokens: rows.reduce((sum, row) => sum + lengths[row]!, 0),
    targets,
    share: ((batch.share ?? 1) * count(targets, B)) / count(batch.targets, batch.B),
  }
}

/** What the mean loss is a mean over. */
function count(targets: Targets | null, B: number): number {
  return targets?.kind === 'masked_lm' ? targets.ids.length : B
}

/** The targets of some rows, whose positions were counted in rows of `from` tokens and are in rows of `S` now. */
function targetsOf(targets: Targets, rows: number[], from: number, S: number): Targets {
  switch (targets.kind) {
    case 'regression':
      return { ...targets, labels: Float32Array.from(rows, (row) => targets.labels[row]!) }
    case 'multilabel': {
      const { labels, num_labels } = targets
      const own = rows.flatMap((row) => [...labels.subarray(row * num_labels, (row + 1) * num_labels)])
      return { ...targets, labels: Float32Array.from(own) }
    }
    case 'label_words': {
      const positions = Int32Array.from(rows, (row, b) => targets.positions[row]! + b * S - row * from)
      return { ...targets, positions }
    }
    case 'masked_lm': {
      const hidden = rows.flatMap((row, b) =>
        [...targets.positions].flatMap((at, i) =>
          Math.floor(at / from) === row ? [{ at: at + b * S - row * from, id: targets.ids[i]! }] : [],
        ),
      )
      const positions = Int32Array.from(hidden, ({ at }) => at)
      return { ...targets, positions, ids: Int32Array.from(hidden, ({ id }) => id) }
    }
  }
}
