/**
 * The engine on WebGPU against PyTorch (see ../parity.checks.ts): all of it in the kernel variants that suit this
 * adapter, and one case of each method also in those of a real GPU, which a software adapter is slow to compile.
 */
import { declareChecks, parityChecks, robertaBaseCheck } from '../parity.checks.ts'

const checks = await parityChecks()
declareChecks('webgpu', [...checks, robertaBaseCheck()])
declareChecks(
  'webgpu',
  checks.filter(({ name }) => /^(head|seq_bn_2|lora_all) on odd/.test(name)),
  { variants: 'gpu' },
)
