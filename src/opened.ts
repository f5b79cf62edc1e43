/**
 * Kept adapters in the model, for prediction and export: how they work together, which of them are folded into the
 * base's weights at the moment, and the labels that each head answers with.
 */
import { assemble, assembledOf, assembledOfSetup, mapped, passedBy, type Assembled } from './assembly.ts'
import type { Base } from './base.ts'
import type { AdapterBundle, AdapterSetup, Assembly, HostTensor, SetupBundle, TensorMap } from './config.ts'
import { foldProblem, foldedWeights, type WeightReader } from './io/foldedWeights.ts'
import { openSafetensors } from './io/safetensors.ts'
import { setupBundle } from './io/setup.ts'
import { fusionParameters } from './methods/fusion.ts'
import { loraPlaces } from './methods/lora.ts'
import { childConfigs, countParameters } from './methods/registry.ts'
import { headParameters } from './model/heads/head.ts'
import { createModel, disposeModel, type Model } from './model/model.ts'
import { adapterSummary, type SummaryRow } from './model/params.ts'
import { maxTokens } from './model/robertaConfig.ts'
import type { LabelWordsOptions } from './protocol.ts'
import type { KeptRun } from './training.ts'

/** A question with a word for each answer. */
export interface Prompt {
  label_words: LabelWordsOptions
  id2label: string[]
}

/** The prompt of a run that was trained with label words. */
export function promptOfRun({ task, id2label }: KeptRun): Prompt | null {
  return task?.label_words ? { label_words: task.label_words, id2label } : null
}

export class Opened {
  #merged: string[] = []

  private constructor(
    readonly base: Base,
    readonly assembly: Assembly,
    /** Adapters that came alone, by the name they have here. */
    readonly bundles: ReadonlyMap<string, AdapterBundle>,
    readonly assembled: Assembled,
    readonly max_length: number,
    public model: Model,
    /** How texts are asked of a masked-LM head, and what its words stand for; null for other heads. */
    readonly prompt: Prompt | null = null,
  ) {}

  /** Puts the members of `assembly` into the model; `load` gives a kept adapter by its run. */
  static async open(
    base: Base,
    assembly: Assembly,
    load: (runId: string) => Promise<AdapterBundle>,
  ): Promise<Opened> {
    const bundles = new Map<string, AdapterBundle>()
    for (const { name, runId } of assembly.members) bundles.set(name, await load(runId))
    const runs = new Map(assembly.members.map(({ runId, name }) => [runId, bundles.get(name)!]))
    const assembled = assemble(null, assembly, runs)
    const max_length = Math.min(maxTokens(base.config), ...[...bundles.values()].map((one) => one.max_length))
    const model = createModel(base.roberta, assembled.setup, assembled.given)
    return new Opened(base, assembly, bundles, assembled, max_length, model)
  }

  /** Puts one kept run into the model: an adapter with its head, or a whole composition. */
  static ofRun(base: Base, record: KeptRun, kept: AdapterBundle | SetupBundle): Opened {
    const max_length = Math.min(maxTokens(base.config), kept.max_length)
    const alone = 'adapter' in kept
    const whole = alone ? assembledOf(kept) : assembledOfSetup(kept)
    const skip_layers = passedBy(record)
    const assembled = { ...whole, setup: { ...whole.setup, skip_layers } }
    const model = createModel(base.roberta, assembled.setup, assembled.given)
    const { active } = assembled.setup
    const member = { name: kept.name, runId: record.id, with_head: true, train: false, train_head: false }
    const assembly = { members: [member], active, skip_layers, fusions: {} }
    const bundles = new Map(alone ? [[kept.name, kept]] : [])
    return new Opened(base, assembly, bundles, assembled, max_length, model, promptOfRun(record))
  }

  /** What a run has just trained, already in the model. */
  static trained(
    base: Base,
    runId: string,
    model: Model,
    kept: AdapterBundle | SetupBundle,
    prompt: Prompt | null,
  ): Opened {
    const opened = 'adapter' in kept ? assembledOf(kept) : assembledOfSetup(kept)
    const member = { name: kept.name, runId, with_head: true, train: false, train_head: false }
    const assembly = {
      members: [member],
      active: model.setup.active,
      skip_layers: model.setup.skip_layers,
      fusions: {},
    }
    const bundles = new Map('adapter' in kept ? [[kept.name, kept]] : [])
    const assembled = { ...opened, setup: model.setup }
    return new Opened(base, assembly, bundles, assembled, kept.max_length, model, prompt)
  }

  /** Heads that are computed, with their labels, in the order of their outputs. */
  get heads(): { name: string; id2label: string[] }[] {
    const { setup, id2label } = this.assembled
    return setup.active_heads.map((name) => ({
      name,
      id2label: this.prompt?.id2label ?? id2label[name] ?? [],
    }))
  }

