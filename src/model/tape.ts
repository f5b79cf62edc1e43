/**
 * Reverse-mode differentiation over our own kernels. An operation is recorded only when something trained lies behind
 * it, so nothing below the lowest trained parameter costs a gradient; it holds only the activations that its backward
 * reads, and they are freed as the way down passes them.
 */
import * as tf from '@tensorflow/tfjs-core'
import { addScaled } from '../kernels/addScaled.ts'
import { floatToHalf, halfToFloat, packs } from '../kernels/half.ts'

/**
 * A tensor in the walk. `trained`: a gradient must reach it. `leaf`: its tensor is not the tape's to free. Where the tape
 * keeps activations in half precision, `tensor` is another one on the way down.
 */
export class Var<T extends tf.Tensor = tf.Tensor> {
  readonly shape: T['shape']

  constructor(
    public tensor: T,
    readonly trained: boolean,
    readonly leaf: boolean,
    /** Where the tensor's own is not what it stands for: weights in half precision. */
    shape: T['shape'] = tensor.shape,
  ) {
    this.shape = shape
  }
}

/** A weight or input that never gets a gradient; `shape` where it is held in half precision. */
export function constant<T extends tf.Tensor>(tensor: T, shape: T['shape'] = tensor.shape): Var<T> {
  return new Var(tensor, false, true, shape)
}

/** A parameter that is trained. */
export function trained<T extends tf.Tensor>(tensor: T): Var<T> {
  return new Var(tensor, true, true)
}

/** What a tape does besides computing. */
export interface TapeKeeping {
  /** There will be a way down; otherwise nothing is held for it. */
  records: boolean
  /** Activations are held in half precision. */
  halves: boolean
  /** Products with matrices that are not trained are made in half precision, where the device can. */
  inHalf: boolean
}

/** Activations with fewer elements are held as they are. */
const halvedFrom = 1 << 14

interface Node {
  output: Var
  inputs: Var[]
  saved: Var[]
  backward: (dy: tf.Tensor) => (tf.Tensor | null)[]
}

export class Tape {
  readonly #nodes: Node[] = []
  /** On the way down: what has come to each value so far. */
  #grads = new Map<Var, tf.Tensor>()
  #slots: ReadonlyMap<Var, tf.Tensor> = new Map()
  /** Nodes that still read a tensor, by its id. */
  readonly #readers = new Map<number, number>()
  /** Of tensors held in half precision, what is held, by their id. */
  readonly #halved = new Map<number, tf.Tensor>()
  /** Trained values are known for what they are, but there is no way down from here: a layer that will be run again. */
  #drafts = false

  constructor(readonly keeping: TapeKeeping) {}

  /**
   * The result of an operation. `saved` are the values that `backward` reads (the result itself may be among them by
   * passing 'output'); `backward` maps d(result) to one gradient for each input, null where there is none to give.
   */
  record<T extends tf.Tensor>(
    tensor: T,
    inputs: Var[],
    saved: (Var | 'output')[],
    backward: (dy: T) => (tf.Tensor | null)[],
  ): Var<T> {
    const output = new Var(tensor, this.keeping.records && inputs.some((input) => input.trained), false)
    if (!output.trained || this.#drafts) return output
    const held = saved.map((one) => (one === 'output' ? output : one)).filter(({ leaf }) => !leaf)
    for (const one of held) this.#hold(one.tensor)
    this.#nodes.push({ output, inputs, saved: held, backward: backward as Node['backward'] })
    return output
  }

  /**
   * The result of `run`, of which nothing is held but `x`: on the way down `run` is called again, and must then do the
   * same (Chen et al. 2016, “Training deep nets with sublinear memory cost”).
   */
  recomputed<T extends tf.Tensor>(x: Var, run: () => Var<T>): Var<T> {
    if (!this.keeping.records || this.#drafts) return run()
    this.#drafts = true
    let draft: Var<T>
    try {
      draft = run()
    } finally {
      this.#drafts = false
    }
    if (!draft.trained) return draft
    const again = new Var(draft.tensor, true, false)
    if (!x.leaf) this.#hold(x.tensor)
    const node: Node = { output: again, inputs: [], saved: x.leaf ? [] : [x], backward: () => [] }
    node.backward = (dy) => {
      const before = this.#nodes.length
      const output = run()
      this.#grads.set(output, tf.keep(dy.clone()))
      this.#descend(before)
      return []
    }
    this.#nodes.push(node)
    return again
  }

  /** Runs `f` as it would run outside of `recomputed`: for values that several layers share. */
  apart<R>(f: () => R): R {
    const drafts = this.#drafts
    this.#drafts = false
    try {
      return f()
    } finally {
      this.#drafts = drafts
    }
  }

  /** Whether an operation on these values would be recorded, so that what it saves is worth making. */
  holds(inputs: Var[]): boolean {
    return this.keeping.records && !this.#drafts && inputs.some(({ trained }) => trained)
  }

  #hold(tensor: tf.Tensor): void {
    const readers = this.#readers.get(tensor.id) ?? 0
    this.#readers.set(tensor.id, readers + 1)
    if (readers > 0) return
    const { halves } = this.keeping
    const fits = tensor.dtype === 'float32' && (tensor.shape.at(-1) ?? 1) % 2 === 0
    if (halves && packs() && fits && tensor.size >= halvedFrom)
      this.#halved.set(tensor.id, tf.keep(floatToHalf(tensor)))
    else tf.keep(tensor)
  }

  /** The value that a node is about to read, in full precision again. */
  #restore(one: Var): void {
    const { id } = one.tensor
    const halved = this.#halved.get(id)
    if (!halved) return
    one.tensor = tf.keep(halfToFloat(halved))
    this.#readers.set(one.tensor.id, this.#readers.get(id)!)
    this.#readers.delete(id)
    this.#halved.delete(id)
    halved.dispose()
  }

