/** predict.py of an export: loads it with the real libraries and compares with the numbers that the page computed. */
import type { AdapterBundle, AdapterConfig, HeadConfig, SetupBundle } from '../config.ts'
import { childConfigs } from '../methods/registry.ts'
import { isLibraryHead } from './headConfig.ts'

/** A text and what the page computes for it; of several heads their logits one after another. */
export interface Example {
  text: string
  logits: number[]
}

/** predict.py: the base model by name or folder, what was exported, and the logits that the page computed. */
export function predictScript(exported: AdapterBundle | SetupBundle, examples: Example[]): string {
  // A JSON string is a Python string; float32 values are exact in 9 digits.
  const expected = examples.map(
    ({ text, logits }) =>
      `    ${JSON.stringify(text)}: [${logits.map((value) => Number(value.toPrecision(9))).join(', ')}],`,
  )
  const whole = 'adapter' in exported && ['bitfit', 'full'].includes(String(exported.adapter.architecture))
  const from = JSON.stringify(exported.base?.name ?? 'roberta-base')
  const classes = whole ? 'AutoModelForSequenceClassification' : 'AutoAdapterModel'
  const source = whole ? 'str(here / "model")' : `sys.argv[1] if len(sys.argv) > 1 else ${from}`
  return `# python predict.py${whole ? '' : ' [base model, an id or a folder]'}   needs: pip install ${whole ? 'transformers' : 'adapters'} torch
import sys
from pathlib import Path
import torch
${whole ? `from transformers import ${classes}, PreTrainedTokenizerFast` : `from adapters import ${classes}\nfrom transformers import PreTrainedTokenizerFast`}

here = Path(__file__).parent
labels = [${labelsOf(exported)
    .map((label) => JSON.stringify(label))
    .join(', ')}]
expected = {
${expected.join('\n')}
}
tokenizer = PreTrainedTokenizerFast.from_pretrained(here / "tokenizer")
model = ${classes}.from_pretrained(${source})
${whole ? '' : loading(exported)}model.eval()
${logitsFunction(exported)}
for text, logits in expected.items():
    inputs = tokenizer(text, truncation=True, max_length=${exported.max_length}, return_tensors="pt", return_token_type_ids=False)
    found = logits_of(inputs).detach()
    print(${answer(exported)}, found.tolist(), text)
    assert torch.allclose(found, torch.tensor(logits), atol=1e-4, rtol=1e-4), f"expected {logits}"
`
}

/** The one head's labels; of a setup with several heads none. */
function labelsOf(exported: AdapterBundle | SetupBundle): string[] {
  if ('adapter' in exported) return exported.id2label
  const [name, more] = exported.active_heads
  return name !== undefined && more === undefined ? (exported.heads[name]?.id2label ?? []) : []
}

function headOf(exported: AdapterBundle | SetupBundle): HeadConfig | null {
  if ('adapter' in exported) return exported.head
  const [name, more] = exported.active_heads
  return name !== undefined && more === undefined ? (exported.heads[name]?.config ?? null) : null
}

function loading(exported: AdapterBundle | SetupBundle): string {
  const folder = 'str(here / "adapterhub")'
  if (!('adapter' in exported)) return `model.load_adapter_setup(${folder}, set_active=True)\n`
  if (exported.adapter.architecture === 'head')
    return isOwn(exported) ? '' : `model.load_head(${folder})\nmodel.active_head = "${exported.name}"\n`
  const options = isOwn(exported) ? ', with_head=False' : ''
  return `model.load_adapter(${folder}, set_active=True${options})\n`
}

function isOwn(exported: AdapterBundle | SetupBundle): boolean {
  const head = headOf(exported)
  return head !== null && !isLibraryHead(head)
}

/** How the logits of one text come out of the model. */
function logitsFunction(exported: AdapterBundle | SetupBundle): string {
  if (isOwn(exported)) return meanPooled(exported)
  return `
def logits_of(inputs):
    outputs = model(**inputs)
    return torch.cat([part.logits[0] for part in getattr(outputs, "head_outputs", [outputs])])
`
}

/** The library has no head on the mean of the tokens, so its tensors are applied one by one. */
function meanPooled(exported: AdapterBundle | SetupBundle): string {
  const head = headOf(exported)
  const name = 'adapter' in exported ? exported.name : exported.active_heads[0]
  if (head === null || head.head_type === 'masked_lm') return ''
  const folder = 'adapter' in exported ? '' : ` / "${name}"`
  const afterFirst = configsOf(exported).some(
    (one) => one.architecture === 'prompt_tuning' && one.combine !== 'prefix',
  )
  const text = afterFirst ? 'torch.cat([x[:1], x[1 + prompt :]])' : 'x[prompt:]'
  const step = head.activation_function === null ? 2 : 3
  const linears = Array.from({ length: head.layers }, (_, i) => 1 + step * i)
  const act =
    head.activation_function === null ? '' : `\n            x = ACT2FN["${head.activation_function}"](x)`
  return `
from transformers.activations import ACT2FN
head = torch.load(here / "adapterhub"${folder} / "pytorch_model_head.bin", weights_only=True)

def logits_of(inputs):
    x = model.roberta(**inputs).last_hidden_state[0]  # one text has no padding
    prompt = len(x) - inputs["input_ids"].shape[1]
    x = ${text}.mean(0)
    for i in [${linears.join(', ')}]:
        x = torch.nn.functional.linear(x, head[f"heads.${name}.{i}.weight"], head.get(f"heads.${name}.{i}.bias"))
        if i != ${linears.at(-1)}:${act === '' ? '\n            pass' : act}
    return x
`
}

/** Every method of what was exported, those of unions one by one. */
function configsOf(exported: AdapterBundle | SetupBundle): AdapterConfig[] {
  const configs =
    'adapter' in exported ? [exported.adapter] : Object.values(exported.adapters).map(({ config }) => config)
  return configs.flatMap(childConfigs)
}

/** What is printed before the logits. */
function answer(exported: AdapterBundle | SetupBundle): string {
  const head = headOf(exported)
  if (head === null || head.head_type === 'masked_lm') return '"logits"'
  if (head.head_type === 'multilabel_classification')
    return '[label for label, logit in zip(labels, found.tolist()) if logit > 0]'
  return head.num_labels === 1 ? '"value"' : 'labels[int(found.argmax())]'
}
