/** What keeps a job from starting, in one sentence, before anything is made of it. */
import { dropProblem } from './methods/adapterDrop.ts'
import { setupProblems } from './methods/registry.ts'
import { maxTokens } from './model/robertaConfig.ts'
import type { Job } from './run.ts'
import { trainingProblems } from './trainingArguments.ts'

/** Throws the first thing that is wrong with a job. */
export function refuseProblems({ base, assembled: { setup }, args, adapter_drop }: Job): void {
  const { config, precision } = base
  const drop = adapter_drop && dropProblem(adapter_drop, config.num_hidden_layers)
  const [problem] = [...setupProblems(setup, config), ...(drop ? [drop] : []), ...trainingProblems(args)]
  if (problem !== undefined) throw new Error(problem)
  if (precision === 'float16' && setup.train.base === 'all')
    throw new Error(
      'Full fine-tuning changes every weight by less than half precision can hold; open the model in float32 (precision) for it.',
    )
  if (args.max_length > maxTokens(config))
    throw new Error(
      `max_length is ${args.max_length}, but this model reads at most ${maxTokens(config)} tokens; lower it.`,
    )
}
