/** What keeping frozen features saves, as ratios of the times of whole epochs. */
import type { AdapterConfig, RobertaConfig } from '../../../src/config.ts'
import { classificationHead } from '../../../src/config.ts'
import { webgpuBackend } from '../../../src/kernels/backend.ts'
import { seqBn } from '../../../src/methods/bottleneck.ts'
import { loadRoberta } from '../../../src/model/loadRoberta.ts'
import { createModel, disposeModel, setupParameters, singleSetup } from '../../../src/model/model.ts'
import { disposeRoberta, type Roberta } from '../../../src/model/roberta.ts'
import { madeUpTensors, madeUpWeights } from '../../madeUp.ts'
import { ratioOf, type Ratio } from '../clock.ts'
import { epochsOf } from '../epochs.ts'
import { num_labels } from '../steps.ts'

interface Size {
  config: RobertaConfig
  B: number
  S: number
}

/** Epochs that a mean is taken over; the first of a run stands for itself. */
const later = 5

/**
 * The head alone: its first epoch over a later one. seq_bn with the lowest five layers left out, features kept: an epoch
 * of seq_bn in every layer over a later one of it.
 */
export async function timeEpochs(size: Size, pairs: number): Promise<{ name: string; ratio: Ratio }[]> {
  const { roberta } = await loadRoberta(size.config, madeUpWeights(size.config), null)
  const dropped = { ...seqBn, leave_out: [0, 1, 2, 3, 4] }
  const head = { architecture: 'head' } as const
  const firsts: number[] = []
  const drops: number[] = []
  // One run of each first: pipelines are compiled in it.
  for (let pair = -1; pair < pairs; pair++) {
    const alone = await epochMs(roberta, size, head)
    const [everywhere, kept] = [await epochMs(roberta, size, seqBn), await epochMs(roberta, size, dropped)]
    if (pair < 0) continue
    firsts.push(alone.first / alone.later)
    drops.push(everywhere.later / kept.later)
  }
  disposeRoberta(roberta)
  return [
    { name: 'head alone, the first epoch over a later one', ratio: ratioOf(firsts) },
    { name: 'epoch of seq_bn over AdapterDrop 5, features kept', ratio: ratioOf(drops) },
  ]
}

/** Milliseconds of the first epoch of a run without the base's dropout, and of the mean later one. */
async function epochMs(
  roberta: Roberta,
  size: Size,
  adapter: AdapterConfig,
): Promise<{ first: number; later: number }> {
  const setup = singleSetup('m', adapter, classificationHead(num_labels))
  const parameters = setupParameters(roberta.config, setup)
  const model = createModel(
    roberta,
    setup,
    madeUpTensors(parameters.map(({ key, shape }): [string, number[]] => [key, shape])),
  )
  const ends = [performance.now()]
  for await (const _ of epochsOf(model, size, { num_train_epochs: 1 + later, base_dropout: false })) {
    await webgpuBackend().queue.onSubmittedWorkDone()
    ends.push(performance.now())
  }
  disposeModel(model)
  return { first: ends[1]! - ends[0]!, later: (ends.at(-1)! - ends[1]!) / later }
}
