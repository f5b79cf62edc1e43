/**
 * A finished run as a folder that `@huggingface/transformers` runs in a page and onnxruntime anywhere: the model with its
 * adapter and head as one ONNX file, with labels and tokenizer. Covers every method, since what cannot be folded into
 * the weights stands in the graph. The file is read back before it is handed out.
 */
import type { AdapterBundle } from '../config.ts'
import type { BaseModel } from './foldedWeights.ts'
import { classifierConfig, tokenizerFiles, type ExportFiles } from './fullModel.ts'
import { readBack } from './onnx/readBack.ts'
import { classifierGraph } from './onnx/roberta.ts'

/**
 * config.json, tokenizer.json, tokenizer_config.json and onnx/model.onnx. `skip_layers`: layers whose adapters are
 * passed by (AdapterDrop). Throws one sentence for what ONNX or a classifier cannot hold.
 */
export async function onnxFiles(
  base: BaseModel,
  bundle: AdapterBundle,
  skip_layers: number[] = [],
): Promise<ExportFiles> {
  const text = (content: string) => new TextEncoder().encode(content)
  const files: ExportFiles = new Map([['config.json', text(classifierConfig(base, bundle))]])
  for (const [name, content] of tokenizerFiles(base, bundle)) files.set(name, text(content))
  return files.set('onnx/model.onnx', await onnxModel(base, bundle, skip_layers))
}

/** The ONNX file alone: input_ids and attention_mask (int64 [batch, sequence]) in, logits out. */
export async function onnxModel(
  base: BaseModel,
  bundle: AdapterBundle,
  skip_layers: number[] = [],
): Promise<Blob> {
  const graph = await classifierGraph(base, bundle, skip_layers)
  const file = graph.finish({
    adapter: bundle.name,
    base: bundle.base?.name ?? '',
    labels: JSON.stringify(bundle.id2label),
    max_length: String(bundle.max_length),
  })
  await readBack(file, graph)
  return file
}
