/**
 * What the page and the worker say to each other, as two discriminated unions with flat fields. Types only: nothing
 * here exists at run time. The page sends `Command`s and draws `RunEvent`s; it never holds a tensor.
 */
import type { AdapterConfig, BaseIdentity, RobertaConfig, TrainingArguments } from './config.ts'
import type { DatasetSummary, Mapping, Role, SplitArguments } from './data/dataset.ts'
import type { TablePreview } from './data/parse.ts'
import type { DeviceReport } from './kernels/backend.ts'
import type { SummaryRow } from './model/params.ts'
import type { SelfTestReport } from './model/selfTest.ts'
import type { Metrics } from './train/metrics.ts'

export type {
  AdapterConfig,
  BaseIdentity,
  DatasetSummary,
  DeviceReport,
  Mapping,
  Metrics,
  Role,
  RobertaConfig,
  SelfTestReport,
  SplitArguments,
  SummaryRow,
  TablePreview,
  TrainingArguments,
}

/** Where base weights come from: bundled with the page, a hub repository, or files the user dropped. */
export type ModelSource =
  | { kind: 'bundled'; url: string }
  | { kind: 'hub'; repo: string; revision: string; endpoint: string }
  | { kind: 'files'; name: string; files: File[] }

/** Rows to learn from: files or pasted text the user gave, or one of the bundled sample sets by URL. */
export type DataSource = { kind: 'files'; files: File[] } | { kind: 'sample'; urls: string[] }

export type Split = 'train' | 'validation' | 'test'

/** `[{label, score}]`, best first: the form of `pipeline('text-classification', top_k=None)`. */
export type Prediction = { label: string; score: number }[]

/** One row of an evaluated split, as the confusion matrix opens it. */
export interface Judged {
  text: string
  /** The true class and the predicted one, as indices into id2label. */
  label: number
  predicted: number
  score: number
}

export type Command =
  /** `wasmUrl`: the folder of the wasm backend's files, absolute; a worker made from a blob knows no page. */
  | {
      type: 'openDevice'
      backend: 'webgpu' | 'wasm'
      powerPreference: 'high-performance' | 'low-power'
      wasmUrl: string
    }
  | { type: 'openModel'; source: ModelSource }
  | { type: 'cancelDownload' }
  | { type: 'openData'; source: DataSource }
  /** `roles[i]` says what table i is for; called again whenever a choice changes. */
  | { type: 'mapData'; mapping: Mapping; split: SplitArguments; roles: Role[]; max_length: number }
  /** The summary table of what Train would train, before it is pressed. */
  | { type: 'describe'; adapter: AdapterConfig; num_labels: number }
  | { type: 'train'; runId: string; name: string; adapter: AdapterConfig; args: TrainingArguments }
  /** Continues a run that was cut off, from its last checkpoint; the data must be open again. */
  | { type: 'resumeRun'; runId: string }
  | { type: 'pause' }
  | { type: 'resume' }
  | { type: 'step' }
  | { type: 'stop' }
  /** Puts a kept run's adapter and head into the model, for prediction. */
  | { type: 'openRun'; runId: string }
  /** Files of an adapter zip or folder, ours or one made in Python; it becomes a kept run. */
  | { type: 'importAdapter'; runId: string; files: File[] }
  | { type: 'predict'; id: number; texts: string[] }
  /** A file of texts in, a CSV out. */
  | { type: 'predictFile'; file: File }
  | { type: 'exportRun'; runId: string }

export type TrainState = 'running' | 'paused'

export type RunEvent =
  | { type: 'device'; report: DeviceReport }
  | { type: 'selfTest'; report: SelfTestReport }
  /** `seconds_left` is null until it means something. */
  | {
      type: 'download'
      file: string
      bytes: number
      total: number | null
      bytes_per_second: number
      seconds_left: number | null
    }
  | { type: 'model'; base: BaseIdentity; config: RobertaConfig; notes: string[]; bytes: number }
  | { type: 'tables'; tables: TablePreview[]; mapping: Mapping | null; roles: Role[] }
  | { type: 'dataset'; summary: DatasetSummary }
  | { type: 'summary'; rows: SummaryRow[] }
  | {
      type: 'started'
      runId: string
      name: string
      total_steps: number
      step: number
      id2label: string[]
      rows: SummaryRow[]
    }
  | { type: 'state'; runId: string; state: TrainState }
  /** After every optimiser step; the readings of `step` come only every logging_steps. */
  | { type: 'tick'; runId: string; step: number; seconds_left: number | null }
  | {
      type: 'step'
      runId: string
      step: number
      epoch: number
      loss: number
      learning_rate: number
      grad_norm: number
      samples_per_second: number
      tokens_per_second: number
      gpu_bytes: number
      seconds_left: number | null
    }
  | {
      type: 'evaluation'
      runId: string
      split: Split
      step: number
      epoch: number
      metrics: Metrics
      best: boolean
    }
  | {
      type: 'done'
      runId: string
      reason: 'finished' | 'stopped' | 'early' | 'diverged'
      /** Why, when it is not simply finished: a sentence for the page. */
      note: string | null
      best_step: number
      /** Metrics of the kept weights on the test split; null when there is none. */
      test: Metrics | null
      judged: Judged[]
      /** The adapter is in the browser's store; false: only in this tab, until it closes. */
      kept: boolean
    }
  | { type: 'opened'; runId: string; name: string; id2label: string[] }
  | { type: 'imported'; runId: string; name: string; notes: string[] }
  | { type: 'prediction'; id: number; predictions: Prediction[] }
  | { type: 'file'; name: string; mime: string; bytes: Uint8Array<ArrayBuffer> }
  /** `fatal`: the device is gone; reload or open another. `command` names what failed. */
  | { type: 'error'; command: Command['type'] | null; runId: string | null; message: string; fatal: boolean }
