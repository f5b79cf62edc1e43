/** A base model, from files to weights on the device, whichever of its three sources the files came from. */
import type { BaseIdentity, RobertaConfig } from './config.ts'
import { loadTokenizer, type Tokenizer } from './data/tokenizer.ts'
import type { ModelFolder } from './io/modelFolder.ts'
import { openSafetensors } from './io/safetensors.ts'
import { openedDevice } from './kernels/backend.ts'
import { loadRoberta, type Precision } from './model/loadRoberta.ts'
import type { Roberta } from './model/roberta.ts'
import { parseRobertaConfig } from './model/robertaConfig.ts'

/** A base model on the device. */
export interface Base {
  folder: ModelFolder
  config: RobertaConfig
  identity: BaseIdentity
  tokenizer: Tokenizer
  roberta: Roberta
  /** Weights were rounded to half precision. */
  rounded: boolean
  notes: string[]
}

/**
 * Reads a model folder and streams its weights to the device. Throws one sentence about the file at fault.
 */
export async function openBase(folder: ModelFolder, precision: Precision = 'auto'): Promise<Base> {
  const config = parseRobertaConfig(folder.config)
  const tokenizer = loadTokenizer(folder.tokenizer, folder.tokenizer_config)
  if (tokenizer.vocab_size > config.vocab_size)
    throw new Error(
      `The tokenizer knows ${tokenizer.vocab_size} tokens but the model only ${config.vocab_size}: tokenizer.json and config.json are not of one model.`,
    )
  if (tokenizer.pad_token_id !== config.pad_token_id)
    throw new Error(
      `The tokenizer pads with token ${tokenizer.pad_token_id} but the model expects ${config.pad_token_id}: tokenizer.json and config.json are not of one model.`,
    )
  const weights = await openSafetensors(folder.weights)
  const { backend, limits } = openedDevice()
  const { roberta, rounded, notes } = await loadRoberta(
    config,
    weights,
    backend === 'webgpu' ? limits.maxStorageBufferBindingSize : null,
    precision,
  )
  const { hidden_size, num_hidden_layers, vocab_size } = config
  const identity = { name: folder.name, sha256: folder.sha256, hidden_size, num_hidden_layers, vocab_size }
  return { folder, config, identity, tokenizer, roberta, rounded, notes: [...folder.notes, ...notes] }
}
