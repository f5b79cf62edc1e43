/**
 * Exports that need no adapters library, in Python: folders with the adapter folded in for transformers and ONNX files
 * for onnxruntime, of every method and head (exports.py); and runs that Python goes through again (continue.ts).
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fullModelFiles, fullModelProblem, type ExportFiles } from '../../src/io/fullModel.ts'
import { onnxFiles } from '../../src/io/onnxModel.ts'
import { baseModel, exportCases, type ExportCase } from '../io.exports.ts'

export type Report = (passed: boolean, name: string, detail: string) => void

const limit = 1e-5

export async function writeFiles(folder: string, files: ExportFiles): Promise<void> {
  for (const [name, content] of files) {
    const bytes = content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : content
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), bytes)
  }
}

async function writeCase(folder: string, { model, bundle, batch, logits: flat }: ExportCase): Promise<void> {
  const base = await baseModel(model)
  await writeFiles(folder, await onnxFiles(base, bundle))
  if (fullModelProblem(bundle) === null) await writeFiles(folder, await fullModelFiles(base, bundle))
  const C = bundle.id2label.length
  const logits = batch.input_ids.map((_, b) => [...flat.subarray(b * C, (b + 1) * C)])
  const { id2label: labels, max_length } = bundle
  writeFileSync(join(folder, 'expected.json'), JSON.stringify({ ...batch, logits, labels, max_length }))
}

/** Writes every case to `out`, has Python open them, and reports one line for each. */
export async function compareStandalone(
  interpreter: string,
  here: string,
  out: string,
  report: Report,
): Promise<void> {
  rmSync(out, { recursive: true, force: true })
  const cases = [...(await exportCases('methods')), ...(await exportCases('task-heads'))]
  const name = ({ name, model }: ExportCase) => `${name} on ${model}`.replaceAll(/[^\w+.]+/g, '-')
  for (const one of cases) await writeCase(join(out, name(one)), one)
  const { stdout, stderr } = spawnSync(interpreter, [join(here, 'exports.py'), out], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  })
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'))
  if (lines.length !== new Set(cases.map(name)).size)
    report(false, 'exports in Python', stderr.trim().slice(-2000))
  for (const line of lines) {
    const found = JSON.parse(line) as { case: string; faults: string[]; worst: Record<string, number> }
    const far = Object.entries(found.worst).filter(([, value]) => !(value <= limit))
    const numbers = Object.entries(found.worst).map(([what, value]) => `${what} ${value.toExponential(1)}`)
    const wrong = [...found.faults, ...far.map(([what]) => `${what} is too far`)]
    if (wrong.length > 0 || numbers.length > 0)
      report(wrong.length === 0, `export of ${found.case} in Python`, [...wrong, ...numbers].join('; '))
  }
}
