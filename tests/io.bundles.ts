/** Adapters of a made-up small model, for the tests of io/: right shapes, drawn values. */
import { classificationHead } from '../src/config.ts'
import type {
  AdapterBundle,
  AdapterConfig,
  BnConfig,
  HeadConfig,
  LoRAConfig,
  TensorMap,
} from '../src/config.ts'
import { expectedShapes } from '../src/io/adapterKeys.ts'
import type { FileMap } from '../src/io/adapterhub.ts'
import type { RunRecord } from '../src/io/db.ts'
import { seqBn as seqBnDefaults } from '../src/methods/bottleneck.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { TorchGenerator } from '../src/random.ts'

const hidden_size = 16
const num_hidden_layers = 3
export const sizes = {
  hidden_size,
  num_hidden_layers,
  intermediate_size: 24,
  vocab_size: 100,
  max_position_embeddings: 20,
  type_vocab_size: 1,
}

export const base = {
  name: 'someone/tiny-roberta',
  sha256: '0123456789abcdef'.repeat(4),
  hidden_size,
  num_hidden_layers,
  vocab_size: 100,
}

export const seqBn: BnConfig = { ...seqBnDefaults, reduction_factor: 4 }
export const lora: LoRAConfig = { ...loraConfig, r: 2, alpha: 16 }

export const adapters: Record<string, AdapterConfig> = {
  seq_bn: seqBn,
  'seq_bn without its second layer': {
    ...seqBnDefaults,
    reduction_factor: 5.5,
    leave_out: [1],
    dropout: 0.1,
  },
  lora,
  'lora everywhere': {
    ...loraConfig,
    r: 3,
    alpha: 6,
    dropout: 0.25,
    attn_matrices: ['q', 'k', 'v'],
    intermediate_lora: true,
    output_lora: true,
    leave_out: [0],
  },
  'lora in the feed-forward block': { ...loraConfig, selfattn_lora: false, output_lora: true },
  head: { architecture: 'head' },
}

/** Drawn values for these shapes. */
export function drawn(shapes: Iterable<[string, number[]]>, seed = 11): TensorMap {
  const generator = new TorchGenerator(seed)
  const tensors: TensorMap = new Map()
  for (const [key, shape] of shapes)
    tensors.set(key, { shape, data: generator.normal(shape.reduce((product, dim) => product * dim, 1)) })
  return tensors
}

export function makeBundle(
  adapter: AdapterConfig,
  id2label = ['negative', 'positive'],
  name = 'reviews',
  head: HeadConfig | null = classificationHead(id2label.length),
): AdapterBundle {
  const tensors = drawn(expectedShapes(adapter, head, name, sizes))
  return { name, adapter, head, id2label, tensors, base, max_length: 64 }
}

export function makeRun(bundle: AdapterBundle): RunRecord {
  const metrics = { loss: 0.5, f1_macro: 0.75, f1_micro: 0.8, accuracy: 0.8 }
  return {
    id: 'run-1',
    name: 'My first run: “great”, 5/5',
    created: Date.UTC(2026, 0, 2, 3, 4, 5),
    status: 'finished',
    adapter: bundle.adapter,
    args: null,
    base: bundle.base,
    id2label: bundle.id2label,
    device: 'webgpu, some adapter',
    self_test: 'passed',
    history: {
      step: [{ step: 5, epoch: 0.5, loss: 0.7, learning_rate: 1e-3, grad_norm: 1.5 }],
      evaluation: [{ step: 10, epoch: 1, split: 'validation', metrics }],
    },
    test: metrics,
    best_step: 10,
    data: { names: ['reviews.csv'], mapping: { text: 'text' }, split: { seed: 42 }, roles: ['all'] },
    size: 123,
  }
}

/** The 32 bits of each value, so that NaN, -0 and rounding all count. */
export function bitsOf(tensors: TensorMap): Record<string, { shape: number[]; bits: number[] }> {
  return Object.fromEntries(
    [...tensors].map(([key, { shape, data }]) => [
      key,
      { shape, bits: [...new Uint32Array(new Float32Array(data).buffer)] },
    ]),
  )
}

/** Sorted by key, for comparisons in which order does not count. */
export function sorted<T>(record: Record<string, T>): Record<string, T> {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)))
}

export const utf8 = (text: string) => new TextEncoder().encode(text)
export const fromUtf8 = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes)

/** Both forms of weights; a folder is read from one when the other is taken out. */
export const formats = ['.bin', '.safetensors']
export const without = (files: FileMap, end: string): FileMap =>
  new Map([...files].filter(([name]) => !name.endsWith(end)))

/** A folder with one of its JSON files changed. */
export function edited(files: FileMap, name: string, edit: (json: any) => void): FileMap {
  const json = JSON.parse(fromUtf8(files.get(name)))
  edit(json)
  return new Map(files).set(name, utf8(JSON.stringify(json)))
}
