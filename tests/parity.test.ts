/** The engine on wasm and cpu against PyTorch (see parity.checks.ts). */
import { declareChecks, parityChecks, robertaBaseCheck } from './parity.checks.ts'

const checks = await parityChecks()
declareChecks('wasm', [...checks, robertaBaseCheck()])
// The cpu backend is slow and computes by the same reference ops: one curve for each of two methods is enough.
declareChecks(
  'cpu',
  checks.filter(
    ({ name }) =>
      !/mini-roberta|warmup|accumulation|smoothing|clipped|^20 steps of .*(?<!roberta)$|single place/.test(
        name,
      ),
  ),
)
