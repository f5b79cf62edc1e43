/**
 * The yardstick: the same RoBERTa and the same adapters written plainly in tfjs ops, differentiated by tfjs's tape
 * (`variableGrads`) and trained with `tf.train.adam`, dropout off. Its weights are constants made on the device; on
 * the fake device only the calls matter.
 */
import * as tf from '@tensorflow/tfjs'
import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu'
import type { AdapterConfig, RobertaConfig } from '../../src/config.ts'

interface Linear {
  weight: tf.Tensor2D // [in,out]
  bias: tf.Tensor1D
}

interface LayerNorm {
  weight: tf.Tensor1D
  bias: tf.Tensor1D
}

interface LoRA {
  A: tf.Variable // [in,R]
  B: tf.Variable // [R,out]
}

interface Layer {
  query: Linear
  key: Linear
  value: Linear
  attention: Linear
  attentionNorm: LayerNorm
  intermediate: Linear
  output: Linear
  outputNorm: LayerNorm
  bottleneck: tf.Variable[] | null // down, bias, up, bias
  lora: { query: LoRA; value: LoRA } | null
}

/** One batch in host memory. */
export interface TapeBatch {
  B: number
  S: number
  labels: number
}

const frozen = (shape: number[]) => tf.fill(shape, 0.02)
const trained = (shape: number[]) => tf.variable(tf.fill(shape, 0.02))

function linear(inputs: number, outputs: number): Linear {
  return { weight: frozen([inputs, outputs]) as tf.Tensor2D, bias: frozen([outputs]) as tf.Tensor1D }
}

function norm(H: number): LayerNorm {
  return { weight: frozen([H]) as tf.Tensor1D, bias: frozen([H]) as tf.Tensor1D }
}

function loraPair(H: number, r: number): LoRA {
  return { A: trained([H, r]), B: trained([r, H]) }
}

/**
 * Opens tfjs's own WebGPU backend with its own flags and nothing of ours, but on a device with all limits that its
 * adapter has: tfjs's would refuse the larger tables.
 */
export async function openPlain(gpu: GPU): Promise<void> {
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) throw new Error('There is no WebGPU adapter.')
  const { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupStorageSize } = adapter.limits
  const device = await adapter.requestDevice({
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupStorageSize },
  })
  if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu')
  tf.registerBackend('webgpu', () => new WebGPUBackend(device, adapter.info), 3)
  for (const [flag, value] of Object.entries(plainFlags)) tf.env().set(flag, value)
  await tf.setBackend('webgpu')
  await tf.ready()
}

/** tfjs's own values of the flags that the engine sets. */
const plainFlags = {
  WEBGPU_MATMUL_PROGRAM_TYPE: -1,
  WEBGPU_CPU_FORWARD: true,
  WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE: 15,
}

/** What `work` returns, done with tfjs's own flags on the engine's backend, for timing one beside the other. */
export function plainly<T>(work: () => T): T {
  const before = Object.keys(plainFlags).map((flag) => [flag, tf.env().get(flag)] as const)
  for (const [flag, value] of Object.entries(plainFlags)) tf.env().set(flag, value)
  try {
    return work()
  } finally {
    for (const [flag, value] of before) tf.env().set(flag, value as number | boolean)
  }
}

/** RoBERTa with adapters on the current tfjs backend. Construct, then `forward` or `step`; `dispose` at the end. */
export class TapeModel {
  private readonly words: tf.Tensor2D
  private readonly positions: tf.Tensor2D
  private readonly types: tf.Tensor2D
  private readonly embeddingNorm: LayerNorm
  private readonly layers: Layer[]
  private readonly head: tf.Variable[] // dense [H,H], bias, out [H,C], bias
  private readonly scale: number
  private readonly optimizer = tf.train.adam(1e-4)

  constructor(
    private readonly config: RobertaConfig,
    adapter: AdapterConfig,
    num_labels: number,
  ) {
    const {
      hidden_size: H,
      intermediate_size: I,
      vocab_size,
      max_position_embeddings,
      type_vocab_size,
    } = config
    this.words = frozen([vocab_size, H]) as tf.Tensor2D
    this.positions = frozen([max_position_embeddings, H]) as tf.Tensor2D
    this.types = frozen([type_vocab_size, H]) as tf.Tensor2D
    this.embeddingNorm = norm(H)
    this.scale = adapter.architecture === 'lora' ? adapter.alpha / adapter.r : 1
    const R = adapter.architecture === null ? Math.floor(H / (adapter.reduction_factor as number)) : 0
    this.layers = Array.from({ length: config.num_hidden_layers }, () => ({
      query: linear(H, H),
      key: linear(H, H),
      value: linear(H, H),
      attention: linear(H, H),
      attentionNorm: norm(H),
      intermediate: linear(H, I),
      output: linear(I, H),
      outputNorm: norm(H),
      bottleneck: R > 0 ? [trained([H, R]), trained([R]), trained([R, H]), trained([H])] : null,
      lora:
        adapter.architecture === 'lora'
          ? { query: loraPair(H, adapter.r), value: loraPair(H, adapter.r) }
          : null,
    }))
    this.head = [trained([H, H]), trained([H]), trained([H, num_labels]), trained([num_labels])]
  }

