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

/** The head alone: how many times as long its first epoch takes as a later one. */
export async function timeHead(size: Size, pairs: number): Promise<Ratio> {
  const roberta = await madeUpBase(size)
  const ratio = await timeRuns(pairs, async () => {
    const { first, later } = await epochMs(roberta, size, { architecture: 'head' })
    return first / later
  })
  disposeRoberta(roberta)
  return ratio
}

/** An epoch of seq_bn in every layer over a later one of it without the lowest five, whose features are kept. */
export async function timeAdapterDrop(size: Size, pairs: number): Promise<Ratio> {
  const roberta = await madeUpBase(size)
  const ratio = await timeRuns(pairs, async () => {
    const everywhere = await epochMs(roberta, size, seqBn)
    const kept = await epochMs(roberta, size, { ...seqBn, leave_out: [0, 1, 2, 3, 4] })
    return everywhere.later / kept.later
  })
  disposeRoberta(roberta)
  return ratio
}

async function madeUpBase({ config }: Size): Promise<Roberta> {
  return (await loadRoberta(config, madeUpWeights(config), null)).roberta
}

/** The ratios that `run` gives, after one in which pipelines are compiled. */
async function timeRuns(pairs: number, run: () => Promise<number>): Promise<Ratio> {
  await run()
  const ratios: number[] = []
  for (let pair = 0; pair < pairs; pair++) ratios.push(await run())
  return ratioOf(ratios)
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
