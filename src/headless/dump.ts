/** One batch through a model with an adapter, written out for comparison with Python: no tokenizer, no dropout. */
import { readFile, writeFile } from 'node:fs/promises'
import * as tf from '@tensorflow/tfjs-core'
import { openSafetensors } from '../io/safetensors.ts'
import { readAdapterFiles } from '../io/import.ts'
import { openedDevice } from '../kernels/backend.ts'
import { uploadBatch, type HostBatch } from '../model/batch.ts'
import { loadRoberta } from '../model/loadRoberta.ts'
import { createModel, hiddenStates, lossAndGradient, predict, singleSetup } from '../model/model.ts'
import { unflatten } from '../model/params.ts'
import { parseRobertaConfig } from '../model/robertaConfig.ts'
import { folderFiles, openWeights, readPart } from './node.ts'

/**
 * Writes `{logits [B,C], loss, last_hidden_state [B,S',H], grads}` as nested arrays to `dump`; `grads` by the library's
 * parameter names, null with `loss` when the batch has no labels.
 */
export async function dumpBatch(
  transformer: string,
  adapterDir: string,
  batchFile: string,
  dump: string,
): Promise<void> {
  const config = parseRobertaConfig(await readPart(transformer, 'config.json'))
  const { backend, limits } = openedDevice()
  const limit = backend === 'webgpu' ? limits.maxStorageBufferBindingSize : null
  const { roberta } = await loadRoberta(config, await openSafetensors(await openWeights(transformer)), limit)
  const { bundle } = await readAdapterFiles(await folderFiles(adapterDir))
  const { head } = bundle
  if (head?.head_type !== 'classification')
    throw new Error(`${adapterDir} has no classification head, so there are no logits to write.`)
  const model = createModel(roberta, singleSetup(bundle.name, bundle.adapter, head), bundle.tensors)

  const { host, labelled } = readBatch(batchFile, await readFile(batchFile, 'utf8'))
  const outside = host.labels.find((label) => label < 0 || label >= head.num_labels)
  if (outside !== undefined)
    throw new Error(`${batchFile}: the label ${outside} is not among the head's ${head.num_labels} classes.`)
  const batch = uploadBatch(config, host)
  const { logits } = predict(model, batch)
  const last_hidden_state = hiddenStates(model, batch).at(-1)!
  // A prompt lengthens every row.
  const shaped = tf.reshape(last_hidden_state, [host.B, -1, config.hidden_size])
  const result: Record<string, unknown> = {
    logits: await logits.array(),
    loss: null,
    last_hidden_state: await shaped.array(),
    grads: null,
  }
  if (labelled) {
    const { loss, gradient } = lossAndGradient(model, batch, null, 0)
    const grads = unflatten(model.layout, Float32Array.from(await gradient.data()))
    result.loss = (await loss.data())[0]
    result.grads = Object.fromEntries(
      [...grads].map(([key, { shape, data }]) => [key, nested(shape, [...data])]),
    )
  }
  await writeFile(dump, JSON.stringify(result))
}

/** Checks and flattens `{input_ids, attention_mask?, labels?}`. Throws one sentence that says where it is wrong. */
function readBatch(name: string, text: string): { host: HostBatch; labelled: boolean } {
  let file: { input_ids?: unknown; attention_mask?: unknown; labels?: unknown }
  try {
    file = JSON.parse(text) as typeof file
  } catch (error) {
    throw new Error(`${name} is not JSON: ${(error as Error).message}.`)
  }
  const input_ids = integerRows(name, 'input_ids', file.input_ids)
  const [B, S] = [input_ids.length, input_ids[0]!.length]
  const mask = integerRows(
    name,
    'attention_mask',
    file.attention_mask ?? input_ids.map((row) => row.map(() => 1)),
  )
  if (mask.length !== B || mask[0]!.length !== S)
    throw new Error(`${name}: attention_mask is not [${B},${S}] as input_ids is.`)
  const labels = file.labels === undefined ? null : integerRows(name, 'labels', [file.labels])[0]!
  if (labels && labels.length !== B) throw new Error(`${name} has ${labels.length} labels for ${B} rows.`)
  const flat = (rows: number[][]) => Int32Array.from(rows.flat())
  const host = {
    B,
    S,
    input_ids: flat(input_ids),
    attention_mask: flat(mask),
    labels: Int32Array.from(labels ?? input_ids.map(() => 0)),
  }
  return { host, labelled: labels !== null }
}

/** Rows of equal length, whole numbers only. */
function integerRows(name: string, what: string, value: unknown): number[][] {
  if (!Array.isArray(value) || value.length === 0)
    throw new Error(`${name} has no ${what}: it must be a list of rows.`)
  return value.map((row: unknown, i) => {
    if (!Array.isArray(row) || row.length === 0)
      throw new Error(`${name}: row ${i} of ${what} is not a list of numbers.`)
    if (row.length !== (value[0] as unknown[]).length)
      throw new Error(
        `${name}: row ${i} of ${what} has another length than row 0; pad every row to one length.`,
      )
    const odd = row.findIndex((item) => !Number.isInteger(item))
    if (odd >= 0)
      throw new Error(
        `${name}: row ${i}, column ${odd} of ${what} is ${JSON.stringify(row[odd])}, not a whole number.`,
      )
    return row as number[]
  })
}

/** Row-major values as nested arrays of `shape`. */
function nested(shape: number[], values: number[]): unknown {
  if (shape.length <= 1) return values
  const size = values.length / shape[0]!
  return Array.from({ length: shape[0]! }, (_, i) =>
    nested(shape.slice(1), values.slice(i * size, (i + 1) * size)),
  )
}
