/**
 * PEFT folders (Hugging Face `peft` 0.21) out of adapters: adapter_config.json in the fields that old and new versions
 * share, and adapter_model.safetensors with PEFT's key names. LoRA, (IA)³ and the two-layer tanh head mean the same in
 * both libraries, so the numbers are copied; for everything else there is a sentence why it has no PEFT form.
 */
import type { AdapterBundle, LoRAConfig, TensorMap } from '../config.ts'
import { checkBundle, sizesOf, splitTensors } from './adapterKeys.ts'
import type { FileMap } from './adapterhub.ts'
import { PyFloat, pythonJson, type PyJson } from './json.ts'
import { writeSafetensors } from './safetensors.ts'

const prefix = 'base_model.model.'

/** Why the adapter has no equivalent PEFT folder, in a sentence; null when it has one. */
export function peftProblem({ adapter, head }: Pick<AdapterBundle, 'adapter' | 'head'>): string | null {
  const not = (what: string) => `There is no equivalent PEFT folder: ${what}.`
  switch (adapter.architecture) {
    case null:
      return not('PEFT has no bottleneck adapters')
    case 'prefix_tuning':
      return not('PEFT shifts the positions of the text by the length of its prefixes')
    case 'prompt_tuning':
      return not('PEFT puts its prompts in front of the position embeddings and the first LayerNorm')
    case 'reft':
      return not('PEFT has no ReFT')
    case 'union':
      return not('PEFT knows no union of methods under one name')
    case 'head':
    case 'bitfit':
    case 'full':
      return not('there is no adapter')
    case 'lora':
      return loraProblem(adapter, not) ?? headProblem(head, not)
  }
}

function loraProblem(adapter: LoRAConfig, not: (what: string) => string): string | null {
  if (adapter.use_dora) return not("DoRA here scales the bias too, and PEFT's does not")
  if (adapter.use_gating) return not('PEFT has no gates')
  if (adapter.composition_mode === 'scale' && adapter.r !== 1)
    return not('its (IA)³ has one vector for each place, r 1')
  if (sitesOf(adapter).length === 0) return not('the adapter changes no matrix')
  return null
}

function headProblem(head: AdapterBundle['head'], not: (what: string) => string): string | null {
  if (head === null) return null
  const plain =
    head.head_type !== 'masked_lm' &&
    head.layers === 2 &&
    head.activation_function === 'tanh' &&
    !head.use_pooler &&
    head.bias &&
    head.pooling === 'first'
  return plain ? null : not("the model's own classifier there is a two-layer tanh head on the first token")
}

/** Linear layers of one encoder layer that a LoRA configuration wraps, by path. */
export function sitesOf(adapter: LoRAConfig): string[] {
  const matrices = [['q', 'query'], ['k', 'key'], ['v', 'value']] as const // prettier-ignore
  const attention = matrices.filter(
    ([matrix]) => adapter.selfattn_lora && adapter.attn_matrices.includes(matrix),
  )
  return [
    ...attention.map(([, path]) => `attention.self.${path}`),
    ...(adapter.intermediate_lora ? ['intermediate.dense'] : []),
    ...(adapter.output_lora ? ['output.dense'] : []),
  ]
}

/**
 * The folder that `PeftModel.from_pretrained(base, path)` reads, where base is a RobertaForSequenceClassification with
 * the head's number of labels, or without a head a RobertaModel. Throws peftProblem's sentence.
 */
export function toPeft(bundle: AdapterBundle): FileMap {
  checkBundle(bundle)
  const { name, adapter, head } = bundle
  const problem = peftProblem(bundle)
  if (problem !== null || adapter.architecture !== 'lora') throw new Error(problem ?? 'This is no LoRA.')
  const config: { [key: string]: PyJson } = {
    base_model_name_or_path: bundle.base?.name ?? null,
    fan_in_fan_out: false,
    inference_mode: true,
    modules_to_save: head ? ['classifier'] : null,
    revision: null,
    task_type: head ? 'SEQ_CLS' : 'FEATURE_EXTRACTION',
    ...(adapter.composition_mode === 'scale'
      ? scaleFields(adapter, sizesOf(bundle).num_hidden_layers)
      : loraFields(adapter, sizesOf(bundle).num_hidden_layers)),
  }
  const { adapter: own, head: classifier } = splitTensors(bundle)
  const tensors: TensorMap = new Map()
  for (const [key, tensor] of own) {
    const path = key.replace(`.loras.${name}.`, '.').replace(head ? /^$/ : /^roberta\./, '')
    const scaled = { shape: tensor.shape, data: tensor.data.map((value) => value * adapter.alpha) }
    if (adapter.composition_mode === 'add') tensors.set(`${prefix}${path}.weight`, tensor)
    else tensors.set(prefix + path.replace(/lora_B$/, 'ia3_l'), adapter.alpha === 1 ? tensor : scaled)
  }
  for (const [key, tensor] of classifier)
    tensors.set(
      prefix +
        key
          .replace(`heads.${name}.1.`, 'classifier.dense.')
          .replace(`heads.${name}.4.`, 'classifier.out_proj.'),
      tensor,
    )
  return new Map([
    ['adapter_config.json', new TextEncoder().encode(pythonJson(config))],
    ['adapter_model.safetensors', writeSafetensors(tensors, { format: 'pt' })],
  ])
}

function loraFields(adapter: LoRAConfig, layers: number): { [key: string]: PyJson } {
  const target_modules = targets(adapter)
  const kept = keptLayers(adapter, layers)
  // PEFT takes a list of layers only beside a list of names; a pattern says its layers itself.
  const listed = target_modules !== null
  return {
    bias: 'none',
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: listed ? kept : null,
    lora_alpha: adapter.alpha,
    lora_dropout: new PyFloat(adapter.dropout),
    peft_type: 'LORA',
    r: adapter.r,
    target_modules: target_modules ?? pattern(adapter, kept),
  }
}

function scaleFields(adapter: LoRAConfig, layers: number): { [key: string]: PyJson } {
  const kept = keptLayers(adapter, layers)
  return {
    feedforward_modules: [],
    init_ia3_weights: true,
    peft_type: 'IA3',
    target_modules: (kept === null ? targets(adapter) : null) ?? pattern(adapter, kept),
  }
}

/** Layers that have the adapter; null when all have. */
function keptLayers({ leave_out }: LoRAConfig, layers: number): number[] | null {
  const kept = Array.from({ length: layers }, (_, l) => l).filter((l) => !leave_out.includes(l))
  return kept.length === layers ? null : kept
}

/** Names of modules as a list; null where the entry `output.dense` would also match attention.output.dense. */
function targets(adapter: LoRAConfig): string[] | null {
  const sites = sitesOf(adapter)
  return sites.includes('output.dense') ? null : sites.map((path) => path.replace('attention.self.', ''))
}

/** A pattern for whole module names, of these layers or all. */
function pattern(adapter: LoRAConfig, kept: number[] | null): string {
  const layer = kept === null ? '\\d+' : `(${kept.join('|')})`
  return `.*encoder\\.layer\\.${layer}\\.(${sitesOf(adapter)
    .map((path) => path.replaceAll('.', '\\.'))
    .join('|')})`
}
