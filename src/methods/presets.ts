/** Named configurations: the library's strings, and what an adapter is compared with. */
import {
  adapterPlus,
  compacter,
  compacterPlusPlus,
  doubleSeqBn,
  doubleSeqBnInv,
  parBn,
  scaledParBn,
  seqBn,
  seqBnInv,
} from './bottleneck.ts'
import { bitfit, full, head } from './comparison.ts'
import { dora, ia3, loraConfig } from './lora.ts'
import type { Preset } from './method.ts'
import { prefixTuningConfig, prefixTuningFlat } from './prefixTuning.ts'
import { promptTuningConfig } from './promptTuning.ts'
import { loreft, noreft } from './reft.ts'
import type { ConfigUnion } from '../config.ts'

/** Mix-and-match (He et al. 2021): `MAMConfig`. */
export const mam: ConfigUnion = {
  architecture: 'union',
  configs: [{ ...prefixTuningConfig, bottleneck_size: 800 }, parBn],
}

/** UniPELT (Mao et al. 2022): `UniPELTConfig`, every part behind a gate. */
export const unipelt: ConfigUnion = {
  architecture: 'union',
  configs: [
    { ...prefixTuningConfig, prefix_length: 10, use_gating: true },
    { ...seqBn, use_gating: true },
    { ...loraConfig, alpha: 2, use_gating: true },
  ],
}

const library: Preset[] = [
  {
    name: 'seq_bn',
    title: 'Bottleneck',
    help: 'A narrow two-layer network after each layer’s feed-forward part; the usual first choice.',
    config: seqBn,
  },
  {
    name: 'double_seq_bn',
    title: 'Double bottleneck',
    help: 'A bottleneck after the attention and one after the feed-forward part of each layer (Houlsby et al. 2019).',
    config: doubleSeqBn,
  },
  {
    name: 'par_bn',
    title: 'Parallel bottleneck',
    help: 'A wide bottleneck beside the feed-forward part instead of after it; strong, and large.',
    config: parBn,
  },
  {
    name: 'scaled_par_bn',
    title: 'Scaled parallel bottleneck',
    help: 'A parallel bottleneck whose share of the result is learned too.',
    config: scaledParBn,
  },
  {
    name: 'seq_bn_inv',
    title: 'Bottleneck with invertible block',
    help: 'A bottleneck in each layer and an invertible block on the embeddings, made for new languages.',
    config: seqBnInv,
  },
  {
    name: 'double_seq_bn_inv',
    title: 'Double bottleneck with invertible block',
    help: 'Two bottlenecks in each layer and an invertible block on the embeddings.',
    config: doubleSeqBnInv,
  },
  {
    name: 'compacter',
    title: 'Compacter',
    help: 'Two bottlenecks in each layer, their matrices put together from small factors; very few parameters.',
    config: compacter,
  },
  {
    name: 'compacter++',
    title: 'Compacter++',
    help: 'As Compacter, after the feed-forward part alone; half as many parameters.',
    config: compacterPlusPlus,
  },
  {
    name: 'adapterplus',
    title: 'Adapter+',
    help: 'A small bottleneck with a learned scale for each channel (Steitz & Roth 2024).',
    config: adapterPlus,
  },
  {
    name: 'prefix_tuning',
    title: 'Prefix tuning',
    help: 'Learned keys and values in front of every layer’s own, made by a small network; many parameters while training.',
    config: prefixTuningConfig,
  },
  {
    name: 'prefix_tuning_flat',
    title: 'Flat prefix tuning',
    help: 'Learned keys and values in front of every layer’s own, each number trained directly.',
    config: prefixTuningFlat,
  },
  {
    name: 'prompt_tuning',
    title: 'Prompt tuning',
    help: 'A few learned tokens in front of the text; the fewest parameters, and slow to learn.',
    config: promptTuningConfig,
  },
  {
    name: 'lora',
    title: 'LoRA',
    help: 'Low-rank updates of the attention’s matrices; they can be folded into the model afterwards.',
    config: loraConfig,
  },
  {
    name: 'dora',
    title: 'DoRA',
    help: 'LoRA with the length of each row of the matrix trained apart from its direction.',
    config: dora,
  },
  {
    name: 'ia3',
    title: '(IA)³',
    help: 'One learned factor for each key, value and feed-forward channel; tiny.',
    config: ia3,
  },
  {
    name: 'loreft',
    title: 'LoReFT',
    help: 'Learned changes to the first tokens’ representations, in a low-rank orthogonal subspace.',
    config: loreft,
  },
  {
    name: 'noreft',
    title: 'NoReFT',
    help: 'LoReFT without the orthogonality, which costs less time and trains nearly as well.',
    config: noreft,
  },
  {
    name: 'mam',
    title: 'Mix-and-match',
    help: 'Prefix tuning and a parallel bottleneck together; the largest of the adapters.',
    config: mam,
  },
  {
    name: 'unipelt',
    title: 'UniPELT',
    help: 'Prefix tuning, a bottleneck and LoRA together, each behind a learned gate.',
    config: unipelt,
  },
]

const comparisons: Preset[] = [
  {
    name: 'head',
    title: 'Head only',
    help: 'Trains the head on the frozen model: what the pretrained representations give by themselves.',
    config: head.defaults,
  },
  {
    name: 'bitfit',
    title: 'Biases only (BitFit)',
    help: 'Trains the model’s own biases and the head; the result is a whole model, not an adapter.',
    config: bitfit.defaults,
  },
  {
    name: 'full',
    title: 'Full fine-tuning',
    help: 'Trains every weight; it needs four times the model’s memory, and the result is a whole model.',
    config: full.defaults,
  },
]

/** In the order in which they are offered. */
export const presets: Preset[] = [...library, ...comparisons]

/** Older names of the library's strings. */
export const aliases: Record<string, string> = {
  pfeiffer: 'seq_bn',
  houlsby: 'double_seq_bn',
  parallel: 'par_bn',
  scaled_parallel: 'scaled_par_bn',
  'pfeiffer+inv': 'seq_bn_inv',
  'houlsby+inv': 'double_seq_bn_inv',
}

/** The library's strings that are not offered, and why. */
export const refused: Record<string, string> = {
  vera: 'The library’s VeRA trains whole matrices, 14 million values on roberta-base, and is not the published method; use lora.',
  dvora:
    'DVoRA stands on the library’s VeRA, which trains whole matrices and is not the published method; use dora.',
  mtl_lora: 'MTL-LoRA needs a task id with every text, which no data here has; use lora for each task.',
  direft:
    'DiReFT does not survive loading: the library reads it back as NoReFT with other results; use noreft or loreft.',
}