  /** Runs `f` and frees every tensor made in it that no node holds, except those of the `Var`s it returns. */
  scope<R extends Var | Var[]>(f: () => R): R {
    let result: R | undefined
    tf.tidy(() => {
      result = f()
      return [result].flat().map(({ tensor }) => tensor)
    })
    return result!
  }

  /** Frees a value that is no longer needed on the way up, unless a node holds it. */
  release({ tensor, leaf }: Var): void {
    if (!leaf && (!this.#readers.has(tensor.id) || this.#halved.has(tensor.id))) tensor.dispose()
  }

  /**
   * Goes back from the seeds (values and their gradients, which stay the caller's) and returns the gradient of every
   * trained leaf it reached; they are the caller's. `slots`: where a leaf's gradient is best written (kernels/views.ts);
   * it is there if what is returned lies there. The tape is empty afterwards.
   */
  backward(seeds: [Var, tf.Tensor][], slots: ReadonlyMap<Var, tf.Tensor> = new Map()): Map<Var, tf.Tensor> {
    const grads = (this.#grads = new Map<Var, tf.Tensor>())
    this.#slots = slots
    for (const [output, dy] of seeds)
      accumulate(
        grads,
        output,
        tf.tidy(() => dy.clone()),
      )
    this.#descend(0)
    return grads
  }

  /** Goes back over the nodes recorded last, until `count` are left. */
  #descend(count: number): void {
    const grads = this.#grads
    while (this.#nodes.length > count) {
      const { output, inputs, saved, backward } = this.#nodes.pop()!
      const dy = grads.get(output)
      if (dy) {
        grads.delete(output)
        saved.forEach((one) => this.#restore(one))
        tf.tidy(() => {
          const dxs = backward(dy)
          inputs.forEach((input, i) => {
            const dx = dxs[i]
            if (input.trained && dx) accumulate(grads, input, dx)
          })
        })
        dy.dispose()
      }
      for (const { tensor } of saved) this.#let(tensor)
    }
  }

  /** Where the gradient of a leaf is to be written by a `backward` that returns it then; null: in a tensor of its own. */
  slotOf(leaf: Var): tf.Tensor | null {
    const slot = this.#grads.has(leaf) ? undefined : this.#slots.get(leaf)
    return slot ? tf.clone(slot) : null
  }

  /**
   * For a `backward` that adds to the gradient of one of its inputs in the kernel that makes its part: what has come to
   * that input so far, now its own to add and freed with the tidy it runs in; null when nothing has.
   */
  take<T extends tf.Tensor>(input: Var<T>): T | null {
    const sum = this.#grads.get(input)
    if (!sum) return null
    this.#grads.delete(input)
    const mine = tf.clone(sum) as T
    sum.dispose()
    return mine
  }

  /** Whether nothing but the node on the way down still reads this value, so that its memory may be written over. */
  isLastReader({ tensor, leaf }: Var): boolean {
    return !leaf && this.#readers.get(tensor.id) === 1
  }

  /** Whether products with this matrix are to be made in half precision. */
  inHalf({ trained }: Var): boolean {
    return this.keeping.inHalf && !trained
  }

  /** Frees everything that is still held, for a walk that broke off. */
  dispose(): void {
    for (const { saved } of this.#nodes.splice(0)) for (const { tensor } of saved) this.#let(tensor)
  }

  #let(tensor: tf.Tensor): void {
    const readers = this.#readers.get(tensor.id)! - 1
    if (readers > 0) this.#readers.set(tensor.id, readers)
    else {
      this.#readers.delete(tensor.id)
      this.#halved.get(tensor.id)?.dispose()
      if (!this.#halved.delete(tensor.id)) tensor.dispose()
    }
  }
}

/** Adds dx to what has come to `input` so far. */
function accumulate(grads: Map<Var, tf.Tensor>, input: Var, dx: tf.Tensor): void {
  const sum = grads.get(input)
  if (sum) {
    grads.set(input, tf.keep(addScaled(sum, dx, 1)))
    sum.dispose()
  } else grads.set(input, tf.keep(dx.kept ? dx.clone() : dx))
}
