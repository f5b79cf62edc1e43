/**
 * Runs an exported ONNX folder with `@huggingface/transformers` (Transformers.js), the way every page does, from files in
 * memory: nothing is fetched from a model host, and only onnxruntime's own WebAssembly comes from this site. The package
 * is large and loaded on the first call. Works in the page, in a worker and in Node.
 */
import type { TextClassificationPipeline } from '@huggingface/transformers'

/** Files by path within the folder: config.json, tokenizer.json, tokenizer_config.json, onnx/model.onnx. */
export type PipelineFiles = ReadonlyMap<string, Blob | Uint8Array<ArrayBuffer>>

export interface OnnxPipeline {
  /** Every label with its share, best first, for each text: `pipeline('text-classification')` with `top_k: null`. */
  classify(texts: string[]): Promise<Score[][]>
  /** What the classes' shares are made of: a row of logits [C] for each text, cut at the tokenizer's model_max_length. */
  logits(texts: string[]): Promise<Float32Array[]>
  /** Logits [B][C] of rows of token ids and their mask, all of one length, as the graph itself takes them. */
  run(input_ids: number[][], attention_mask: number[][]): Promise<Float32Array[]>
  /** Frees the model. */
  dispose(): Promise<void>
}

interface Score {
  label: string
  score: number
}

/** Where onnxruntime computes. */
export type PipelineDevice = 'wasm' | 'webgpu'

const needed = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'onnx/model.onnx']

/** Folders that are open, by the name under which Transformers.js asks for them. */
const folders = new Map<string, PipelineFiles>()

let opened = 0

/** Opens a folder. Throws one sentence when a file is missing, or what onnxruntime says about the model. */
export async function openOnnxPipeline(
  files: PipelineFiles,
  device: PipelineDevice = 'wasm',
): Promise<OnnxPipeline> {
  const missing = needed.find((name) => !files.has(name))
  if (missing !== undefined) throw new Error(`The ONNX folder has no ${missing}; export it again.`)
  const library = await loadLibrary()
  const name = `adaptab-${++opened}`
  folders.set(name, files)
  try {
    const classifier = await library.pipeline('text-classification', name, {
      device: 'auto',
      dtype: 'fp32',
      session_options: { executionProviders: [device] },
    })
    return wrap(library, classifier, () => folders.delete(name))
  } finally {
    folders.delete(name)
  }
}

function wrap(
  { Tensor }: typeof import('@huggingface/transformers'),
  classifier: TextClassificationPipeline,
  forget: () => void,
): OnnxPipeline {
  const rows = (logits: { data: unknown; dims: number[] }): Float32Array[] => {
    const [B, C] = logits.dims as [number, number]
    const data = logits.data as Float32Array
    return Array.from({ length: B }, (_, b) => data.slice(b * C, (b + 1) * C))
  }
  return {
    async classify(texts) {
      const { id2label } = classifier.model.config as unknown as { id2label: Record<string, string> }
      const found: (Score | Score[])[] = await classifier(texts, { top_k: Object.keys(id2label).length })
      return found.map((one) => (Array.isArray(one) ? one : [one]))
    },
    async logits(texts) {
      const inputs = await classifier.tokenizer(texts, { padding: true, truncation: true })
      return rows((await classifier.model(inputs)).logits)
    },
    async run(input_ids, attention_mask) {
      const dims = [input_ids.length, input_ids[0]?.length ?? 0]
      const tensor = (values: number[][]) =>
        new Tensor('int64', BigInt64Array.from(values.flat(), BigInt), dims)
      const inputs = { input_ids: tensor(input_ids), attention_mask: tensor(attention_mask) }
      return rows((await classifier.model(inputs)).logits)
    },
    async dispose() {
      forget()
      await classifier.dispose()
    },
  }
}

/** Transformers.js, told to ask nobody but `folders` for a model and this site for onnxruntime. */
async function loadLibrary(): Promise<typeof import('@huggingface/transformers')> {
  const library = await import('@huggingface/transformers')
  const { env } = library
  const absent = () => Promise.resolve(new Response(null, { status: 404 }))
  Object.assign(env, {
    allowRemoteModels: false,
    allowLocalModels: true,
    useFS: false,
    useBrowserCache: false,
    useFSCache: false,
    useWasmCache: false,
    useCustomCache: true,
    customCache: { match: (key: string) => Promise.resolve(answer(key)), put: () => Promise.resolve() },
    fetch: absent,
  })
  // Its default is a content delivery network; without one, onnxruntime takes what lies beside its own script.
  const { wasm } = env.backends.onnx
  if (wasm) Reflect.deleteProperty(wasm, 'wasmPaths')
  return library
}

/** The file that a path such as `/models/adaptab-1/onnx/model.onnx` names. */
function answer(key: string): Response | undefined {
  const [, name, path] = /\/?(adaptab-\d+)\/(?:resolve\/[^/]+\/)?(.+)$/.exec(key) ?? []
  const file = name === undefined ? undefined : folders.get(name)?.get(path ?? '')
  if (file === undefined) return undefined
  const size = file instanceof Blob ? file.size : file.length
  return new Response(file, { headers: { 'content-length': String(size) } })
}