  /** Logits [B,C] of one batch, in evaluation. */
  forward(batch: TapeBatch): tf.Tensor2D {
    return tf.tidy(() => this.logits(batch))
  }

  /** One optimiser step; returns the loss, which the caller disposes. */
  step(batch: TapeBatch): tf.Scalar {
    const labels = tf.oneHot(tf.zeros([batch.B], 'int32'), batch.labels)
    const loss = () => tf.losses.softmaxCrossEntropy(labels, this.logits(batch)) as tf.Scalar
    const { value, grads } = tf.variableGrads(loss)
    this.optimizer.applyGradients(Object.entries(grads).map(([name, tensor]) => ({ name, tensor })))
    tf.dispose([labels, grads])
    return value
  }

  private logits({ B, S }: TapeBatch): tf.Tensor2D {
    const { num_attention_heads, hidden_size: H } = this.config
    const ids = tf.tensor1d(new Int32Array(B * S).fill(5), 'int32')
    const positions = tf.tensor1d(
      Int32Array.from({ length: B * S }, (_, i) => (i % S) + 2),
      'int32',
    )
    const mask = tf.mul(tf.sub(1, tf.ones([B, 1, 1, S])), -1e9)
    const words = tf.gather(this.words, ids)
    const embedded = tf.add(
      tf.add(words, tf.gather(this.positions, positions)),
      tf.slice(this.types, [0, 0], [1, H]),
    )
    let x = this.layerNorm(embedded as tf.Tensor2D, this.embeddingNorm)
    for (const layer of this.layers) x = tf.tidy(() => this.layer(x, layer, mask, B, S, num_attention_heads))
    const first = tf.reshape(tf.slice(tf.reshape(x, [B, S, H]), [0, 0, 0], [B, 1, H]), [B, H]) as tf.Tensor2D
    const [dense, bias, out, outBias] = this.head
    const middle = tf.tanh(tf.add(tf.matMul(first, dense as tf.Tensor2D), bias!)) as tf.Tensor2D
    return tf.add(tf.matMul(middle, out as unknown as tf.Tensor2D), outBias!)
  }

  private layer(x: tf.Tensor2D, layer: Layer, mask: tf.Tensor, B: number, S: number, N: number): tf.Tensor2D {
    const D = this.config.hidden_size / N
    const heads = (y: tf.Tensor2D) => tf.transpose(tf.reshape(y, [B, S, N, D]), [0, 2, 1, 3])
    const q = heads(this.lora(this.linear(x, layer.query), x, layer.lora?.query))
    const k = heads(this.linear(x, layer.key))
    const v = heads(this.lora(this.linear(x, layer.value), x, layer.lora?.value))
    const scores = tf.add(tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(D)), mask)
    const merged = tf.reshape(tf.transpose(tf.matMul(tf.softmax(scores), v), [0, 2, 1, 3]), [B * S, N * D])
    const attended = this.linear(merged as tf.Tensor2D, layer.attention)
    const h = this.layerNorm(tf.add(attended, x) as tf.Tensor2D, layer.attentionNorm)
    const u = this.linear(this.gelu(this.linear(h, layer.intermediate)), layer.output)
    const sum = tf.add(u, h) as tf.Tensor2D
    if (!layer.bottleneck) return this.layerNorm(sum, layer.outputNorm)
    const [down, downBias, up, upBias] = layer.bottleneck
    const y = this.layerNorm(sum, layer.outputNorm)
    const narrow = tf.relu(tf.add(tf.matMul(y, down as tf.Tensor2D), downBias!)) as tf.Tensor2D
    const wide = tf.add(tf.matMul(narrow, up as unknown as tf.Tensor2D), upBias!)
    return this.layerNorm(tf.add(wide, sum) as tf.Tensor2D, layer.outputNorm)
  }

  private linear(x: tf.Tensor2D, { weight, bias }: Linear): tf.Tensor2D {
    return tf.add(tf.matMul(x, weight), bias)
  }

  private lora(y: tf.Tensor2D, x: tf.Tensor2D, lora: LoRA | undefined): tf.Tensor2D {
    if (!lora) return y
    const update = tf.matMul(tf.matMul(x, lora.A as unknown as tf.Tensor2D), lora.B as unknown as tf.Tensor2D)
    return tf.add(y, tf.mul(update, this.scale))
  }

  private layerNorm(x: tf.Tensor2D, { weight, bias }: LayerNorm): tf.Tensor2D {
    const centred = tf.sub(x, tf.mean(x, 1, true))
    const variance = tf.mean(tf.square(centred), 1, true)
    const normal = tf.mul(centred, tf.rsqrt(tf.add(variance, this.config.layer_norm_eps)))
    return tf.add(tf.mul(normal, weight), bias)
  }

  private gelu(x: tf.Tensor2D): tf.Tensor2D {
    return tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1))
  }

  /** Frees weights, variables and the optimiser's moments. */
  dispose(): void {
    this.optimizer.dispose()
    tf.dispose([
      this.words,
      this.positions,
      this.types,
      this.embeddingNorm.weight,
      this.embeddingNorm.bias,
      this.head,
    ])
    for (const layer of this.layers) tf.dispose(layer as unknown as tf.TensorContainer)
  }
}
