/** What the plan of a run gives its training arguments. */
import { expect, it } from 'vitest'
import type { AdapterConfig } from '../src/config.ts'
import { loraConfig } from '../src/methods/lora.ts'
import { trainingDefaults } from '../src/trainingArguments.ts'
import { Plan } from '../src/ui/plan.svelte.ts'

it('lets the base drop or not as the method has it, until somebody says otherwise', () => {
  const plan = new Plan()
  const args = { ...trainingDefaults }
  const choose = (adapter: AdapterConfig, task?: 'masked_lm') => {
    plan.choose(adapter)
    plan.followedBy(args, task)
    return args.base_dropout
  }
  const head = { architecture: 'head' } as const
  expect(choose(loraConfig)).toBe(true)
  expect(choose(head)).toBe(false)
  expect(choose(loraConfig)).toBe(true)
  expect(args).toEqual(trainingDefaults)
  // Hidden words are drawn anew for each pass, so that nothing could be kept.
  expect(choose(head, 'masked_lm')).toBe(true)
  expect(choose(head)).toBe(false)
  // Neither a frozen adapter below it is a head alone.
  plan.draft.members.push({
    name: 'kept',
    runId: 'kept',
    with_head: false,
    train: false,
    train_head: false,
    config: loraConfig,
    id2label: [],
    title: 'kept',
  })
  expect(choose(head)).toBe(true)
  plan.draft.clear()
  expect(choose(head)).toBe(false)
  args.base_dropout = true
  expect(choose(head)).toBe(true)
  expect(choose(loraConfig)).toBe(true)
})
