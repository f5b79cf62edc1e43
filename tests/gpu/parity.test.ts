/**
 * The engine on WebGPU against PyTorch (see ../parity.checks.ts), in the kernel variants that suit this adapter: a method
 * of each kind, composition and head, or with `npm run parity` all of them; and a few also in the variants of a real GPU,
 * which a software adapter is slow to compile.
 */
import { declareChecks, parityChecks, robertaBaseCheck, type Check } from '../parity.checks.ts'

const methods =
  /^method (seq_bn|double_seq_bn|scaled_par_bn|seq_bn_inv|adapterplus|bn gating|bn ln_after of sum|compacter|lora all|lora gating|dora|ia3|prefix_tuning|prefix_tuning two gates|prompt_tuning after bos|loreft rank 3|noreft|mam|unipelt)$/
const compositions =
  /^composition (Stack|Stack of lora|Fuse|Fuse of Stack|Split|BatchSplit with two heads|Parallel of Stack|Average with weights|skip_layers of lora)$/
const heads = /^head (full|3 layers|mean|multilabel|regression|masked_lm over an invertible adapter)$/
const curves = /^20 steps of (seq_bn|lora|dora|prefix_tuning_flat|loreft|unipelt|Fuse|masked_lm)$/
const sites = /^single place of (31|65|129|257) tokens/
/** On a base that is wide enough for projections side by side. */
const wide = / on mini-roberta$/
const widest = /^20 steps of (seq_bn warmup|lora all|prefix_tuning two gates|unipelt) on mini-roberta$/
const few = [methods, compositions, heads, curves, sites, widest]

const checks = await parityChecks()
const many = ({ row, name }: Check) => row !== undefined || wide.test(name)
const chosen = checks.filter(
  (check) =>
    !many(check) || import.meta.env.VITE_PARITY === 'all' || few.some((some) => some.test(check.name)),
)
declareChecks('webgpu', [...chosen, robertaBaseCheck()])
declareChecks(
  'webgpu',
  checks.filter(({ name }) => /^(method lora all|single place of 65 .*)$/.test(name)),
  { variants: 'gpu' },
)
