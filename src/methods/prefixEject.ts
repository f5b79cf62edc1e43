/** `eject_prefix_tuning`: a reparametrised prefix becomes the flat one that computes the same keys and values. */
import type { HostTensor, PrefixTuningConfig, TensorMap } from '../config.ts'
import type { Activation } from '../kernels/activations.ts'
import { nonLinearity } from './nonLinearity.ts'
import { poolKey } from './prefixTuning.ts'

/**
 * The flat configuration and all tensors with the network's replaced by `control_trans`; gates stay. A flat prefix stays
 * as it is. Throws when a tensor is missing, or for an activation that is not worked out here.
 */
export function ejectPrefixTuning(
  config: PrefixTuningConfig,
  tensors: TensorMap,
  name: string,
): { config: PrefixTuningConfig; tensors: TensorMap } {
  if (config.flat) return { config, tensors }
  const pool = poolKey(name)
  const get = (key: string) => {
    const tensor = tensors.get(`${pool}.${key}`)
    if (!tensor) throw new Error(`The tensor ${pool}.${key} is missing, so the prefix cannot be made flat.`)
    return tensor
  }
  const f = activations[nonLinearity(config.non_linearity)]
  if (!f)
    throw new Error(
      `A prefix with non_linearity “${config.non_linearity}” cannot be made flat here; use tanh.`,
    )
  const hidden = linear(get('wte.weight'), get('control_trans.0.weight'), get('control_trans.0.bias'))
  const active = { ...hidden, data: hidden.data.map(f) }
  const { data } = linear(active, get('control_trans.2.weight'), get('control_trans.2.bias'))
  const kept: TensorMap = new Map([...tensors].filter(([key]) => !key.startsWith(`${pool}.`)))
  kept.set(`${pool}.control_trans`, { shape: [data.length], data })
  return { config: { ...config, flat: true }, tensors: kept }
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
const gelu_new = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))

/** Activations on the host; those that need erf or are rarely seen are left out. */
const activations: Partial<Record<Activation, (x: number) => number>> = {
  gelu_new,
  gelu_pytorch_tanh: gelu_new,
  leaky_relu: (x) => (x > 0 ? x : 0.01 * x),
  leakyrelu: (x) => (x > 0 ? x : 0.01 * x),
  linear: (x) => x,
  relu: (x) => Math.max(x, 0),
  sigmoid,
  silu: (x) => x * sigmoid(x),
  swish: (x) => x * sigmoid(x),
  tanh: Math.tanh,
}

/** x [N,K] · weight [M,K]ᵀ + bias [M] -> [N,M] */
function linear(x: HostTensor, weight: HostTensor, bias: HostTensor): HostTensor {
  const [N = 0, K = 0] = x.shape
  const [M = 0] = weight.shape
  const data = new Float32Array(N * M)
  for (let n = 0; n < N; n++)
    for (let m = 0; m < M; m++) {
      let sum = bias.data[m]!
      for (let k = 0; k < K; k++) sum += x.data[n * K + k]! * weight.data[m * K + k]!
      data[n * M + m] = sum
    }
  return { shape: [N, M], data }
}
