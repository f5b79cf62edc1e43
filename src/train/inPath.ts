/** Whether what trains is in the path of the prediction: its gradient, and what the logits lose without it. */
import * as tf from '@tensorflow/tfjs-core'
import type { AdapterSetup, ModelSetup } from '../config.ts'
import type { Batch as HostBatch } from '../data/batches.ts'
import { uploadBatch } from '../model/batch.ts'
import { lossAndGradient, predict, type Model } from '../model/model.ts'
import type { Saving } from '../model/walk.ts'

/** The norm of an adapter's or fusion's gradient, and the largest change of a logit when it is passed by. */
export interface InPath {
  type: 'inPath'
  name: string
  grad_norm: number
  logits_change: number | null
}

/** Gradient norms of every adapter and fusion that trains, on one batch without dropout. */
async function gradientNorms(model: Model, host: HostBatch, saving: Saving): Promise<Map<string, number>> {
  const { adapters, fusions } = model.setup.train
  if (adapters.length + fusions.length === 0) return new Map()
  const { gradient, loss } = tf.tidy(() =>
    lossAndGradient(model, uploadBatch(model.roberta.config, host), null, 0, saving),
  )
  const flat = (await gradient.data()) as Float32Array
  tf.dispose([gradient, loss])
  return new Map(
    [...adapters, ...fusions].map((name) => {
      const own = model.layout.slots.filter(({ key }) => key.includes(`.${name}.`))
      const squares = own.map(({ offset, size }) =>
        flat.subarray(offset, offset + size).reduce((sum, value) => sum + value * value, 0),
      )
      return [name, Math.sqrt(squares.reduce((a, b) => a + b, 0))]
    }),
  )
}

/** What to report before the first step: each name with its norm. `saving`: as the run's own passes save memory. */
export async function startInPath(model: Model, host: HostBatch, saving: Saving): Promise<InPath[]> {
  const norms = await gradientNorms(model, host, saving)
  return [...norms].map(([name, grad_norm]) => ({ type: 'inPath', name, grad_norm, logits_change: null }))
}

/** The same after some training, with what each adapter changes by now, where one can be passed by alone. */
export async function updateInPath(model: Model, host: HostBatch, before: InPath[]): Promise<InPath[]> {
  const now: InPath[] = []
  for (const one of before) {
    const alone = passedByAlone(model.setup).includes(one.name)
    now.push({ ...one, logits_change: alone ? await logitsChange(model, host, one.name) : null })
  }
  return now
}

/** Trained adapters without which the rest can predict. */
export function passedByAlone({ active, train }: ModelSetup): string[] {
  return isStacked(active) ? train.adapters : []
}

/** Whether a setup is adapters one after another; in other blocks each part needs its own. */
function isStacked(setup: AdapterSetup | null): boolean {
  if (setup === null || typeof setup === 'string') return true
  return setup.type === 'Stack' && setup.children.every(isStacked)
}

/** The largest change of a logit of `host` when adapter `name` is passed by. */
async function logitsChange(model: Model, host: HostBatch, name: string): Promise<number> {
  const difference = tf.tidy(() => {
    const batch = uploadBatch(model.roberta.config, host)
    const { logits } = predict(model, batch)
    return tf.max(tf.abs(tf.sub(logits, predict(model, batch, name).logits)))
  })
  const [value] = await difference.data()
  difference.dispose()
  return value!
}
