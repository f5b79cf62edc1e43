/**
 * Runs that earlier versions of this page kept: their adapters were a few fields of their own, and their heads had no
 * pooling. They are read as what they stood for in the library.
 */
import type { AdapterConfig, HeadConfig } from '../config.ts'
import { seqBn } from '../methods/bottleneck.ts'
import { loraConfig } from '../methods/lora.ts'

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
