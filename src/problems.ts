/** What keeps a job from starting, in one sentence, before anything is made of it. */
import { dropProblem } from './methods/adapterDrop.ts'
import { roundedProblem } from './methods/comparison.ts'
import { setupProblems } from './methods/registry.ts'
import { maxTokens } from './model/robertaConfig.ts'
import type { Job } from './run.ts'
import { trainingProblems } from './trainingArguments.ts'

/** Throws the first thing that is wrong with a job. */
export function refuseProblems({ base, assembled: { setup }, args, adapter_drop }: Job): void {
  const { config, rounded } = base
  const drop = adapter_drop && dropProblem(adapter_drop, config.num_hidden_layers)
  const whole = roundedProblem(setup.train.base, rounded)
  const [problem] = [
    ...setupProblems(setup, config),
    ...[drop, whole].filter((one) => one !== null),
    ...trainingProblems(args),
  ]
  if (problem !== undefined) throw new Error(problem)
  if (args.max_length > maxTokens(config))
    throw new Error(
      `max_length is ${args.max_length}, but this model reads at most ${maxTokens(config)} tokens; lower it.`,
    )
}
