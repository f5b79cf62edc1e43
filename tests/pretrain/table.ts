/**
 * The mini-roberta table of the README, by the engine itself: `npm run table`. Trains the head alone, seq_bn and LoRA
 * on the bundled sample reviews with the page's defaults (and the base's dropout on as in Python, which the page leaves off for
 * the head alone), each with five seeds (which draw split, head, adapter, order
 * and dropout), and prints macro-F1 on the test split. `npm run table -- --seeds 2 --methods lora` does less.
 */
import { parseArgs } from 'node:util'
import { openBase } from '../../src/base.ts'
import { assemble, noMembers } from '../../src/assembly.ts'
import { classificationHead, type AdapterConfig } from '../../src/config.ts'
import { trainingDefaults } from '../../src/trainingArguments.ts'
import { seqBn } from '../../src/methods/bottleneck.ts'
import { loraConfig } from '../../src/methods/lora.ts'
import { buildDataset, guessMapping } from '../../src/data/dataset.ts'
import { parseSources } from '../../src/data/parse.ts'
import { openModelDir, openNodeBackend, openSources } from '../../src/headless/node.ts'
import { disposeModel } from '../../src/model/model.ts'
import { run } from '../../src/run.ts'
import { plainTask } from '../../src/task.ts'

const methods: Record<string, { label: string; adapter: AdapterConfig }> = {
  head: { label: 'head alone', adapter: { architecture: 'head' } },
  seq_bn: { label: 'seq_bn, reduction_factor 16', adapter: seqBn },
  lora: { label: 'lora, r 8, alpha 16, q and v', adapter: { ...loraConfig, alpha: 16 } },
}

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '5' },
    methods: { type: 'string', default: Object.keys(methods).join() },
    backend: { type: 'string', default: 'wasm' },
  },
})

await openNodeBackend(values.backend as 'wasm' | 'cpu' | 'webgpu')
const base = await openBase(await openModelDir('public/models/mini-roberta'))
const tables = await parseSources(await openSources(['sample']))
const mapping = guessMapping(tables)!
const roles = tables.map(() => 'all' as const)

/** Macro-F1 on the test split after one run. */
async function testF1(adapter: AdapterConfig, seed: number): Promise<number> {
  const split = { validation: 0.1, test: 0.2, fraction: 1, sampling: 'stratified' as const, seed }
  const dataset = buildDataset(tables, roles, mapping, split)
  const own = { name: 'table', adapter, head: classificationHead(dataset.id2label.length) }
  const assembled = assemble(own, noMembers, new Map())
  const args = { ...trainingDefaults, seed }
  const program = run({
    base,
    dataset,
    own,
    assembled,
    args,
    task: plainTask,
    adapter_drop: null,
    resume: null,
  })
  for (;;) {
    const { value, done } = await program.next()
    if (!done) continue
    disposeModel(value.model)
    return value.test!.f1_macro
  }
}

process.stdout.write('| trained | macro-F1 on test, mean ± sd | seeds |\n|---|---|---|\n')
for (const name of values.methods.split(',')) {
  const { label, adapter } = methods[name]!
  const found: number[] = []
  for (let seed = 0; seed < Number(values.seeds); seed++) found.push(await testF1(adapter, seed))
  const mean = found.reduce((a, b) => a + b, 0) / found.length
  const sd = Math.sqrt(found.reduce((sum, f1) => sum + (f1 - mean) ** 2, 0) / Math.max(1, found.length - 1))
  const each = found.map((f1) => f1.toFixed(3)).join(' ')
  process.stdout.write(`| ${label} | ${mean.toFixed(3)} ± ${sd.toFixed(3)} | ${each} |\n`)
}
process.exit(0)
