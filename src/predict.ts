/** Texts in, labels and scores out: transformers' `pipeline('text-classification', top_k=None)`. */
import { encode } from './data/batches.ts'
import type { Tokenizer } from './data/tokenizer.ts'
import type { Model } from './model/model.ts'
import type { Prediction } from './protocol.ts'
import { logitsOf, softmax } from './train/evaluate.ts'

/** What a prediction needs besides the tokenizer. */
export interface Classifier {
  model: Model
  bundle: { id2label: string[]; max_length: number }
}

/** Rows of one batch; predictions need no gradients, so they may be many. */
const batchSize = 32

/** Scores of every label for each text, best first. */
export async function predictTexts(
  classifier: Classifier,
  tokenizer: Tokenizer,
  texts: string[],
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
  const logits = await textLogits(classifier, tokenizer, texts)
  return texts.map((text, i) => ({ text, logits: [...logits[i]!] }))
}

function textLogits(
  { model, bundle }: Classifier,
  tokenizer: Tokenizer,
  texts: string[],
): Promise<Float32Array[]> {
  const examples = texts.map((text) => ({ text, text_pair: null, label: 0, table: 0, line: 0 }))
  return logitsOf(model, encode(examples, tokenizer, bundle.max_length), batchSize)
}
