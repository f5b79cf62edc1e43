/** The texts of an export for people: the model card, and the metrics as CSV. */
import type { AdapterBundle, AdapterConfig, HeadConfig, SetupBundle } from '../config.ts'
import { presetOf } from '../methods/registry.ts'
import { formatSetup } from '../methods/setupText.ts'
import type { RunRecord, StoredMetrics } from './db.ts'
import { isLibraryHead } from './headConfig.ts'
import { peftProblem } from './peft.ts'

/** README.md with the front matter that the hub reads. Numbers are the run's, each with its split. */
export function modelCard(exported: AdapterBundle | SetupBundle, run: RunRecord): string {
  const base = exported.base?.name ?? 'the base model'
  const tags = ['adapter-transformers', 'roberta', ...headsOf(exported).map(({ head }) => tagOf(head))]
  return `---
tags:
${[...new Set(tags)].map((tag) => `- ${tag}`).join('\n')}
---

# ${exported.name}: an adapter for ${base}

${describe(exported)} It was trained in a browser with Adaptab${changesBase(exported) ? '' : "; the base model's weights were not changed"}.

${facts(exported, base)}

## Evaluation

${evaluation(run)}

## Use

${use(exported)}
`
}

interface NamedHead {
  head: HeadConfig
  id2label: string[]
}

function headsOf(exported: AdapterBundle | SetupBundle): NamedHead[] {
  if ('adapter' in exported)
    return exported.head ? [{ head: exported.head, id2label: exported.id2label }] : []
  return Object.values(exported.heads).map(({ config, id2label }) => ({ head: config, id2label }))
}

function tagOf(head: HeadConfig): string {
  return head.head_type === 'masked_lm' ? 'fill-mask' : 'text-classification'
}

function changesBase(exported: AdapterBundle | SetupBundle): boolean {
  return 'adapter' in exported && ['bitfit', 'full'].includes(String(exported.adapter.architecture))
}

function describe(exported: AdapterBundle | SetupBundle): string {
  const heads = headsOf(exported).map(({ head }) => headWords(head))
  const withHeads = heads.length === 0 ? ' without a prediction head' : ` with ${heads.join(' and ')}`
  if (!('adapter' in exported)) {
    const members = Object.entries(exported.adapters).map(
      ([name, { config }]) => `${name} (${methodWords(config)})`,
    )
    return `A setup of adapters, \`${formatSetup(exported.active)}\`, of ${members.join(', ')}${withHeads}.`
  }
  const { architecture } = exported.adapter
  if (architecture === 'head') return `${heads[0] ?? 'A head'} on the frozen model, without an adapter.`.replace(/^./, (a) => a.toUpperCase()) // prettier-ignore
  if (architecture === 'bitfit') return `The model with trained biases${withHeads}.`
  if (architecture === 'full') return `The model with all its weights trained${withHeads}.`
  return `An adapter (${methodWords(exported.adapter)})${withHeads}.`
}

/** A preset's name and what differs from it, as the library's strings have it. */
function methodWords(config: AdapterConfig): string {
  const preset = presetOf(config)
  if (!preset) return config.architecture ?? 'bottleneck'
  const standard = new Map(Object.entries(preset.config))
  const changed = Object.entries(config).filter(
    ([field, value]) => field !== 'configs' && JSON.stringify(value) !== JSON.stringify(standard.get(field)),
  )
  return [preset.name, ...changed.map(([field, value]) => `${field} ${JSON.stringify(value)}`)].join(', ')
}

function headWords(head: HeadConfig): string {
  if (head.head_type === 'masked_lm') return 'a masked-LM head'
  if (head.num_labels === 1 && head.head_type === 'classification') return 'a regression head'
  return head.head_type === 'classification' ? 'a classification head' : 'a multi-label classification head'
}

