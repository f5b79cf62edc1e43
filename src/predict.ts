/** Texts in, labels and scores out (transformers' `pipeline('text-classification', top_k=None)`), and judgement. */
import type { TrainingArguments } from './config.ts'
import { encode, type Encoded } from './data/batches.ts'
import type { Example } from './data/dataset.ts'
import type { Tokenizer } from './data/tokenizer.ts'
import type { Model } from './model/model.ts'
import type { Judged, Metrics, Prediction } from './protocol.ts'
import { argMax, evaluate, logitsOf, softmax } from './train/evaluate.ts'

/** What a prediction needs besides the tokenizer. */
export interface Classifier {
  model: Model
  bundle: { id2label: string[]; max_length: number }
}

/** A text with or without the second text that some tasks pair it with. */
export type TextPair = Pick<Example, 'text' | 'text_pair'>

/** A text without a second one. */
export const alone = (text: string): TextPair => ({ text, text_pair: null })

/** Rows of one batch; predictions need no gradients, so they may be many. */
const batchSize = 32

/** Scores of every label for each text, best first. */
export async function predictTexts(
  classifier: Classifier,
  tokenizer: Tokenizer,
  texts: TextPair[],
): Promise<Prediction[]> {
  const { id2label } = classifier.bundle
  return (await textLogits(classifier, tokenizer, texts)).map((logits) => {
    const scores = softmax(logits)
    return id2label.map((label, i) => ({ label, score: scores[i]! })).sort((a, b) => b.score - a.score)
  })
}

/** What an export carries as its proof: a few texts with the logits computed here. */
export async function exampleLogits(
  classifier: Classifier,
  tokenizer: Tokenizer,
): Promise<{ text: string; logits: number[] }[]> {
  const texts = ['I loved every minute of it.', 'It broke on the second day.', 'It was fine, I suppose.']
  const logits = await textLogits(classifier, tokenizer, texts.map(alone))
  return texts.map((text, i) => ({ text, logits: [...logits[i]!] }))
}

function textLogits(
  { model, bundle }: Classifier,
  tokenizer: Tokenizer,
  texts: TextPair[],
): Promise<Float32Array[]> {
  const examples = texts.map((one) => ({ ...one, label: 0, table: 0, line: 0 }))
  return logitsOf(model, encode(examples, tokenizer, bundle.max_length), batchSize)
}

/** The kept weights on rows that neither training nor the choice of weights has seen. */
export async function judge(
  model: Model,
  examples: Example[],
  encoded: Encoded,
  args: TrainingArguments,
): Promise<{ test: Metrics | null; judged: Judged[] }> {
  if (examples.length === 0) return { test: null, judged: [] }
  const { metrics, rows } = await evaluate(model, encoded, args.per_device_eval_batch_size)
  const judged = examples.map(({ text, label }, i) => {
    const predicted = argMax(rows[i]!)
    return { text, label, predicted, score: rows[i]![predicted]! }
  })
  return { test: metrics, judged }
}
