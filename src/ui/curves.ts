/** Which columns of a history each chart draws, under which name and in which colour. */
import { fixed, scientific } from './format.ts'
import type { Series } from './draw.ts'
import type { History } from './history.ts'

/** Colours of the per-class curves, by class index. */
const classColours = ['green', 'purple', 'orange', 'grey']

/** Loss, F1, and learning rate with gradient norm. The arrays are the history's own: they grow as it does. */
export function curvesOf(
  history: History,
  id2label: string[],
): { loss: Series[]; f1: Series[]; rates: Series[] } {
  const { columns } = history
  const few = history.perClass.length <= classColours.length
  const perClass = few
    ? history.perClass.map((values, i) => ({
        label: id2label[i] ?? String(i),
        values,
        colour: classColours[i] ?? 'grey',
        width: 1,
        dash: [4, 3],
        quiet: true,
        format: fixed,
      }))
    : []
  return {
    loss: [
      { label: 'training', values: columns.train_loss, colour: 'grey', width: 1, quiet: true, format: fixed },
      { label: 'smoothed', values: columns.train_loss_smoothed, colour: 'blue', format: fixed },
      {
        label: 'validation',
        values: columns.validation_loss,
        colour: 'vermillion',
        dots: true,
        format: fixed,
      },
    ],
    f1: [
      { label: 'macro-F1', values: columns.validation_f1_macro, colour: 'blue', dots: true, format: fixed },
      {
        label: 'micro-F1',
        values: columns.validation_f1_micro,
        colour: 'vermillion',
        width: 1,
        dots: true,
        format: fixed,
      },
      ...perClass,
    ],
    rates: [
      { label: 'grad norm', values: columns.grad_norm, colour: 'green', width: 1.5, format: fixed },
      {
        label: 'learning rate',
        values: columns.learning_rate,
        colour: 'purple',
        right: true,
        format: scientific,
      },
    ],
  }
}
