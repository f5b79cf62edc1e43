/** Opening a base model: every dialect of its file, and one sentence for each file that does not fit. */
import * as tf from '@tensorflow/tfjs-core'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openBase } from '../src/base.ts'
import type { TensorMap } from '../src/config.ts'
import { openNodeBackend } from '../src/headless/node.ts'
import type { ModelFolder } from '../src/io/modelFolder.ts'
import { readSafetensors, writeSafetensors } from '../src/io/safetensors.ts'
import { disposeRoberta } from '../src/model/roberta.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { readBytes, readText } from './fixtures.ts'

const tiny = 'tests/fixtures/tiny-roberta'
let config: Record<string, unknown>
let tokenizer: string
let tensors: TensorMap
let before: number

beforeAll(async () => {
  await openNodeBackend('wasm')
  config = JSON.parse(await readText(`${tiny}/config.json`)) as Record<string, unknown>
  tokenizer = await readText(`${tiny}/tokenizer.json`)
  tensors = await readSafetensors(await readBytes(`${tiny}/model.safetensors`))
})

/** Nothing may stay on the device, least of all after a failure half-way. */
beforeEach(() => (before = tf.memory().numTensors))
afterEach(() => expect(tf.memory().numTensors).toBe(before))

function folder(changed: { config?: object; tensors?: TensorMap; tokenizer?: string } = {}): ModelFolder {
  return {
    name: 'tiny',
    config: JSON.stringify({ ...config, ...changed.config }),
    tokenizer: changed.tokenizer ?? tokenizer,
    tokenizer_config: null,
    weights: [new Blob([writeSafetensors(changed.tensors ?? tensors)])],
    sha256: 'abc',
    notes: [],
  }
}

/** The tensors with one changed, renamed or taken out. */
function edited(edit: (copy: TensorMap) => void): TensorMap {
  const copy: TensorMap = new Map(tensors)
  edit(copy)
  return copy
}

const dense = 'roberta.encoder.layer.1.output.dense.weight'

describe('a base model', () => {
  it('says in plain words what its file holds besides', async () => {
    const extra = edited((copy) => {
      copy.set('roberta.pooler.dense.weight', { shape: [32, 32], data: new Float32Array(1024) })
      copy.set('roberta.pooler.dense.bias', { shape: [32], data: new Float32Array(32) })
      copy.set('lm_head.bias', { shape: [400], data: new Float32Array(400) })
      copy.set('roberta.mystery.weight', { shape: [1], data: new Float32Array(1) })
    })
    const { roberta, notes, identity } = await openBase(folder({ tensors: extra }))
    disposeRoberta(roberta)
    expect(identity).toMatchObject({ name: 'tiny', sha256: 'abc', hidden_size: 32, num_hidden_layers: 2 })
    expect(notes.join(' ')).toMatch(/a masked-language-model head.*1 unexpected.*mystery\.weight/)
  })

  it.each([
    [
      'a missing tensor',
      { tensors: () => edited((copy) => copy.delete(dense)) },
      /lack 1 tensors.*layer\.1\.output\.dense\.weight/,
    ],
    [
      'a tensor of another shape',
      { config: { intermediate_size: 48 } },
      /intermediate\.dense\.weight is \[64,32\].*calls for \[48,32\]/,
    ],
    [
      'more layers than the file has',
      { config: { num_hidden_layers: 3 } },
      /lack 16 tensors.*encoder\.layer\.2/,
    ],
    [
      'one tensor under two names',
      { tensors: () => edited((copy) => copy.set(dense.replace('roberta.', ''), copy.get(dense)!)) },
      /layer\.1\.output\.dense\.weight twice/,
    ],
    [
      'a tokenizer of another model',
      { config: { vocab_size: 120 } },
      /tokenizer knows \d+ tokens but the model only 120/,
    ],
    [
      'a model of another family',
      { config: { model_type: 'gpt2' } },
      /model_type "gpt2"; Adaptab reads roberta/,
    ],
    [
      'heads that do not share the width',
      { config: { num_attention_heads: 5 } },
      /hidden_size 32 cannot be shared by 5/,
    ],
    ['an unknown activation', { config: { hidden_act: 'snake' } }, /hidden_act "snake" is not supported/],
    [
      'relative positions',
      { config: { position_embedding_type: 'relative_key' } },
      /"relative_key" is not supported/,
    ],
    ['a size that is no number', { config: { hidden_size: '32' } }, /hidden_size is "32", not a number/],
    ['a tokenizer that is no JSON', { tokenizer: '{' }, /tokenizer\.json/],
  ])(
    'is refused for %s',
    async (
      _,
      { tensors: made, ...rest }: { tensors?: () => TensorMap; config?: object; tokenizer?: string },
      sentence,
    ) => {
      await expect(openBase(folder({ ...rest, ...(made && { tensors: made() }) }))).rejects.toThrow(sentence)
    },
  )
})

it('takes the class defaults of RobertaConfig where config.json is silent', () => {
  expect(parseRobertaConfig('{"model_type":"roberta"}')).toMatchObject({
    max_position_embeddings: 512,
    type_vocab_size: 2,
    layer_norm_eps: 1e-12,
    hidden_act: 'gelu',
  })
  expect(() => parseRobertaConfig('{')).toThrow(/config\.json is not JSON/)
})