  get label_words(): LabelWordsOptions | null {
    return this.prompt?.label_words ?? null
  }

  /** Whether the heads label texts as they are, so that an export can carry examples of it. */
  get labelsTexts(): boolean {
    const { active_heads, heads } = this.assembled.setup
    return active_heads.length > 0 && active_heads.every((name) => heads[name]!.head_type !== 'masked_lm')
  }

  get merged(): readonly string[] {
    return this.#merged
  }

  /** `adapter_summary()` of what stands on the base. */
  get rows(): SummaryRow[] {
    return summaryOf(this.base, this.assembled.setup)
  }

  /** `merge_adapter`: folds an active adapter into the weights. Throws one sentence when its method does not allow it. */
  async merge(name: string): Promise<void> {
    const bundle = this.bundles.get(name)
    if (!bundle) throw new Error(`There is no adapter “${name}” in the model to merge.`)
    const problem = foldProblem(bundle.adapter)
    if (problem) throw new Error(problem)
    if (!this.#merged.includes(name)) await this.#rebuild([...this.#merged, name])
  }

  /** `reset_adapter`: takes a merged adapter out of the weights again. */
  async reset(name: string): Promise<void> {
    if (!this.#merged.includes(name))
      throw new Error(`“${name}” is not merged, so there is nothing to take out.`)
    await this.#rebuild(this.#merged.filter((other) => other !== name))
  }

  dispose(): void {
    disposeModel(this.model)
  }

  /** The model with the adapters in `merged` folded in, one after another, instead of active. */
  async #rebuild(merged: string[]): Promise<void> {
    const { base, assembled } = this
    let file: WeightReader = await openSafetensors(base.folder.weights)
    const folded: TensorMap = new Map()
    for (const name of merged) {
      const changed = await foldedInto(base, file, this.bundles.get(name)!, assembled.setup.skip_layers)
      for (const [key, tensor] of changed) folded.set(key, tensor)
      file = overlaid(file, folded)
    }
    const setup = { ...assembled.setup, active: without(assembled.setup.active, merged) }
    const model = createModel(base.roberta, setup, new Map([...assembled.given, ...folded]))
    disposeModel(this.model)
    this.model = model
    this.#merged = merged
  }

  /** The composition as `save_adapter_setup` keeps it. Throws when nothing is active. */
  bundle(name: string): SetupBundle {
    const { setup, given, id2label } = this.assembled
    return setupBundle(name, setup, given, id2label, this.base.identity, this.max_length)
  }
}

/** `adapter_summary()` of a setup on a base. */
export function summaryOf({ config }: Pick<Base, 'config'>, setup: Assembled['setup']): SummaryRow[] {
  const count = (shapes: { shape: number[] }[]) =>
    shapes.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  return adapterSummary(config, setup, {
    adapters: mapped(setup.adapters, (adapter) => countParameters(config, adapter)),
    heads: mapped(setup.heads, (head, name) => count(headParameters(config, head, name))),
    fusions: Object.entries(setup.fusions)
      .map(([key, fusion]) =>
        count(
          fusionParameters(
            config,
            key.split(',').map((name) => setup.adapters[name]!),
            key,
            fusion,
          ),
        ),
      )
      .reduce((a, b) => a + b, 0),
  })
}

/** The base's tensors that an adapter changes, with the change. */
async function foldedInto(
  { config }: Base,
  file: WeightReader,
  bundle: AdapterBundle,
  skip_layers: number[],
): Promise<TensorMap> {
  const weights = foldedWeights(config, file, bundle, skip_layers)
  const changed: [string, HostTensor][] = []
  for (const child of childConfigs(bundle.adapter)) {
    if (child.architecture !== 'lora') continue
    for (const { base: linear } of loraPlaces(config, child, bundle.name))
      for (const key of [`${linear}.weight`, `${linear}.bias`])
        changed.push([key, { shape: weights.shapes.get(key)!, data: await weights.read(key) }])
  }
  return new Map(changed)
}

/** A file in which some tensors have other values. */
function overlaid(file: WeightReader, changed: TensorMap): WeightReader {
  const plain = (name: string) => (name.startsWith('roberta.') ? name : `roberta.${name}`)
  return {
    names: () => file.names(),
    shape: (name) => file.shape(name),
    read: async (name) => changed.get(plain(name))?.data ?? file.read(name),
  }
}

/** A setup without some adapters; null when nobody is left. */
function without(setup: AdapterSetup | null, names: string[]): AdapterSetup | null {
  if (setup === null || typeof setup === 'string')
    return setup !== null && names.includes(setup) ? null : setup
  if (setup.type !== 'Stack')
    throw new Error(`An adapter inside ${setup.type} cannot be merged: it shares the prediction with others.`)
  const children = setup.children.map((child) => without(child, names)).filter((child) => child !== null)
  return children.length === 0 ? null : { type: 'Stack', children }
}
