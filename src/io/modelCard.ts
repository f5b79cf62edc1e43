/** The texts of an export: the model card, the script that checks the adapter in Python, and the metrics as CSV. */
import type { AdapterBundle, AdapterConfig } from '../config.ts'
import { loraPaths } from './adapterKeys.ts'
import type { RunRecord, StoredMetrics } from './db.ts'

/** README.md with the front matter that the hub reads. Numbers are the run's, each with its split. */
export function modelCard(bundle: AdapterBundle, run: RunRecord): string {
  const base = bundle.base?.name ?? 'the base model'
  const validation = run.history.evaluation.find(
    (item) => item.step === run.best_step && item.split === 'validation',
  )
  const rows: [string, StoredMetrics | null][] = [
    [`validation, step ${run.best_step}`, validation?.metrics ?? null],
    ['test', run.test],
  ]
  const found = rows.filter((row): row is [string, StoredMetrics] => row[1] !== null)
  const score = (value: number) => value.toFixed(4)
  const table = found.map(
    ([split, m]) => `| ${split} | ${score(m.f1_macro)} | ${score(m.accuracy)} | ${score(m.loss)} |`,
  )
  return `---
tags:
- adapter-transformers
- roberta
- text-classification
---

# ${bundle.name}: an adapter for ${base}

${describe(bundle.adapter)} It was trained in a browser with Adaptab; the base model's weights were not changed.

- Labels: ${bundle.id2label.map((label, id) => `${id} = ${label}`).join(', ')}
- Longest input: ${bundle.max_length} tokens
- Base model: ${base}${bundle.base ? `, SHA-256 of its weights ${bundle.base.sha256}` : ''}

## Evaluation

${found.length === 0 ? 'There was no evaluation.' : ['| split | macro-F1 | accuracy | loss |', '|---|---|---|---|', ...table].join('\n')}

## Use

\`predict.py\` loads the adapter in Python and checks its numbers. \`adapterhub/\` is a folder of the \`adapters\`
library${bundle.adapter.method === 'lora' ? ', `peft/` the same adapter for the `peft` library' : ''}; \`tokenizer/\` belongs to the base model. \`run.json\` holds how it was trained,
\`metrics.csv\` every number of the run.
`
}

function describe(adapter: AdapterConfig): string {
  if (adapter.method === 'head') return 'A classification head on the frozen model, without an adapter.'
  if (adapter.method === 'seq_bn')
    return `A sequential bottleneck adapter (seq_bn, reduction factor ${adapter.reduction_factor}) with a classification head.`
  return `A LoRA adapter (r ${adapter.r}, alpha ${adapter.alpha}, on ${loraPaths(adapter).join(', ')}) with a classification head.`
}

/** predict.py: the base model by name or folder, the adapter, and the logits that the page computed. */
export function predictScript(bundle: AdapterBundle, examples: { text: string; logits: number[] }[]): string {
  // A JSON string is a Python string; float32 values are exact in 9 digits.
  const expected = examples.map(
    ({ text, logits }) =>
      `    ${JSON.stringify(text)}: [${logits.map((value) => Number(value.toPrecision(9))).join(', ')}],`,
  )
  const load =
    bundle.adapter.method === 'head'
      ? `model.load_head(str(here / "adapterhub"))\nmodel.active_head = "${bundle.name}"`
      : 'model.load_adapter(str(here / "adapterhub"), set_active=True)'
  return `# python predict.py [base model, an id or a folder]   needs: pip install adapters torch
import sys
from pathlib import Path
import torch
from adapters import AutoAdapterModel
from transformers import PreTrainedTokenizerFast

here = Path(__file__).parent
labels = [${bundle.id2label.map((label) => JSON.stringify(label)).join(', ')}]
expected = {
${expected.join('\n')}
}
tokenizer = PreTrainedTokenizerFast.from_pretrained(here / "tokenizer")
model = AutoAdapterModel.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else ${JSON.stringify(bundle.base?.name ?? 'roberta-base')})
${load}
model.eval()
for text, logits in expected.items():
    inputs = tokenizer(text, truncation=True, max_length=${bundle.max_length}, return_tensors="pt", return_token_type_ids=False)
    found = model(**inputs).logits[0].detach()
    print(labels[int(found.argmax())], found.tolist(), text)
    assert torch.allclose(found, torch.tensor(logits), atol=1e-4, rtol=1e-4), f"expected {logits}"
`
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
    ...history.evaluation.map(({ split, step, epoch, metrics }) => ({ ...metrics, split, step, epoch })),
  ]
  if (test) rows.push({ ...test, split: 'test', step: best_step })
  return [columns, ...rows.map((row) => columns.map((column) => row[column] ?? ''))]
    .map((row) => `${row.join(',')}\n`)
    .join('')
}
