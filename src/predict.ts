/** Texts in, labels and scores out (transformers' `pipeline('text-classification', top_k=None)`), and judgement. */
import type { TrainingArguments } from './trainingArguments.ts'
import type { HeadConfig } from './config.ts'
import { encode, type Encoded } from './data/batches.ts'
import { encodePrompt } from './data/prompt.ts'
import type { Example } from './data/dataset.ts'
import type { Tokenizer } from './data/tokenizer.ts'
import { heedsPadding } from './methods/padding.ts'
import type { Model } from './model/model.ts'
import type { Judged, LabelWordsOptions, Metrics, Prediction } from './protocol.ts'
import { promptOf } from './task.ts'
import { argMax, evaluate, logitsOfHeads, sigmoid, softmax } from './train/evaluate.ts'

/** What a prediction needs besides the tokenizer; `heads` are the model's active ones, in their order. */
export interface Classifier {
  model: Model
  heads: { name: string; id2label: string[] }[]
  max_length: number
  /** How texts are asked of a masked-LM head; null for other heads. */
  label_words: LabelWordsOptions | null
}

/** A text with or without the second text that some tasks pair it with. */
export type TextPair = Pick<Example, 'text' | 'text_pair'>

/** A text without a second one. */
export const alone = (text: string): TextPair => ({ text, text_pair: null })

/** Rows of one batch; predictions need no gradients, so they may be many. */
const batchSize = 32

/** Scores of every label for each text, best first: of all texts by the first head, then by the next. */
export async function predictTexts(
  classifier: Classifier,
  tokenizer: Tokenizer,
  texts: TextPair[],
): Promise<Prediction[]> {
  const logits = await allLogits(classifier, tokenizer, texts)
  return classifier.heads.flatMap(({ name, id2label }, h) => {
    const answer = answerOf(classifier.model.setup.heads[name]!)
    return logits[h]!.map((row) => {
      const scores = answer(row)
      return id2label.map((label, i) => ({ label, score: scores[i]! })).sort((a, b) => b.score - a.score)
    })
  })
}

/** What a head's logits [C] say: shares of all classes, a share of each label by itself, or the number as it is. */
function answerOf(head: HeadConfig): (logits: Float32Array) => Float32Array {
  if (head.head_type === 'masked_lm') return softmax
  if (head.num_labels === 1) return (logits) => logits
  return head.head_type === 'multilabel_classification' ? (logits) => logits.map(sigmoid) : softmax
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

/** The first head's logits of each text. */
export async function textLogits(
  classifier: Classifier,
  tokenizer: Tokenizer,
  texts: string[],
): Promise<Float32Array[]> {
  return (await allLogits(classifier, tokenizer, texts.map(alone)))[0] ?? []
}

/** Where padding changes answers, texts go through the model one by one, so that each answers as it does alone. */
function allLogits(
  classifier: Classifier,
  tokenizer: Tokenizer,
  texts: TextPair[],
): Promise<Float32Array[][]> {
  const { model } = classifier
  const rows = encoded(classifier, tokenizer, texts)
  return logitsOfHeads(model, rows, heedsPadding(model.setup) ? 1 : batchSize)
}

function encoded(
  { model, heads, max_length, label_words }: Classifier,
  tokenizer: Tokenizer,
  texts: TextPair[],
): Encoded {
  const examples = texts.map((one) => ({ ...one, label: 0, table: 0, line: 0 }))
  if (label_words)
    return encodePrompt(examples, tokenizer, max_length, promptOf(label_words), heads[0]!.id2label.length)
  if (heads.some(({ name }) => model.setup.heads[name]!.head_type === 'masked_lm'))
    throw new Error(
      'This adapter was trained to guess hidden words, not to label texts; train a head for labels first.',
    )
  return encode(examples, tokenizer, max_length)
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
  const ofClasses = !encoded.masking && (!encoded.targets || encoded.targets.kind === 'label_words')
  const judged = (ofClasses ? examples : []).map(({ text, label }, i) => {
    const predicted = argMax(rows[i]!)
    return { text, label, predicted, score: rows[i]![predicted]! }
  })
  return { test: metrics, judged }
}
