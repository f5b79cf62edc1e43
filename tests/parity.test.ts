/** The engine on wasm and cpu against PyTorch (see parity.checks.ts). */
import { declareChecks, parityChecks, robertaBaseCheck } from './parity.checks.ts'

const checks = await parityChecks()
declareChecks('wasm', [...checks, robertaBaseCheck()])
declareChecks(
  'cpu',
  checks.filter(({ name }) => !name.includes('mini-roberta')),
)
