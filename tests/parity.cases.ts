/**
 * Every method, composition and head of tests/parity/cases.py on three models, their training curves, and single places
 * of many sizes: each a line of the table that `npm run parity` prints.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { ModelSetup, Targets } from '../src/config.ts'
import type { HostBatch } from '../src/model/batch.ts'
import { disposeModel, type Model } from '../src/model/model.ts'
import { Ops } from '../src/model/ops.ts'
import { parseRobertaConfig } from '../src/model/robertaConfig.ts'
import { constant, Tape, trained } from '../src/model/tape.ts'
import {
  byName,
  decode,
  readFixture,
  readText,
  setupOf,
  type Stored,
  type StoredBatch,
  type StoredByLayer,
} from './fixtures.ts'
import { madeUp, madeUpWeights, sketch, sketchDistance, weighed } from './madeUp.ts'
import {
  absolute,
  compareCurve,
  furthest,
  gradients,
  hostBatch,
  madeUpModel,
  predicted,
  read,
  relative,
  withBase,
  type Curve,
  type Difference,
} from './parity.engine.ts'
import type { Check } from './parity.checks.ts'

interface Result {
  logits: Stored[]
  loss: number
  tokens: Stored
  first: Stored
  grads: StoredByLayer[]
  idle: string[]
  labels?: unknown
}

interface Case {
  name: string
  setup: ModelSetup
  /** What the labels are, of a head's case. */
  labels?: LabelKind
  results: Record<string, Result>
}

type LabelKind = 'class' | 'multilabel' | 'float' | 'tokens'
type Ids = Omit<StoredBatch, 'labels'>

/** A gradient this much shorter than a case's longest is held against that: float32 leaves no more of it, in PyTorch too. */
const shortest = 1e-3

/** A batch with labels of any kind; -100 stands at tokens that are not asked for. */
function batchOf(batch: Ids, kind: LabelKind, labels: unknown): HostBatch {
  const rows = labels as number[][]
  const host = hostBatch({ ...batch, labels: kind === 'class' ? (labels as number[]) : rows.map(() => 0) })
  const flat = () => Float32Array.from(rows.flat())
  const targets = (): Targets | null => {
    if (kind === 'class') return null
    if (kind === 'float') return { kind: 'regression', labels: flat() }
    if (kind === 'multilabel') return { kind: 'multilabel', labels: flat(), num_labels: rows[0]!.length }
    const all = Int32Array.from(rows.flat())
    const positions = Int32Array.from(all.keys()).filter((i) => all[i] !== -100)
    return { kind: 'masked_lm', positions, ids: positions.map((i) => all[i]!) }
  }
  return { ...host, targets: targets() }
}

/** The setup on one of the models: a masked-LM head is as wide as it, and adapters that nothing reaches do not train. */
function fitted(
  stored: ModelSetup,
  config: { vocab_size: number; hidden_size: number },
  result?: Result,
): ModelSetup {
  const setup = setupOf(stored)
  const heads = Object.entries(setup.heads).map(([name, head]) => [
    name,
    head.head_type === 'masked_lm'
      ? { ...head, vocab_size: config.vocab_size, embedding_size: config.hidden_size }
      : head,
  ])
  const reached = (name: string) =>
    !result || [...byName(result.grads).keys()].some((key) => key.includes(`.${name}.`))
  const adapters = setup.train.adapters.filter(reached)
  return { ...setup, heads: Object.fromEntries(heads), train: { ...setup.train, adapters } } as ModelSetup
}

async function compareForward(model: Model, host: HostBatch, stored: Result): Promise<number> {
  const { logits, others, hidden } = await predicted(model, host)
  const { hidden_size: H, vocab_size: V } = model.roberta.config
  const found = [logits, ...others].map((one) =>
    host.targets?.kind === 'masked_lm' ? weighed('logits', one, V) : one,
  )
  if (found.length !== stored.logits.length)
    throw new Error(`${found.length} heads answered, expected ${stored.logits.length}.`)
  return Math.max(
    ...found.map((one, i) => furthest(one, decode(stored.logits[i]!).data)),
    furthest(weighed('hidden', hidden, H), decode(stored.tokens).data),
    furthest(hidden.subarray(0, H), decode(stored.first).data),
  )
}

