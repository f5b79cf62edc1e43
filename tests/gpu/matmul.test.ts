/** Matrix products on WebGPU, in both variants and as the reference that stands in for them. */
import { declareMatmulTests } from '../kernels/matmulChecks.ts'

declareMatmulTests('webgpu', { variants: 'software' })
declareMatmulTests('webgpu', { variants: 'gpu' })
declareMatmulTests('webgpu', { replaced: true })
