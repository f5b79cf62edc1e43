/**
 * torch's CPU random numbers (MT19937, at::CPUGeneratorImpl) for uniform, normal and randperm, so that a seed means
 * here what it means in Python. Differs by at most 1 ulp in `normal`, where cos and log are the platform's.
 */
export class TorchGenerator {
  readonly #state = new Uint32Array(624)
  #index = 624
  /** torch keeps the second normal of an odd last pair for the next short draw. */
  #spare: number | null = null

  /** `torch.Generator().manual_seed(seed)`; the low 32 bits count. */
  constructor(seed: number) {
    this.manual_seed(seed)
  }

  /** Starts again from a seed, as `torch.manual_seed` does for torch's one generator. */
  manual_seed(seed: number): void {
    this.#state[0] = seed >>> 0
    for (let i = 1; i < 624; i++) {
      const previous = this.#state[i - 1]! ^ (this.#state[i - 1]! >>> 30)
      this.#state[i] = Math.imul(previous, 1812433253) + i
    }
    this.#index = 624
    this.#spare = null
  }

  /** The next 32 random bits, unsigned. */
  next32(): number {
    if (this.#index === 624) this.#refill()
    let y = this.#state[this.#index++]!
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c5680
    y ^= (y << 15) & 0xefc60000
    return (y ^ (y >>> 18)) >>> 0
  }

  /** `torch.randperm(n)`. */
  randperm(n: number): Int32Array {
    const order = Int32Array.from({ length: n }, (_, i) => i)
    for (let i = 0; i < n - 1; i++) {
      const j = i + (this.next32() % (n - i))
      const kept = order[i]!
      order[i] = order[j]!
      order[j] = kept
    }
    return order
  }

  /** `torch.empty(n).uniform_(from, to)`, float32. */
  uniform(n: number, from = 0, to = 1): Float32Array {
    const out = new Float32Array(n)
    const span = Math.fround(to - from)
    for (let i = 0; i < n; i++) out[i] = Math.fround((this.next32() & 0xffffff) * 2 ** -24 * span) + from
    return out
  }

  /** `torch.empty(n).normal_(mean, std)`, float32: blocks of 16 from 16 uniforms, or pairs of doubles below 16. */
  normal(n: number, mean = 0, std = 1): Float32Array {
    if (n < 16) return this.#normalPairs(n, mean, std)
    const out = this.uniform(n)
    for (let i = 0; i + 16 <= n; i += 16) boxMuller16(out, i, mean, std)
    if (n % 16 !== 0) {
      out.set(this.uniform(16), n - 16)
      boxMuller16(out, n - 16, mean, std)
    }
    return out
  }

  #normalPairs(n: number, mean: number, std: number): Float32Array {
    return Float32Array.from({ length: n }, () => this.#normal() * std + mean)
  }

  #normal(): number {
    const spare = this.#spare
    this.#spare = null
    if (spare !== null) return spare
    const angle = 2 * Math.PI * this.#double()
    const radius = Math.sqrt(-2 * Math.log1p(-this.#double()))
    this.#spare = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }

  /** 53 random bits in [0, 1). */
  #double(): number {
    const high = this.next32()
    const low = this.next32()
    return ((high & 0x1fffff) * 2 ** 32 + low) * 2 ** -53
  }

  #refill(): void {
    const s = this.#state
    for (let i = 0; i < 624; i++) {
      const y = (s[i]! & 0x80000000) | (s[(i + 1) % 624]! & 0x7fffffff)
      s[i] = s[(i + 397) % 624]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0)
    }
    this.#index = 0
  }
}

/** Turns 16 uniforms at `start` into 16 normals in place: radii from the first eight, angles from the last. */
function boxMuller16(values: Float32Array, start: number, mean: number, std: number): void {
  for (let j = start; j < start + 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - values[j]!))
    const angle = 2 * Math.PI * values[j + 8]!
    values[j] = radius * Math.cos(angle) * std + mean
    values[j + 8] = radius * Math.sin(angle) * std + mean
  }
}
