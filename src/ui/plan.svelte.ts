/** What the next run makes: its adapter or comparison, its head, and the kept adapters that take part. */
import { classificationHead } from '../config.ts'
import { defaultsOf, trainingDefaults } from '../trainingArguments.ts'
import type { AdapterConfig, ComparisonConfig } from '../config.ts'
import type {
  AdapterDrop,
  Assembly,
  HeadOptions,
  LabelWordsOptions,
  MaskedLMOptions,
  Mapping,
  TrainingArguments,
} from '../protocol.ts'
import { Draft } from './draft.svelte.ts'
import { loadMethods } from './methods.svelte.ts'

/** The part of a `train` command that says what is made. */
export interface Made {
  name: string
  adapter: AdapterConfig
  head: HeadOptions
  assembly?: Assembly
  adapter_drop?: AdapterDrop
  masked_lm?: MaskedLMOptions
  label_words?: LabelWordsOptions
}

/** As BERT and RoBERTa were pretrained: `DataCollatorForLanguageModeling` with transformers' defaults. */
const plainMaskedLM: MaskedLMOptions = {
  mlm_probability: 0.15,
  mask_replace_prob: 0.8,
  random_replace_prob: 0.1,
  packing: { texts_at_once: null },
  fresh_head: false,
}

/** The head of two layers that the library makes by default. */
export function plainHead(): HeadOptions {
  const { head_type: _type, num_labels: _labels, ...options } = classificationHead(2)
  return options
}

/** No adapter of its own: what it trains is the head, and maybe the model's weights. */
export function isComparison(config: AdapterConfig): config is ComparisonConfig {
  const { architecture } = config
  return architecture === 'head' || architecture === 'bitfit' || architecture === 'full'
}

export class Plan {
  /** In the library's form, or one of ours (`head`, `bitfit`, `full`). */
  adapter = $state<AdapterConfig>({ architecture: 'head' })
  head = $state<HeadOptions>(plainHead())
  maskedLM = $state<MaskedLMOptions>(structuredClone(plainMaskedLM))
  /** Words that answer instead of a head; null: a head does. */
  labelWords = $state<LabelWordsOptions | null>(null)
  draft = new Draft()
  adapterDrop = $state.raw<AdapterDrop | null>(null)
  #chosen = false
  /** The arguments' defaults for the plan as it was. */
  #defaults = trainingDefaults

  /** Fetches the methods and begins with the first of them, unless another was chosen meanwhile. */
  async load(): Promise<void> {
    const { firstChoices } = await loadMethods()
    const [first] = firstChoices
    if (first && !this.#chosen) this.choose(first.config)
  }

  /** Plain data, free of proxies. */
  get config(): AdapterConfig {
    return $state.snapshot(this.adapter) as AdapterConfig
  }

  /** Takes a preset or a configuration read from text. */
  choose(adapter: AdapterConfig): void {
    this.#chosen = true
    this.adapter = structuredClone($state.snapshot(adapter) as AdapterConfig)
    this.draft.own = !isComparison(adapter)
  }

  /** What in `args` still has the default of the plan as it was gets that of the plan as it is. */
  followedBy(args: TrainingArguments, task: Mapping['task'] = 'classes'): void {
    const { base_dropout } = this.#defaults
    this.#defaults = defaultsOf(this.adapter, this.draft.members.length === 0 && task !== 'masked_lm')
    if (args.base_dropout === base_dropout) args.base_dropout = this.#defaults.base_dropout
  }

  /** As the worker takes it, the run's own adapter under `name`; the plain case says no more than it must. */
  made(name: string, task: Mapping['task'] = 'classes'): Made {
    const { draft, adapterDrop, labelWords } = this
    return {
      name,
      adapter: this.config,
      head: $state.snapshot(this.head),
      ...(draft.plain ? {} : { assembly: draft.assembly(name) }),
      ...(adapterDrop ? { adapter_drop: { ...adapterDrop } } : {}),
      ...(task === 'masked_lm' ? { masked_lm: $state.snapshot(this.maskedLM) } : {}),
      ...(task === 'classes' && labelWords ? { label_words: $state.snapshot(labelWords) } : {}),
    }
  }
}
