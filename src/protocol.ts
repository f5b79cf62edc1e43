/**
 * What the page and the worker say to each other, as two discriminated unions with flat fields. Types only: nothing
 * here exists at run time. The page sends `Command`s and draws `RunEvent`s; it never holds a tensor.
 */
import type {
  AdapterConfig,
  AdapterDrop,
  AdapterSetup,
  Assembly,
  BaseIdentity,
  FusionConfig,
  HeadOptions,
  Member,
  RobertaConfig,
} from './config.ts'
import type { TrainingArguments } from './trainingArguments.ts'
import type { DatasetSummary, Mapping, Role, SplitArguments } from './data/dataset.ts'
import type { MaskingArguments } from './data/masking.ts'
import type { PackingArguments } from './data/packing.ts'
import type { TablePreview } from './data/parse.ts'
import type { DeviceReport } from './kernels/backend.ts'
import type { Precision } from './model/loadRoberta.ts'
import type { SummaryRow } from './model/params.ts'
import type { SelfTestReport } from './model/selfTest.ts'
import type { Fit } from './train/fitting.ts'
import type { Metrics } from './train/metrics.ts'

export type {
  AdapterConfig,
  AdapterDrop,
  AdapterSetup,
  Assembly,
  BaseIdentity,
  DatasetSummary,
  DeviceReport,
  FusionConfig,
  HeadOptions,
  Mapping,
  Member,
  Metrics,
  Precision,
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

/** Masked-LM pretraining, when the data's task is `masked_lm`. */
export interface MaskedLMOptions extends MaskingArguments {
  /** Texts joined and cut into blocks of max_length tokens; null: each text is a row by itself. */
  packing: Pick<PackingArguments, 'texts_at_once'> | null
  /** A new LM head in place of the base's pretrained one. */
  fresh_head: boolean
}

/** Prompt mode: the LM head answers with words, and there is no classification head. */
export interface LabelWordsOptions {
  /** `{text}`, `{text_pair}` where there is one, and `<mask>` once, where the word goes. */
  template: string
  /** The word of each class, in the order of id2label; with one alone, its logit says class 1 against class 0. */
  words: string[]
}

/**
 * What an export holds: the adapter for `adapters` and `peft`; the whole model with the adapter folded in, for
 * `transformers`; the same as ONNX; or a folder that repeats the run in Python.
 */
export type ExportForm = 'adapter' | 'full_model' | 'onnx' | 'python'

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
  /** `precision` absent: auto. */
  | { type: 'openModel'; source: ModelSource; precision?: Precision }
  | { type: 'cancelDownload' }
  | { type: 'openData'; source: DataSource }
  /** `roles[i]` says what table i is for; called again whenever a choice changes. */
  | { type: 'mapData'; mapping: Mapping; split: SplitArguments; roles: Role[]; max_length: number }
  /** The summary table of what Train would train, before it is pressed. */
  | {
      type: 'describe'
      adapter: AdapterConfig
      num_labels: number
      /** The rest as in `train`. */
      name?: string
      head?: HeadOptions
      assembly?: Assembly
      masked_lm?: MaskedLMOptions
      label_words?: LabelWordsOptions
    }
  /** What Train would take of the device's memory; `available`: the bytes it may take, null: nobody knows. */
  | {
      type: 'measure'
      adapter: AdapterConfig
      num_labels: number
      args: TrainingArguments
      available: number | null
      /** The rest as in `train`. */
      name?: string
      head?: HeadOptions
      assembly?: Assembly
      adapter_drop?: AdapterDrop
      masked_lm?: MaskedLMOptions
      label_words?: LabelWordsOptions
    }
  /** `adapter` is what the run makes; with an assembly, `head` as its architecture makes a head alone beside the members. */
  | {
      type: 'train'
      runId: string
      name: string
      adapter: AdapterConfig
      args: TrainingArguments
      /** Absent: the plain head of two layers. */
      head?: HeadOptions
      /** Absent: the run's own adapter alone, active. */
      assembly?: Assembly
      /** Absent: adapters stay in all their layers. */
      adapter_drop?: AdapterDrop
      /** With data of the task `masked_lm`; absent there: 15 % hidden, blocks, the pretrained head. */
      masked_lm?: MaskedLMOptions
      /** With data of classes: instead of a classification head. */
      label_words?: LabelWordsOptions
    }
  /** Continues a run that was cut off, from its last checkpoint; the data must be open again. */
  | { type: 'resumeRun'; runId: string }
  | { type: 'pause' }
  | { type: 'resume' }
  | { type: 'step' }
  | { type: 'stop' }
  /** Puts a kept run's adapter and head into the model, for prediction. */
  | { type: 'openRun'; runId: string }
  /** Puts several kept adapters into the model, for prediction; whatever was there before is taken out (`delete_adapter`). */
  | { type: 'assemble'; assembly: Assembly }
  /** Folds an adapter of the model into the base's weights, or takes it out again; the base must not stay changed. */
  | { type: 'mergeAdapter'; name: string }
  | { type: 'resetAdapter'; name: string }
  /** `average_adapter`: a new kept adapter from others of one configuration; `svd_rank` only for `lora_delta_w_svd`. */
  | {
      type: 'averageAdapters'
      runId: string
      name: string
      members: { runId: string; weight: number }[]
      combine_strategy: 'linear' | 'lora_linear_only_negate_b' | 'lora_delta_w_svd'
      normalize_weights: boolean
      svd_rank: number | null
    }
  /** Files of an adapter zip or folder, ours or one made in Python; it becomes a kept run. `with_head` absent: true. */
  | { type: 'importAdapter'; runId: string; files: File[]; with_head?: boolean }
  | { type: 'predict'; id: number; texts: string[] }
  /** A file of texts in, a CSV out. */
  | { type: 'predictFile'; file: File }
  /** `form` absent: `adapter`. */
  | { type: 'exportRun'; runId: string; form?: ExportForm }
  /** The folder of `save_adapter_setup` for what `assemble` put into the model. */
  | { type: 'exportAssembly'; name: string; assembly: Assembly }
  /** Runs the ONNX export of a kept run in `@huggingface/transformers` and compares it with this program's numbers. */
  | { type: 'tryOnnx'; runId: string }

export type TrainState = 'running' | 'paused'

export type RunEvent =
  | { type: 'device'; report: DeviceReport }
  /** `notes`: what runs the slower way on this device and why, a sentence each. */
  | { type: 'selfTest'; report: SelfTestReport; notes: string[] }
  /** `seconds_left` is null until it means something. */
  | {
      type: 'download'
      file: string
      bytes: number
      total: number | null
      bytes_per_second: number
      seconds_left: number | null
    }
  /** `rounded`: weights of it were rounded to half precision. */
  | {
      type: 'model'
      base: BaseIdentity
      config: RobertaConfig
      rounded: boolean
      notes: string[]
      bytes: number
    }
  | { type: 'tables'; tables: TablePreview[]; mapping: Mapping | null; roles: Role[] }
  | { type: 'dataset'; summary: DatasetSummary }
  | { type: 'summary'; rows: SummaryRow[] }
  /** null: not on a GPU, where nothing is measured on paper. */
  | { type: 'memory'; fit: Fit | null }
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
      /** Tokens that are text, of all positions computed in the step's epoch. */
      padding_efficiency: number
      gpu_bytes: number
      seconds_left: number | null
    }
  /**
   * That a trained adapter or fusion is in the path of the prediction: after the first step, then with each evaluation.
   * `grad_norm` is the first step's, over its own tensors; `logits_change` the largest change of a logit on a few rows
   * when it is not active, null until it has been measured (a fresh adapter may change nothing before it has learnt).
   */
  | { type: 'inPath'; runId: string; name: string; grad_norm: number; logits_change: number | null }
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
  /**
   * What is in the model after `assemble`, `mergeAdapter` and `resetAdapter`. `heads`: those computed, in the order of
   * their outputs, by the library's rule (`parse_heads_from_composition`). `merged`: folded into the base at the moment.
   */
  | {
      type: 'assembled'
      assembly: Assembly
      heads: { name: string; id2label: string[] }[]
      merged: string[]
      rows: SummaryRow[]
    }
  /** An adapter was kept that no run of this browser trained: imported, or averaged from others. */
  | { type: 'imported'; runId: string; name: string; notes: string[] }
  /** With several heads, `predictions` holds all texts for the first, then all for the next; `heads` names them. */
  | { type: 'prediction'; id: number; predictions: Prediction[]; heads?: string[] }
  /** `furthest`: the largest difference of a logit between the ONNX file and this program, over `texts` texts. */
  | { type: 'onnxTried'; runId: string; furthest: number; texts: number; ms: number }
  | { type: 'file'; name: string; mime: string; bytes: Uint8Array<ArrayBuffer> }
  /** `fatal`: the device is gone; reload or open another. `command` names what failed. */
  | { type: 'error'; command: Command['type'] | null; runId: string | null; message: string; fatal: boolean }
