/** Epochs of a run through the real training loop, one after another, for counting and for timing. */
import type { RobertaConfig } from '../../src/config.ts'
import type { Model } from '../../src/model/model.ts'
import { train } from '../../src/train/train.ts'
import { trainingDefaults } from '../../src/trainingArguments.ts'
import { num_labels } from './steps.ts'

export const stepsPerEpoch = 2

/** `num_train_epochs` epochs of two full batches; yields after the last step of each. */
export async function* epochsOf(
  model: Model,
  { config, B, S }: { config: RobertaConfig; B: number; S: number },
  { num_train_epochs, base_dropout }: { num_train_epochs: number; base_dropout: boolean },
): AsyncGenerator<void> {
  const count = stepsPerEpoch * B
  const rows = {
    input_ids: Array.from({ length: count }, (_, row) =>
      Int32Array.from({ length: S }, (_, i) => 4 + ((row * 131 + i * 7) % (config.vocab_size - 4))),
    ),
    labels: Int32Array.from({ length: count }, (_, i) => i % num_labels),
  }
  const args = {
    ...trainingDefaults,
    num_train_epochs,
    per_device_train_batch_size: B,
    eval_strategy: 'no' as const,
    max_length: S,
    base_dropout,
  }
  const data = { train: rows, validation: { input_ids: [], labels: new Int32Array(0) } }
  for await (const event of train(model, data, args)) {
    if (event.type === 'tick' && event.step % stepsPerEpoch === 0) yield
  }
}