async function compareGradients(
  model: Model,
  host: HostBatch,
  stored: Result,
): Promise<{ loss: number; gradient: number; at: string }> {
  const { loss, grads } = await gradients(model, host)
  const theirs = byName(stored.grads)
  const largest = Math.max(...[...theirs.values()].map(({ kept }) => kept[0]!))
  const unexpected = [...grads.keys()].filter((key) => !theirs.has(key) && !stored.idle.includes(key))
  if (unexpected.length > 0) throw new Error(`Trained ${unexpected.join(', ')}, which Python does not.`)
  let gradient = 0
  let at = ''
  for (const [key, { shape, kept }] of theirs) {
    const ours = grads.get(key)
    if (!ours && kept[0] !== 0) throw new Error(`Nothing trains ${key}.`)
    if (!ours) continue
    if (ours.shape.join() !== shape.join()) throw new Error(`${key} is [${ours.shape}], expected [${shape}].`)
    const error =
      sketchDistance(sketch(ours.data), kept, ours.data.length) / Math.max(kept[0]!, shortest * largest)
    if (!(error <= gradient)) [gradient, at] = [error, key]
  }
  for (const key of stored.idle)
    if (grads.get(key)?.data.some((value) => value !== 0)) throw new Error(`A gradient reached ${key}.`)
  return { loss: Math.abs(loss - stored.loss) / Math.max(1, stored.loss), gradient, at }
}

async function runCase(
  device: Parameters<Check['run']>[0],
  { setup, labels = 'class', results }: Case,
  batches: Record<string, StoredBatch>,
): Promise<Difference[]> {
  const forward: Difference = { what: 'forward', worst: 0, limit: absolute }
  const gradient: Difference = { what: 'gradient', worst: 0, limit: relative }
  for (const [size, stored] of Object.entries(results)) {
    const config = parseRobertaConfig(await readText(`tests/fixtures/${size}/config.json`))
    const batch = batches[size]!
    const host = batchOf(batch, labels, stored.labels ?? batch.labels)
    await withBase(device, config, madeUpWeights(config, true), async (roberta) => {
      const model = madeUpModel(roberta, fitted(setup, config, stored))
      try {
        const apart = await compareForward(model, host, stored)
        if (!(apart <= forward.worst)) Object.assign(forward, { worst: apart, at: size })
        const down = await compareGradients(model, host, stored)
        if (!(down.loss <= forward.worst)) Object.assign(forward, { worst: down.loss, at: `${size} loss` })
        if (!(down.gradient <= gradient.worst))
          Object.assign(gradient, { worst: down.gradient, at: `${size} ${down.at}` })
      } finally {
        disposeModel(model)
      }
    })
  }
  return [forward, gradient]
}

/** `methods`, `compositions` or `task-heads`: forward and gradients. */
async function caseChecks(fixture: string, kind: string): Promise<Check[]> {
  const { batches, cases } = await readFixture<{ batches: Record<string, StoredBatch>; cases: Case[] }>(
    fixture,
  )
  return cases.map((stored) => ({
    name: `${kind} ${stored.name}`,
    row: stored.name,
    run: (device) => runCase(device, stored, batches),
  }))
}

async function curveChecks(): Promise<Check[]> {
  type Fixture = {
    model: string
    batches: StoredBatch[]
    labels: Record<string, unknown[]>
    cases: (Curve & { labels?: LabelKind })[]
  }
  const { model: size, batches, labels, cases } = await readFixture<Fixture>('curves')
  const config = parseRobertaConfig(await readText(`tests/fixtures/${size}/config.json`))
  return cases.map((stored) => ({
    name: `${stored.losses.length} steps of ${stored.name}`,
    row: stored.name,
    run: (device) =>
      withBase(device, config, madeUpWeights(config, true), async (roberta) => {
        const kind = stored.labels ?? 'class'
        const hosts = batches.map((batch, i) => batchOf(batch, kind, labels[kind]?.[i] ?? batch.labels))
        const found = await compareCurve(madeUpModel(roberta, fitted(stored.setup, config)), hosts, stored)
        const worst = (limit: number) =>
          Math.max(...found.filter((one) => one.limit === limit).map((one) => one.worst))
        const limits = [...new Set(found.map(({ limit }) => limit))]
        return limits.map((limit) => ({
          what: limit === 1e-3 ? 'curve' : `start (${limit})`,
          worst: worst(limit),
          limit,
        }))
      }),
  }))
}

