/** The engine on WebGPU against PyTorch (see ../parity.checks.ts). */
import { declareChecks, parityChecks, robertaBaseCheck } from '../parity.checks.ts'

declareChecks('webgpu', [...(await parityChecks()), robertaBaseCheck()])
