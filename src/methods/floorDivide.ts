/**
 * Python's `a // b` of positive numbers: the remainder is taken off first, so 768 // 0.1 is 7679, not the 7680 of a
 * rounded quotient.
 */
export function floorDivide(a: number, b: number): number {
  return Math.round((a - (a % b)) / b)
}
