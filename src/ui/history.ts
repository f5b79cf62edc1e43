/**
 * The numbers of one run over its steps, as plain columns that a chart takes as they are: one row per step that has
 * anything to show, `null` where a column has no value there. Not reactive: the session bumps one counter per frame.
 * Invariant: `step` ascends and all columns have its length.
 */

/** A column of values on the rows of `History.step`. */
export type Column = (number | null)[]

/** What one training step reports. */
export interface StepPoint {
  step: number
  epoch: number
  loss: number
  learning_rate: number
  grad_norm: number
}

/** What one evaluation reports, the part that has a curve. */
export interface EvaluationPoint {
  step: number
  epoch: number
  loss: number
  accuracy: number
  f1_macro: number
  f1_micro: number
  f1_per_class: number[]
}

export const columnNames = [
  'epoch',
  'train_loss',
  'train_loss_smoothed',
  'learning_rate',
  'grad_norm',
  'validation_loss',
  'validation_f1_macro',
  'validation_f1_micro',
  'validation_accuracy',
] as const

export type ColumnName = (typeof columnNames)[number]

/** Weight of the past in the smoothed loss; with bias correction, as TensorBoard smooths. */
const smoothing = 0.9

/** A number that can be drawn: NaN and infinities become gaps. */
function drawable(value: number): number | null {
  return Number.isFinite(value) ? value : null
}

export class History {
  readonly step: number[] = []
  readonly columns: Record<ColumnName, Column> = {
    epoch: [],
    train_loss: [],
    train_loss_smoothed: [],
    learning_rate: [],
    grad_norm: [],
    validation_loss: [],
    validation_f1_macro: [],
    validation_f1_micro: [],
    validation_accuracy: [],
  }
  /** Validation F1 of each class, by class index. */
  readonly perClass: Column[] = []
  /** Step of the evaluation that the run keeps, or null before the first. */
  best: number | null = null
  #average = 0
  #seen = 0

  constructor(classes = 0) {
    for (let i = 0; i < classes; i++) this.perClass.push([])
  }

  get length(): number {
    return this.step.length
  }

  /** Adds a training step; a step that is not finite leaves the smoothed loss as it was. */
  addStep(point: StepPoint): void {
    const row = this.#rowOf(point.step)
    const { columns } = this
    const loss = drawable(point.loss)
    columns.epoch[row] = point.epoch
    columns.train_loss[row] = loss
    columns.learning_rate[row] = drawable(point.learning_rate)
    columns.grad_norm[row] = drawable(point.grad_norm)
    if (loss === null) return
    this.#average = smoothing * this.#average + (1 - smoothing) * loss
    this.#seen += 1
    columns.train_loss_smoothed[row] = this.#average / (1 - smoothing ** this.#seen)
  }

  /** Adds an evaluation of the validation split. */
  addEvaluation(point: EvaluationPoint, best: boolean): void {
    const row = this.#rowOf(point.step)
    const { columns } = this
    columns.epoch[row] = point.epoch
    columns.validation_loss[row] = drawable(point.loss)
    columns.validation_f1_macro[row] = drawable(point.f1_macro)
    columns.validation_f1_micro[row] = drawable(point.f1_micro)
    columns.validation_accuracy[row] = drawable(point.accuracy)
    this.perClass.forEach((column, i) => (column[row] = drawable(point.f1_per_class[i] ?? NaN)))
    if (best) this.best = point.step
  }

  /** The row of `step`, made when there is none. Losses are read late, so a step may come after a later evaluation. */
  #rowOf(step: number): number {
    let row = this.step.length
    while (row > 0 && (this.step[row - 1] ?? 0) > step) row -= 1
    if (row > 0 && this.step[row - 1] === step) return row - 1
    this.step.splice(row, 0, step)
    for (const name of columnNames) this.columns[name].splice(row, 0, null)
    for (const column of this.perClass) column.splice(row, 0, null)
    return row
  }

  /** Forgets what came after `step`: a resumed run goes that way again. */
  truncateAfter(step: number): void {
    const keep = this.step.filter((other) => other <= step).length
    this.step.length = keep
    for (const name of columnNames) this.columns[name].length = keep
    for (const column of this.perClass) column.length = keep
    if (this.best !== null && this.best > step) this.best = null
  }

  /** The last value of a column at or before `step`, or null. */
  at(column: Column, step: number): number | null {
    for (let row = this.step.length - 1; row >= 0; row--) {
      if ((this.step[row] ?? 0) <= step && column[row] != null) return column[row] ?? null
    }
    return null
  }

  /** Every row as CSV; an empty cell where a column has no value. `id2label` names the per-class columns. */
  toCsv(id2label: string[]): string {
    const quote = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)
    const perClassNames = this.perClass.map((_, i) => quote(`validation_f1 ${id2label[i] ?? i}`))
    const lines = [['step', ...columnNames, ...perClassNames].join(',')]
    const columns = [...columnNames.map((name) => this.columns[name]), ...this.perClass]
    this.step.forEach((step, row) =>
      lines.push([step, ...columns.map((column) => column[row] ?? '')].join(',')),
    )
    return lines.join('\r\n') + '\r\n'
  }
}
