/** Half-precision floats to float32, exactly: IEEE binary16 by a table, bfloat16 by its bits. */

let table: Float32Array | null = null

/** Values of all 65,536 binary16 patterns; NaNs keep their sign and payload. */
function float16Table(): Float32Array {
  if (table) return table
  const bits = new Uint32Array(65536)
  const values = new Float32Array(bits.buffer)
  for (let half = 0; half < 65536; half++) {
    const sign = (half & 0x8000) << 16
    const exponent = (half >> 10) & 31
    const mantissa = half & 1023
    if (exponent === 31) bits[half] = sign | 0x7f800000 | (mantissa << 13)
    else if (exponent > 0) bits[half] = sign | ((exponent + 112) << 23) | (mantissa << 13)
    else values[half] = (sign ? -1 : 1) * mantissa * 2 ** -24
  }
  table = values
  return values
}

/** binary16 patterns to the same values in float32, subnormals and infinities included. */
export function float16ToFloat32(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const values = float16Table()
  const out = new Float32Array(halves.length)
  for (let i = 0; i < halves.length; i++) out[i] = values[halves[i]!]!
  return out
}

/** bfloat16 patterns to float32: the upper half of its bits. */
export function bfloat16ToFloat32(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(halves.length)
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16
  return new Float32Array(bits.buffer)
}
