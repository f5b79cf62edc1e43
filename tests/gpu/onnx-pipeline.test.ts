/** Transformers.js in a browser, on an exported folder that lies in memory. */
import { expect, it } from 'vitest'
import { classificationHead } from '../../src/config.ts'
import { onnxFiles } from '../../src/io/onnxModel.ts'
import { seqBn } from '../../src/methods/bottleneck.ts'
import { openOnnxPipeline } from '../../src/onnxPipeline.ts'
import { baseModel, bundleOf, exportCases } from '../io.exports.ts'
import { furthest } from '../parity.engine.ts'

it('runs in the page with the library’s logits, and asks no other host for anything', async () => {
  const base = await baseModel('tiny-roberta')
  const files = await onnxFiles(base, bundleOf(base.config, seqBn, classificationHead(3)))
  const pipeline = await openOnnxPipeline(files)
  const one = (await exportCases('methods')).find(
    ({ name, model }) => name === 'seq_bn' && model === 'tiny-roberta',
  )!
  const rows = await pipeline.run(one.batch.input_ids, one.batch.attention_mask)
  expect(furthest(Float32Array.from(rows.flatMap((row) => [...row])), one.logits)).toBeLessThan(1e-5)
  const [scores] = await pipeline.classify(['The film was great.'])
  expect(scores!.map(({ label }) => label).sort()).toEqual(['label 0', 'label 1', 'label 2'])
  expect(scores!.reduce((sum, { score }) => sum + score, 0)).toBeCloseTo(1, 5)
  await pipeline.dispose()
  const asked = performance.getEntriesByType('resource').map(({ name }) => new URL(name).origin)
  expect(new Set(asked)).toEqual(new Set([location.origin]))
})
