/** The values a run starts from: what was loaded stays, everything else is drawn from the seed as Python would. */
import type { ModelSetup, TensorMap } from '../config.ts'
import { fromHalf } from '../kernels/half.ts'
import { initialiseFusion } from '../methods/fusion.ts'
import type { Start } from '../methods/method.ts'
import { initialiseAdapter, parametersOf } from '../methods/registry.ts'
import { TorchGenerator } from '../random.ts'
import { initialiseHead } from './heads/head.ts'
import { trainedBaseParameters } from './model.ts'
import { wordTable, type Roberta } from './roberta.ts'

/**
 * Tensors of every adapter, fusion and head of `setup`, in that order of drawing, after `torch.manual_seed(seed)`; of
 * the base, those that train. Those in `given` are taken as they are. `tokens` gives the ids of a text.
 */
export async function initialTensors(
  roberta: Roberta,
  setup: ModelSetup,
  given: TensorMap,
  seed: number,
  tokens: Start['tokens'],
): Promise<TensorMap> {
  const start: Start = {
    generator: new TorchGenerator(seed),
    base: roberta.config,
    weight: (key) => baseTensor(roberta, key),
    tokens,
  }
  const all: TensorMap = new Map()
  const put = (tensors: TensorMap) => tensors.forEach((tensor, key) => all.set(key, given.get(key) ?? tensor))
  for (const [name, config] of Object.entries(setup.adapters)) {
    const known = parametersOf(roberta.config, config, name)
    if (known.every(({ key }) => given.has(key))) known.forEach(({ key }) => all.set(key, given.get(key)!))
    else put(await initialiseAdapter(start, config, name))
  }
  for (const [key, fusion] of Object.entries(setup.fusions)) {
    const members = key.split(',').map((name) => setup.adapters[name]!)
    put(initialiseFusion(start, members, key, fusion))
  }
  for (const [name, head] of Object.entries(setup.heads)) put(await initialiseHead(start, head, name))
  for (const { key, shape } of trainedBaseParameters(roberta.config, setup.train.base))
    all.set(key, given.get(key) ?? { shape, data: await baseTensor(roberta, key) })
  return all
}

/** A copy of a weight of the base. Throws when the model has none under that key. */
async function baseTensor({ embeddings, vars }: Roberta, key: string): Promise<Float32Array> {
  const parts = key === wordTable ? embeddings.word_embeddings.weight : [vars.get(key)]
  const blocks = await Promise.all(
    parts.map((part) => {
      if (!part) throw new Error(`The model has no weight ${key}.`)
      if (part.tensor.dtype === 'float32') return part.tensor.data() as Promise<Float32Array>
      return part.tensor.data<'int32'>().then((words) => fromHalf(words as Int32Array))
    }),
  )
  const whole = new Float32Array(blocks.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const block of blocks) {
    whole.set(block, at)
    at += block.length
  }
  return whole
}