function facts(exported: AdapterBundle | SetupBundle, base: string): string {
  const labels = headsOf(exported).flatMap(({ id2label }) =>
    id2label.length === 0 ? [] : [`- Labels: ${id2label.map((label, id) => `${id} = ${label}`).join(', ')}`],
  )
  const sha256 = exported.base ? `, SHA-256 of its weights ${exported.base.sha256}` : ''
  return [
    ...labels,
    `- Longest input: ${exported.max_length} tokens`,
    `- Base model: ${base}${sha256}`,
    ...headsOf(exported).flatMap(({ head }) =>
      isLibraryHead(head)
        ? []
        : [
            '- The head reads the mean over the tokens, which the library has not: load with `with_head=False`, as predict.py does',
          ],
    ),
  ].join('\n')
}

/** The metrics of the kept weights, one row for each split. */
function evaluation(run: RunRecord): string {
  const validation = run.history.evaluation.find(
    (item) => item.step === run.best_step && item.split === 'validation',
  )
  const rows: [string, StoredMetrics | null][] = [
    [`validation, step ${run.best_step}`, validation?.metrics ?? null],
    ['test', run.test],
  ]
  const found = rows.filter((row): row is [string, StoredMetrics] => row[1] !== null)
  if (found.length === 0) return 'There was no evaluation.'
  const names = metricNames(found.map(([, metrics]) => metrics))
  const cell = (value: number | undefined) => (value === undefined ? '' : value.toFixed(4))
  return [
    `| split | ${names.map((name) => name.replace(/^f1_/, '').replace(/^(macro|micro)$/, '$1-F1')).join(' | ')} |`,
    `|---|${names.map(() => '---|').join('')}`,
    ...found.map(
      ([split, metrics]) =>
        `| ${split} | ${names.map((name) => cell(numbersOf(metrics)[name])).join(' | ')} |`,
    ),
  ].join('\n')
}

/** Single numbers among the metrics, the best known ones first. */
function metricNames(all: object[]): string[] {
  const first = ['f1_macro', 'f1_micro', 'accuracy', 'loss']
  const names = new Set(all.flatMap((metrics) => Object.keys(numbersOf(metrics))))
  return [...first.filter((name) => names.has(name)), ...[...names].filter((name) => !first.includes(name))]
}

function numbersOf(metrics: object): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).filter(([, value]) => typeof value === 'number'))
}

function use(exported: AdapterBundle | SetupBundle): string {
  const script = '`predict.py` loads it in Python and checks its numbers.'
  const rest = '`tokenizer/` belongs to the base model. `run.json` holds how it was trained, `metrics.csv` every number of the run.' // prettier-ignore
  if (changesBase(exported)) return `${script} \`model/\` is the whole model for \`transformers\`. ${rest}`
  const folder = '`adapterhub/` is a folder of the `adapters` library'
  if (!('adapter' in exported)) return `${script} ${folder} (\`load_adapter_setup\`). ${rest}`
  const problem = peftProblem(exported)
  const peft = problem === null ? ', `peft/` the same adapter for the `peft` library.' : `. ${problem}`
  return `${script} ${folder}${peft} ${rest}`
}

const columns = [
  'split',
  'step',
  'epoch',
  'loss',
  'learning_rate',
  'grad_norm',
  'accuracy',
  'f1_macro',
  'f1_micro',
]

/** One row per logged step and per evaluation; cells that do not apply are empty. */
export function metricsCsv({ history, test, best_step }: RunRecord): string {
  const rows: Record<string, number | string>[] = [
    ...history.step.map((record) => ({ split: 'train', ...record })),
    ...history.evaluation.map(({ split, step, epoch, metrics }) => ({
      ...numbersOf(metrics),
      split,
      step,
      epoch,
    })),
  ]
  if (test) rows.push({ ...numbersOf(test), split: 'test', step: best_step })
  const all = [...new Set([...columns, ...rows.flatMap((row) => Object.keys(row))])]
  return [all, ...rows.map((row) => all.map((column) => row[column] ?? ''))]
    .map((row) => `${row.join(',')}\n`)
    .join('')
}
