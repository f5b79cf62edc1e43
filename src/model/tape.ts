/**
 * Reverse-mode differentiation over our own kernels. An operation is recorded only when something trained lies behind
 * it, so nothing below the lowest trained parameter costs a gradient; it holds only the activations that its backward
 * reads, and they are freed as the way down passes them.
 */
import * as tf from '@tensorflow/tfjs-core'
import { addScaled } from '../kernels/addScaled.ts'

/** A tensor in the walk. `trained`: a gradient must reach it. `leaf`: its tensor is not the tape's to free. */
export class Var<T extends tf.Tensor = tf.Tensor> {
  constructor(
    readonly tensor: T,
    readonly trained: boolean,
    readonly leaf: boolean,
  ) {}

  get shape(): T['shape'] {
    return this.tensor.shape
  }
}

/** A weight or input that never gets a gradient. */
export function constant<T extends tf.Tensor>(tensor: T): Var<T> {
  return new Var(tensor, false, true)
}

/** A parameter that is trained. */
export function trained<T extends tf.Tensor>(tensor: T): Var<T> {
  return new Var(tensor, true, true)
}

interface Node {
  output: Var
  inputs: Var[]
  saved: Var[]
  backward: (dy: tf.Tensor) => (tf.Tensor | null)[]
}

export class Tape {
  readonly #nodes: Node[] = []
  /** Nodes that still read a tensor, by its id. */
  readonly #readers = new Map<number, number>()

  /** `records` false: there is no way down, and nothing is held for it. */
  constructor(readonly records: boolean) {}

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
    const output = new Var(tensor, this.records && inputs.some((input) => input.trained), false)
    if (!output.trained) return output
    const held = saved.map((one) => (one === 'output' ? output : one)).filter(({ leaf }) => !leaf)
    for (const { tensor: kept } of held) {
      this.#readers.set(kept.id, (this.#readers.get(kept.id) ?? 0) + 1)
      tf.keep(kept)
    }
    this.#nodes.push({ output, inputs, saved: held, backward: backward as Node['backward'] })
    return output
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
    if (!leaf && !this.#readers.has(tensor.id)) tensor.dispose()
  }

  /**
   * Goes back from the seeds (values and their gradients, which stay the caller's) and returns the gradient of every
   * trained leaf it reached; they are the caller's. The tape is empty afterwards.
   */
  backward(seeds: [Var, tf.Tensor][]): Map<Var, tf.Tensor> {
    const grads = new Map<Var, tf.Tensor>()
    for (const [output, dy] of seeds)
      accumulate(
        grads,
        output,
        tf.tidy(() => dy.clone()),
      )
    for (let node = this.#nodes.pop(); node; node = this.#nodes.pop()) {
      const { output, inputs, saved, backward } = node
      const dy = grads.get(output)
      if (dy) {
        tf.tidy(() => {
          const dxs = backward(dy)
          inputs.forEach((input, i) => {
            const dx = dxs[i]
            if (input.trained && dx) accumulate(grads, input, dx)
          })
        })
        grads.delete(output)
        dy.dispose()
      }
      for (const { tensor } of saved) this.#let(tensor)
    }
    return grads
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
      tensor.dispose()
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
