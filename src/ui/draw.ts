/**
 * uPlot set up as this page draws: the whole run on the x axis, lines named at their right end, the kept step ringed,
 * colours from the stylesheet. Knows columns and pixels, nothing of training.
 */
import type uPlot from 'uplot'
import type { Column } from './history.ts'

export interface Series {
  /** Short, as it stands at the line's end and over the chart. */
  label: string
  values: Column
  /** A custom property of app.css, without dashes: `blue`. */
  colour: string
  width?: number
  dash?: number[]
  /** Drawn against an axis of its own, at the right. */
  right?: boolean
  /** Few values, far apart: each gets a dot. */
  dots?: boolean
  /** Not named at the line's end; its name still stands over the chart. */
  quiet?: boolean
  format: (value: number | null | undefined) => string
}

export interface ChartOptions {
  width: number
  height: number
  series: Series[]
  log: boolean
  /** Scores: the axis ends at 1 and starts at a tenth. */
  scores: boolean
  /** Last step of the run, so that the axis does not move while it goes. */
  xMax: number
  /** Step whose point on `series[bestSeries]` is ringed; read at each drawing. */
  best: () => number | null
  bestSeries: number
  onHover: (row: number | null) => void
}

/** What uPlot draws: x and one column per series; a logarithmic axis has no place for zero and below. */
export function dataOf(x: number[], series: Series[], log: boolean): uPlot.AlignedData {
  const positive = (values: Column): Column =>
    values.map((value) => (value !== null && value > 0 ? value : null))
  return [x, ...series.map(({ values }) => (log ? positive(values) : values))]
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
}

function yRange(log: boolean, scores: boolean): uPlot.Scale.Range {
  if (scores) return (_u, min) => [Number.isFinite(min) ? Math.max(0, Math.floor(min * 10 - 0.5) / 10) : 0, 1]
  if (log) return (_u, min, max) => [(min || 1e-3) / 1.3, (max || 1) * 1.3]
  return (_u, _min, max) => [0, Number.isFinite(max) && max > 0 ? max * 1.08 : 1]
}

const font = '12px system-ui, sans-serif'

function axis(extra: Partial<uPlot.Axis>): uPlot.Axis {
  return {
    font,
    stroke: () => colour('soft'),
    grid: { stroke: () => colour('line'), width: 1 },
    ticks: { show: false },
    gap: 4,
    ...extra,
  }
}

/** Row of the last value in a column, or -1. */
function lastRow(values: ArrayLike<number | null | undefined>): number {
  for (let row = values.length - 1; row >= 0; row--) if (values[row] != null) return row
  return -1
}

/** Writes each line's name beside its last point, pushed apart where they would overlap. */
function drawNames(u: uPlot, series: Series[]): void {
  const names = series
    .map(({ label, colour: name, right, quiet }, i) => {
      const values = u.data[i + 1] ?? []
      const row = lastRow(values)
      const value = values[row]
      if (row < 0 || value == null || quiet) return null
      const y = u.valToPos(value, right ? 'right' : 'y', true)
      return { label, colour: name, x: u.valToPos(u.data[0][row] ?? 0, 'x', true), y }
    })
    .filter((name) => name !== null)
    .sort((a, b) => a.y - b.y)
  const { ctx } = u
  const gap = 13 * devicePixelRatio
  let lowest = -Infinity
  ctx.save()
  ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`
  ctx.textBaseline = 'middle'
  ctx.textAlign = 'left'
  for (const name of names) {
    lowest = Math.max(name.y, lowest + gap)
    ctx.fillStyle = colour(name.colour)
    ctx.fillText(name.label, name.x + 7 * devicePixelRatio, lowest)
  }
  ctx.restore()
}

/** A ring around the point the run keeps. */
function drawBest(u: uPlot, step: number | null, at: number): void {
  const row = step === null ? -1 : u.data[0].indexOf(step)
  const value = u.data[at + 1]?.[row]
  if (step === null || value == null) return
  const { ctx } = u
  ctx.save()
  ctx.strokeStyle = colour('ink')
  ctx.lineWidth = 1.5 * devicePixelRatio
  ctx.setLineDash([])
  ctx.beginPath()
  ctx.arc(u.valToPos(step, 'x', true), u.valToPos(value, 'y', true), 6 * devicePixelRatio, 0, 2 * Math.PI)
  ctx.stroke()
  ctx.restore()
}

/** Options for `new uPlot`. The canvas says nothing to a screen reader: a table stands behind every chart. */
export function optionsFor(options: ChartOptions): uPlot.Options {
  const { width, height, series, log, scores, xMax } = options
  const scale = { distr: log ? 3 : 1, range: yRange(log, scores) } as const
  const hasRight = series.some(({ right }) => right)
  return {
    width,
    height,
    padding: [8, 88, 0, 0],
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 6 }, y: false },
    scales: {
      x: { time: false, range: (_u, _min, max) => [0, Math.max(xMax, max || 0, 1)] },
      y: scale,
      ...(hasRight ? { right: { distr: log ? 3 : 1, range: yRange(log, false) } as const } : {}),
    },
    axes: [
      axis({ size: 22, space: 60, grid: { show: false } }),
      axis({ size: 46, space: 30 }),
      ...(hasRight ? [axis({ scale: 'right', show: false })] : []),
    ],
    series: [
      {},
      ...series.map((line) => ({
        scale: line.right ? 'right' : 'y',
        stroke: () => colour(line.colour),
        width: line.width ?? 2,
        dash: line.dash,
        spanGaps: true,
        points: line.dots ? { show: true, size: 5, fill: () => colour(line.colour) } : { show: false },
      })),
    ],
    hooks: {
      draw: [
        (u) => {
          drawNames(u, series)
          drawBest(u, options.best(), options.bestSeries)
        },
      ],
      setCursor: [(u) => options.onHover(u.cursor.idx ?? null)],
    },
  }
}