/** A frozen linear layer with LoRA on it and a bottleneck behind it, of sizes around those where kernels change. */
async function siteChecks(): Promise<Check[]> {
  type Site = { sizes: [N: number, K: number, M: number, r: number]; found: StoredByLayer[] }
  const { cases } = await readFixture<{ cases: Site[] }>('sites')
  return cases.map(({ sizes: [N, K, M, r], found }) => ({
    name: `single place of ${N} tokens, ${K} to ${M}, rank ${r}`,
    row: 'sizes around thresholds',
    run: async () => {
      const ours = await place(N, K, M, r)
      const apart = [...byName(found)].map(([name, { kept }]) => {
        const data = ours.get(name)!
        return { name, worst: sketchDistance(sketch(data), kept, data.length) / kept[0]! }
      })
      const [z] = apart.filter(({ name }) => name === 'z')
      const worst = Math.max(...apart.map((one) => one.worst))
      return [
        { what: 'forward', worst: z!.worst, limit: absolute },
        { what: 'gradient', worst, limit: relative },
      ]
    },
  }))
}

/** y = x·Wᵀ + b + 2·(x·Aᵀ)·Bᵀ; z = y + Up(gelu(Down(y))): z and every gradient. */
async function place(N: number, K: number, M: number, r: number): Promise<Map<string, Float32Array>> {
  const before = tf.memory().numTensors
  const tensor = (name: string, ...shape: number[]) =>
    tf.tensor(madeUp(`site ${N} ${K} ${M} ${r} ${name}`, shape), shape)
  const matrix = (name: string, ...shape: number[]) => trained(tensor(name, ...shape) as tf.Tensor2D)
  const vector = (name: string, size: number) => trained(tensor(name, size) as tf.Tensor1D)
  const leaves = {
    x: matrix('x', N, K),
    lora_A: matrix('lora_A', r, K),
    lora_B: matrix('lora_B', M, r),
    'down.weight': matrix('down.weight', r, M),
    'down.bias': vector('down.bias', r),
    'up.weight': matrix('up.weight', M, r),
    'up.bias': vector('up.bias', M),
  }
  const weight = constant(tensor('weight', M, K) as tf.Tensor2D)
  const bias = constant(tensor('bias', M) as tf.Tensor1D)
  const dz = tensor('dz', N, M)
  const tape = new Tape({ records: true, halves: false, inHalf: false })
  const ops = new Ops(tape, null)
  const z = tape.scope(() => {
    const frozen = ops.linear(leaves.x, weight, bias)
    const delta = ops.linear(ops.linear(leaves.x, leaves.lora_A, null), leaves.lora_B, null)
    const y = ops.add(frozen, delta, 2)
    const down = ops.activation('gelu', ops.linear(y, leaves['down.weight'], leaves['down.bias']))
    return ops.add(y, ops.linear(down, leaves['up.weight'], leaves['up.bias']))
  })
  const found = new Map<string, Float32Array>([['z', Float32Array.from(await z.tensor.data())]])
  const grads = tape.backward([[z, dz]])
  for (const [name, leaf] of Object.entries(leaves)) found.set(name, await read(grads.get(leaf)!))
  tape.release(z)
  tf.dispose([
    weight.tensor,
    bias.tensor,
    dz,
    ...Object.values(leaves).map((leaf) => leaf.tensor as tf.Tensor),
  ])
  if (tf.memory().numTensors !== before)
    throw new Error(`${tf.memory().numTensors - before} tensors were left behind.`)
  return found
}

/** All of the above, in the order of the printed table. */
export async function tableChecks(): Promise<Check[]> {
  return [
    ...(await caseChecks('methods', 'method')),
    ...(await caseChecks('compositions', 'composition')),
    ...(await caseChecks('task-heads', 'head')),
    ...(await curveChecks()),
    ...(await siteChecks()),
  ]
}
