/**
 * The bench on a GPU, without a browser: `main.mjs [--batch 32] [--length 128] [--json FILE] [--allow-software]`, as run.sh
 * of the archive calls it. Correctness comes first, and a device that fails it gets no times; neither does a software
 * adapter, which `--allow-software` lets through to the checks alone. Every section runs in a process of its own, so that
 * one that a driver takes down, or that does not fit the memory, costs its own lines only.
 */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import * as tf from '@tensorflow/tfjs'
import { openBackend, type BackendOptions, type DeviceReport } from '../../../src/kernels/backend.ts'
import { robertaBase } from '../sizes.ts'
import { checkDevice, type Check } from './correctness.ts'
import { dataSheetPeak, measuredPeak } from './peak.ts'
import { report, type Found } from './report.ts'
import { timeAttention, timeProducts, timeSteps, timeTape } from './times.ts'

const { values } = parseArgs({
  options: {
    batch: { type: 'string', default: '32' },
    length: { type: 'string', default: '128' },
    json: { type: 'string', default: 'adaptab-bench.json' },
    section: { type: 'string' },
    'allow-software': { type: 'boolean', default: false },
  },
})

/** A section that takes longer is given up; a software adapter takes long. */
const longestMs = values['allow-software'] ? 3_600_000 : 300_000

const self = fileURLToPath(import.meta.url)
const size = { config: robertaBase, B: Number(values.batch), S: Number(values.length) }

function fail(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}

async function dawn(): Promise<BackendOptions> {
  const { create, globals } = await import('webgpu')
  Object.assign(globalThis, globals)
  return { gpu: create([]), onLost: fail, onError: fail }
}

/** What the device says it is. */
async function deviceOf(options: BackendOptions): Promise<{ report: DeviceReport; name: string }> {
  const report = await openBackend('webgpu', options)
  const { vendor, architecture, description } = report
  const { info } = (await options.gpu!.requestAdapter({ powerPreference: 'high-performance' }))!
  return {
    report,
    name: [...new Set([vendor, architecture, info.device, description])].filter(Boolean).join(' '),
  }
}

function tell({ name, ok, detail }: Check): void {
  process.stderr.write(`${ok ? 'ok    ' : 'WRONG '} ${name}: ${detail}\n`)
}

/** What each section finds; each starts on a device that it opens itself. */
const sections: Record<string, (options: BackendOptions) => Promise<unknown>> = {
  device: async (options) => deviceOf(options),
  checks: async (options) => {
    const { report } = await deviceOf(options)
    return checkDevice(options, report.is_fallback ? 16 : 1, tell)
  },
  peak: async (options) => {
    const { name } = await deviceOf(options)
    return { measured: await measuredPeak(tf.ones([64])), dataSheet: dataSheetPeak(name) }
  },
  products: async (options) => {
    await openBackend('webgpu', options)
    return timeProducts()
  },
  attention: async (options) => {
    await openBackend('webgpu', options)
    return timeAttention()
  },
  steps: async (options) => {
    await openBackend('webgpu', options)
    return timeSteps(size)
  },
  tape: async (options) => {
    await openBackend('webgpu', options)
    return timeTape(size, 11)
  },
  smallTape: async (options) => {
    await openBackend('webgpu', options)
    return timeTape({ ...size, B: Math.ceil(size.B / 4) }, 11)
  },
}

/** What a section found in its own process; null when it did not come to an end, which it says on stderr. */
function inProcess<T>(section: string): T | null {
  const args = ['--section', section, '--batch', values.batch, '--length', values.length]
  const { status, stdout } = spawnSync(process.execPath, [self, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 64 << 20,
    timeout: longestMs,
  })
  if (status === 0) return JSON.parse(stdout) as T
  process.stderr.write(`The section ${section} did not come to an end.\n`)
  return null
}

/** PyTorch's times on the same card where it is installed: pytorch.py's JSON, null otherwise. */
function pytorch(): Found['pytorch'] {
  const script = join(dirname(self), 'pytorch.py')
  const { status, stdout, stderr } = spawnSync('python3', [script, values.batch, values.length], {
    encoding: 'utf8',
    timeout: 300_000,
  })
  if (status === 0) return JSON.parse(stdout) as Found['pytorch']
  process.stderr.write(
    `No comparison with PyTorch: ${(stderr ?? '').trim().split('\n').at(-1) || 'there is no python3'}\n`,
  )
  return null
}

async function runSection(name: string): Promise<void> {
  const section = sections[name]
  if (!section) fail(`There is no section ${name}; there are ${Object.keys(sections).join(', ')}.`)
  const found = await section(await dawn())
  // To the end before the process leaves, which Dawn's threads would otherwise keep alive.
  writeFileSync(1, JSON.stringify(found))
  process.exit(0)
}

function all(): void {
  const device = inProcess<{ report: DeviceReport; name: string }>('device')
  if (!device) fail('No WebGPU adapter was found: no Vulkan driver on this machine has a device for Dawn.')
  const { is_fallback } = device.report
  if (is_fallback && !values['allow-software'])
    fail(
      `The only adapter is software (${device.name}), whose times say nothing about a GPU: no report is made.`,
    )
  const checks = inProcess<Check[]>('checks') ?? fail('The checks did not come to an end: no report is made.')
  const wrong = checks.filter(({ ok }) => !ok).length
  if (wrong > 0) fail(`${wrong} of ${checks.length} checks failed on ${device.name}: no times are reported.`)
  process.stdout.write(`All ${checks.length} checks passed on ${device.name}.\n`)
  if (is_fallback) return
  const found: Found = {
    date: new Date().toISOString(),
    device: device.name,
    features: device.report.features,
    batch: size.B,
    length: size.S,
    checks,
    peak: inProcess('peak'),
    products: inProcess('products') ?? [],
    attention: inProcess('attention') ?? [],
    steps: inProcess('steps') ?? [],
    tape: inProcess('tape') ?? inProcess('smallTape') ?? [],
    pytorch: pytorch(),
  }
  process.stdout.write(report(found))
  writeFileSync(values.json, JSON.stringify(found, null, 2) + '\n')
  process.stdout.write(`Written to ${values.json}.\n`)
}

if (values.section) await runSection(values.section)
else all()
