/**
 * Every op of src/kernels written again in plain double-precision JavaScript, and gradients by central differences: what
 * the tests of kernels believe. Slow and obvious on purpose; nothing here is shared with src.
 */

export type Numbers = ArrayLike<number>

/** One batch item: a [M,K] (or [K,M]), b [K,N] (or [N,K]) -> [M,N]; all items in one array. */
export function matmulTruth(
  a: Numbers,
  b: Numbers,
  { batch, M, N, K }: { batch: number; M: number; N: number; K: number },
  transposeA: boolean,
  transposeB: boolean,
): Float64Array {
  return Float64Array.from({ length: batch * M * N }, (_, at) => {
    const [item, i, j] = [Math.floor(at / (M * N)), Math.floor(at / N) % M, at % N]
    const left = (k: number) => a[item * M * K + (transposeA ? k * M + i : i * K + k)]!
    const right = (k: number) => b[item * N * K + (transposeB ? j * K + k : k * N + j)]!
    let total = 0
    for (let k = 0; k < K; k++) total += left(k) * right(k)
    return total
  })
}

export function layerNormTruth(x: Numbers, weight: Numbers, bias: Numbers, eps: number): Float64Array {
  const H = weight.length
  return byRow(x, H, (row) => {
    const mean = total(row) / H
    const variance = total(row.map((value) => (value - mean) ** 2)) / H
    return row.map((value, h) => ((value - mean) / Math.sqrt(variance + eps)) * weight[h]! + bias[h]!)
  })
}

/** Hugging Face's LabelSmoother, one loss per row of logits [B,C]. */
export function lossTruth(
  logits: Numbers,
  labels: Numbers,
  C: number,
  label_smoothing: number,
): Float64Array {
  return Float64Array.from({ length: logits.length / C }, (_, b) => {
    const row = Array.from({ length: C }, (_, c) => logits[b * C + c]!)
    const logTotal = Math.log(total(row.map(Math.exp)))
    const smooth = total(row.map((value) => logTotal - value)) / C
    return (1 - label_smoothing) * (logTotal - row[labels[b]!]!) + label_smoothing * smooth
  })
}

const gelu = (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2))
const geluNew = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
const leaky = (x: number) => (x > 0 ? x : 0.01 * x)

export const activationTruth: Record<string, (x: number) => number> = {
  gelu,
  gelu_10: (x) => Math.min(Math.max(gelu(x), -10), 10),
  gelu_accurate: geluNew,
  gelu_fast: geluNew,
  gelu_new: geluNew,
  gelu_python: gelu,
  gelu_python_tanh: geluNew,
  gelu_pytorch_tanh: geluNew,
  laplace: (x) => 0.5 * (1 + erf((x - 0.707107) / (0.282095 * Math.SQRT2))),
  leaky_relu: leaky,
  leakyrelu: leaky,
  linear: (x) => x,
  mish: (x) => x * Math.tanh(Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))),
  quick_gelu: (x) => x * sigmoid(1.702 * x),
  relu: (x) => Math.max(x, 0),
  relu2: (x) => Math.max(x, 0) ** 2,
  relu6: (x) => Math.min(Math.max(x, 0), 6),
  sigmoid,
  silu: (x) => x * sigmoid(x),
  swish: (x) => x * sigmoid(x),
  tanh: Math.tanh,
}

export interface AdamWTruth {
  p: number[]
  m: number[]
  v: number[]
}

/** torch.optim.AdamW, step t from 1, decay on the first `decayed`. */
export function adamwTruth(
  { p, m, v }: AdamWTruth,
  g: Numbers,
  t: number,
  args: {
    learning_rate: number
    beta1: number
    beta2: number
    eps: number
    weight_decay: number
    decayed: number
  },
): AdamWTruth {
  const { learning_rate: lr, beta1, beta2, eps, weight_decay, decayed } = args
  const nextM = m.map((value, i) => beta1 * value + (1 - beta1) * g[i]!)
  const nextV = v.map((value, i) => beta2 * value + (1 - beta2) * g[i]! ** 2)
  const nextP = p.map((value, i) => {
    const denominator = Math.sqrt(nextV[i]! / (1 - beta2 ** t)) + eps
    return (
      value * (i < decayed ? 1 - lr * weight_decay : 1) - (lr * (nextM[i]! / (1 - beta1 ** t))) / denominator
    )
  })
  return { p: nextP, m: nextM, v: nextV }
}

/** d(dy · f(x))/dx by central differences: the backward that f must have. */
export function gradientTruth(f: (x: Float64Array) => Numbers, x: Numbers, dy: Numbers): Float64Array {
  const at = Float64Array.from(x)
  const along = () => total(Array.from(f(at), (value, i) => value * dy[i]!))
  const step = 1e-5
  return Float64Array.from(x, (value, i) => {
    at[i] = value + step
    const above = along()
    at[i] = value - step
    const below = along()
    at[i] = value
    return (above - below) / (2 * step)
  })
}

/** Largest |got - want| over the largest |want| (or over 1 when that is smaller); NaN when any value is. */
export function worstError(got: Numbers, want: Numbers): number {
  if (got.length !== want.length) throw new Error(`${got.length} values, expected ${want.length}`)
  let worst = 0
  let size = 1
  for (let i = 0; i < want.length; i++) {
    const difference = Math.abs(got[i]! - want[i]!)
    if (!(difference <= worst)) worst = difference
    size = Math.max(size, Math.abs(want[i]!))
  }
  return worst / size
}

function byRow(x: Numbers, width: number, f: (row: number[], r: number) => number[]): Float64Array {
  const out = new Float64Array(x.length)
  for (let r = 0; r < x.length / width; r++) {
    const row = Array.from({ length: width }, (_, i) => x[r * width + i]!)
    out.set(f(row, r), r * width)
  }
  return out
}

function total(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0)
}

/** By its Taylor series, good to 1e-10 up to 4; beyond it is 1 to 2e-8. */
function erf(x: number): number {
  if (Math.abs(x) > 4) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; n < 120; n++) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}
