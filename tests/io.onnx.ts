/** Runs an ONNX file with onnxruntime, without any of our own code. */
import * as ort from 'onnxruntime-web'
import type { StoredBatch } from './fixtures.ts'

/** Logits [B·C] of a batch. */
export async function logitsOf(
  file: Blob,
  { input_ids, attention_mask }: StoredBatch,
): Promise<Float32Array> {
  const session = await ort.InferenceSession.create(new Uint8Array(await file.arrayBuffer()))
  const dims = [input_ids.length, input_ids[0]!.length]
  const tensor = (rows: number[][]) => new ort.Tensor('int64', BigInt64Array.from(rows.flat(), BigInt), dims)
  const { logits } = await session.run({
    input_ids: tensor(input_ids),
    attention_mask: tensor(attention_mask),
  })
  await session.release()
  return logits!.data as Float32Array
}
