/**
 * Runs that earlier versions of this page kept: their adapters were a few fields of their own, their heads had no
 * pooling, their batches were never cut and their activations all kept. They are read as what they stood for.
 */
import type { AdapterConfig, HeadConfig } from '../config.ts'
import { seqBn } from '../methods/bottleneck.ts'
import { loraConfig } from '../methods/lora.ts'
import type { TrainingArguments } from '../trainingArguments.ts'

/** An adapter of a kept run, of whatever age, as the library's dict. */
export function currentAdapter(kept: AdapterConfig): AdapterConfig {
  const { method, ...fields } = kept as { method?: unknown }
  if (method === 'seq_bn') return { ...seqBn, ...fields }
  if (method === 'lora') return { ...loraConfig, ...fields }
  return method === 'head' ? { architecture: 'head' } : kept
}

/** Its head. */
export function currentHead(kept: HeadConfig | null): HeadConfig | null {
  return kept === null || kept.head_type === 'masked_lm'
    ? kept
    : { ...kept, pooling: kept.pooling ?? 'first' }
}

/** Its training arguments. */
export function currentArguments(kept: TrainingArguments | null): TrainingArguments | null {
  if (!kept) return null
  const {
    max_tokens_per_batch = 0,
    gradient_checkpointing = false,
    half_precision_activations = false,
    half_precision_products = false,
  } = kept
  const halves = { half_precision_activations, half_precision_products }
  return { ...kept, max_tokens_per_batch, gradient_checkpointing, ...halves }
}
