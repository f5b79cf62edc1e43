/** The trained adapters at work: what is in the model, its answers, and the ways out to files. */
import type { Command, ExportForm, Prediction, RunEvent } from '../protocol.ts'
import type { EventOf } from './currentRun.ts'
import { Draft } from './draft.svelte.ts'

/** Events that are about what is in use. */
export type AboutUse = EventOf<'opened' | 'assembled' | 'prediction' | 'onnxTried'>

/** What answers: a kept run's adapter, or several together, which no single run is. */
export interface Active {
  runId: string | null
  name: string
  id2label: string[]
}

export interface Answer {
  text: string
  prediction: Prediction
  /** Which head said it, when several did. */
  head: string | null
}

export class Use {
  active = $state.raw<Active | null>(null)
  /** Several adapters together, as they are in the model. */
  assembled = $state.raw<EventOf<'assembled'> | null>(null)
  /** And as the user is putting them together. */
  draft = new Draft()
  /** Newest first. */
  answers = $state.raw<Answer[]>([])
  onnx = $state.raw<EventOf<'onnxTried'> | null>(null)
  #ask: (command: Command, expect: RunEvent['type']) => Promise<boolean>
  #asked: string[] = []
  #ids = 0

  constructor(ask: (command: Command, expect: RunEvent['type']) => Promise<boolean>) {
    this.#ask = ask
  }

  openRun(runId: string): Promise<boolean> {
    return this.#ask({ type: 'openRun', runId }, 'opened')
  }

  /** Puts what the user put together into the model. */
  assemble(): Promise<boolean> {
    return this.#ask({ type: 'assemble', assembly: this.draft.assembly('') }, 'assembled')
  }

  /** Folds an adapter into the base's weights, or takes it out of them again. */
  merge(name: string, into: boolean): Promise<boolean> {
    return this.#ask({ type: into ? 'mergeAdapter' : 'resetAdapter', name }, 'assembled')
  }

  predict(text: string): Promise<boolean> {
    this.#asked = [text]
    return this.#ask({ type: 'predict', id: ++this.#ids, texts: [text] }, 'prediction')
  }

  predictFile(file: File): Promise<boolean> {
    return this.#ask({ type: 'predictFile', file }, 'file')
  }

  exportRun(runId: string, form: ExportForm = 'adapter'): Promise<boolean> {
    return this.#ask({ type: 'exportRun', runId, form }, 'file')
  }

  /** The folder that `load_adapter_setup` takes, of what is together in the model. */
  async exportAssembly(name: string): Promise<boolean> {
    if (!this.assembled) return false
    return this.#ask({ type: 'exportAssembly', name, assembly: this.assembled.assembly }, 'file')
  }

  tryOnnx(runId: string): Promise<boolean> {
    return this.#ask({ type: 'tryOnnx', runId }, 'onnxTried')
  }

  /** An adapter from now on answers; null: none does. */
  activate(active: Active | null): void {
    this.active = active
    this.assembled = null
    this.answers = []
  }

  take(event: AboutUse): void {
    switch (event.type) {
      case 'opened':
        return this.activate({ runId: event.runId, name: event.name, id2label: event.id2label })
      case 'assembled': {
        const names = event.assembly.members.map(({ name }) => name)
        const id2label = [...new Set(event.heads.flatMap((head) => head.id2label))]
        this.activate({ runId: null, name: names.join(', '), id2label })
        this.assembled = event
        return
      }
      case 'prediction': {
        const texts = this.#asked.length
        const heads = event.heads && event.heads.length > 1 ? event.heads : []
        const answers = event.predictions.map((prediction, i) => ({
          text: this.#asked[i % texts] ?? '',
          prediction,
          head: heads[Math.floor(i / texts)] ?? null,
        }))
        this.answers = [...answers, ...this.answers].slice(0, 20)
        return
      }
      case 'onnxTried':
        this.onnx = event
        return
      default:
        event satisfies never
    }
  }
}
