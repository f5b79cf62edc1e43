/**
 * A check of the device in about a second, before it is trusted with a run: forward and gradients of a tiny RoBERTa
 * with two adapter methods against values stored from the Python library (tests/parity/self_test.py), what a run computes
 * besides, and the tfjs paths that are known to give silently wrong numbers. No family of kernels is left out: one that
 * gives wrong numbers fails a check. All programs are compiled beside each other first.
 */
import { classificationHead, type AdapterConfig, type TensorMap } from '../config.ts'
import { runChecks, type DeviceCheck, type Verdict } from '../kernels/deviceChecks.ts'
import { refusalsThrown } from '../kernels/refusals.ts'
import { stepChecks } from '../kernels/stepChecks.ts'
import { trapChecks } from '../kernels/traps.ts'
import { seqBn } from '../methods/bottleneck.ts'
import { loraConfig } from '../methods/lora.ts'
import { uploadBatch } from './batch.ts'
import { loadRoberta, type WeightSource } from './loadRoberta.ts'
import { createModel, disposeModel, lossAndGradient, predict, singleSetup, type Model } from './model.ts'
import { unflatten } from './params.ts'
import { disposeRoberta } from './roberta.ts'
import { parseRobertaConfig } from './robertaConfig.ts'
import stored from './selfTest.json'

export interface SelfTestReport {
  passed: boolean
  checks: Verdict[]
  /** How long it took. */
  ms: number
}

type Case = (typeof stored.cases)[number]

/** Largest difference that rounding explains: absolute for logits and loss, relative to the tensor for gradients. */
const tolerance = { logits: 1e-4, gradient: 5e-4 }

/** Runs every check on the current backend; reports what goes wrong, and never throws. */
export async function selfTest(): Promise<SelfTestReport> {
  const started = performance.now()
  const checks = await refusalsThrown(allChecks).catch((error: unknown) => [
    { name: 'running the checks', ok: false, detail: error instanceof Error ? error.message : String(error) },
  ])
  return { passed: checks.every(({ ok }) => ok), checks, ms: performance.now() - started }
}

async function allChecks(): Promise<Verdict[]> {
  const config = parseRobertaConfig(JSON.stringify(stored.config))
  const { roberta } = await loadRoberta(config, storedWeights(), null)
  const models = stored.cases.map((one) =>
    createModel(
      roberta,
      singleSetup('t', adapterOf(one.method), classificationHead(3)),
      hostTensors(one.tensors),
    ),
  )
  try {
    const cases = stored.cases.map((one, i) => checkOf(models[i]!, one))
    return await runChecks([...cases, ...stepChecks(), ...trapChecks()])
  } finally {
    models.forEach(disposeModel)
    disposeRoberta(roberta)
  }
}

function checkOf(model: Model, one: Case): DeviceCheck {
  const { config } = model.roberta
  const [B, S] = [stored.input_ids.length, stored.input_ids[0]!.length]
  const input_ids = Int32Array.from(stored.input_ids.flat())
  const attention_mask = input_ids.map((id) => Number(id !== config.pad_token_id))
  const host = { B, S, input_ids, attention_mask, labels: Int32Array.from(stored.labels) }
  const make = () => {
    const batch = uploadBatch(config, host)
    const { logits } = predict(model, batch)
    const { loss, gradient } = lossAndGradient(model, batch, null, 0)
    return [logits, loss, gradient]
  }
  const judge = ([logits = new Float32Array(), loss = new Float32Array(), gradient]: Float32Array[]) => {
    const forward = Math.max(worst(logits, one.logits), worst(loss, [one.loss]))
    const backward = worstGradient(model, gradient ?? new Float32Array(), one)
    return [
      verdict(`${one.method} forward`, forward, tolerance.logits),
      verdict(`${one.method} gradients`, backward, tolerance.gradient),
    ]
  }
  return { make, judge }
}

function adapterOf(method: string): AdapterConfig {
  if (method === 'seq_bn') return { ...seqBn, reduction_factor: 2 }
  const everywhere = { attn_matrices: ['q', 'k', 'v'], intermediate_lora: true, output_lora: true } as const
  return { ...loraConfig, ...everywhere, attn_matrices: [...everywhere.attn_matrices], r: 2, alpha: 4 }
}

/** The largest difference of any gradient, relative to the largest value in its tensor. */
function worstGradient(model: Model, flat: Float32Array, { tensors }: Case): number {
  const found = unflatten(model.layout, flat)
  const differences = tensors.map(({ key, grad }) => {
    const largest = Math.max(...grad.map(Math.abs), 1e-6)
    return worst(found.get(key)?.data ?? [], grad) / largest
  })
  return Math.max(...differences)
}

/** The largest absolute difference; NaN when anything is not a number. */
function worst(values: ArrayLike<number>, expected: ArrayLike<number>): number {
  let found = 0
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(values[i]! - expected[i]!)
    if (!Number.isFinite(difference)) return NaN
    found = Math.max(found, difference)
  }
  return found
}

function verdict(name: string, difference: number, limit: number): Verdict {
  return {
    name,
    ok: difference <= limit,
    detail: `largest difference from Python ${difference.toExponential(1)}`,
  }
}

function hostTensors(tensors: { key: string; shape: number[]; data: number[] }[]): TensorMap {
  return new Map(tensors.map(({ key, shape, data }) => [key, { shape, data: Float32Array.from(data) }]))
}

function storedWeights(): WeightSource {
  const weights = hostTensors(stored.weights)
  return {
    names: () => [...weights.keys()],
    shape: (name) => weights.get(name)!.shape,
    read: (name) => Promise.resolve(weights.get(name)!.data),
    async *readChunks(name) {
      yield weights.get(name)!.data
    },
  }
}
