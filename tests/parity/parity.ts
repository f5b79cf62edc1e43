/**
 * `npm run parity`: holds the app against the real Python libraries. Sets up Python in .venv (ADAPTAB_PYTHON names
 * another one that has requirements.txt), writes every fixture anew, runs the comparisons on wasm, cpu and WebGPU, trains
 * and exports adapters with the headless runner, and loads them, and zips a browser exported to out/exported, in Python.
 * One line for each check, then a table with one for each method: its worst difference forward, of gradients, of twenty
 * steps' losses and gradient norms, and after export. The exit code is 1 when any is over its limit.
 *
 * `npm run parity -- fixtures` stops after the fixtures; `npm run parity -- mini` after those of mini-roberta.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readZip } from '../../src/io/zip.ts'
import { presets } from '../../src/methods/registry.ts'
import { compareContinued } from './continue.ts'
import { compareExported } from './exported.ts'
import { compareStandalone } from './exports.ts'
import { compareFolders } from './folders.ts'
import { Table, type Difference } from './table.ts'

/** The part of vitest's JSON report that is read here. */
interface Report {
  testResults: {
    name: string
    message: string
    assertionResults: {
      ancestorTitles: string[]
      title: string
      status: string
      failureMessages: string[]
      meta: { row?: string; differences?: Difference[] }
    }[]
  }[]
}

const root = fileURLToPath(new URL('../..', import.meta.url))
const here = 'tests/parity'
const model = 'public/models/mini-roberta'
const out = 'out/parity'
const environment = {
  ...process.env,
  PYTHONHASHSEED: '0',
  TOKENIZERS_PARALLELISM: 'false',
  HF_HUB_OFFLINE: '1',
  // All of the checks also in the browser, of which `npm test` takes a part.
  VITE_PARITY: 'all',
}

const table = new Table()
let failures = 0

function report(passed: boolean, name: string, detail: string): void {
  if (!passed) failures++
  process.stdout.write(`${passed ? 'ok  ' : 'FAIL'}  ${name.padEnd(64)}  ${detail}\n`)
}

function describe(differences: Difference[]): string {
  return differences
    .map(
      ({ what, worst, at }) =>
        `${what} ${worst === null ? 'NaN' : worst.toExponential(1)}${at ? ` (${at})` : ''}`,
    )
    .join(', ')
}

/** Output goes to the terminal. Throws when the command fails. */
function run(command: string, args: string[]): void {
  execFileSync(command, args, { cwd: root, stdio: 'inherit', env: environment })
}

/** The interpreter, with requirements.txt installed; torch goes first, so that no index can swap its build. */
function python(): string {
  if (process.env.ADAPTAB_PYTHON) return process.env.ADAPTAB_PYTHON
  const interpreter = join(root, '.venv', process.platform === 'win32' ? 'Scripts/python.exe' : 'bin/python')
  const requirements = readFileSync(join(root, here, 'requirements.txt'), 'utf8')
  const stamp = join(root, '.venv', 'requirements.sha256')
  const digest = createHash('sha256').update(requirements).digest('hex')
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === digest) return interpreter
  process.stdout.write('Setting up Python in .venv\n')
  if (!existsSync(interpreter))
    run(process.platform === 'win32' ? 'python' : 'python3', ['-m', 'venv', '.venv'])
  const torch = requirements.split('\n').find((line) => line.startsWith('torch=='))!
  run(interpreter, ['-m', 'pip', 'install', '--quiet', torch])
  run(interpreter, ['-m', 'pip', 'install', '--quiet', '-r', `${here}/requirements.txt`])
  writeFileSync(stamp, digest)
  return interpreter
}

function writeFixtures(interpreter: string): void {
  run(interpreter, [`${here}/make.py`])
  const files = ['self_test', 'make_torch_files', 'make_library_files', 'make_keys']
  const details = ['make_bottleneck', 'make_lora_reft', 'make_registry']
  for (const script of [...files, ...details]) run(interpreter, [`${here}/${script}.py`])
  run(process.execPath, ['node_modules/prettier/bin/prettier.cjs', '--write', 'src/model/selfTest.json'])
  run(interpreter, [`${here}/make_parquet.py`, 'tests/fixtures/parquet'])
  const tokenizer = '../shared/data/roberta-base/tokenizer.json'
  if (existsSync(join(root, tokenizer)))
    run(interpreter, [`${here}/make_tokenizer.py`, tokenizer, 'tests/fixtures/tokenizer-roberta.json'])
  else process.stdout.write(`tests/fixtures/tokenizer-roberta.json is left: ${tokenizer} is not here\n`)
}

/** Runs test files of one vitest project and reports each test. */
function compare(project: string, files: string[]): void {
  const target = join(out, `${project}.json`)
  rmSync(join(root, target), { force: true })
  const vitest = join('node_modules', 'vitest', 'vitest.mjs')
  const args = [vitest, 'run', '--project', project, ...files, '--reporter=json', `--outputFile=${target}`]
  const { stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', env: environment })
  if (!existsSync(join(root, target))) return report(false, `tests of ${project}`, stderr.trim())
  const { testResults } = JSON.parse(readFileSync(join(root, target), 'utf8')) as Report
  for (const { name, message, assertionResults } of testResults) {
    if (assertionResults.length === 0) report(false, name, message)
    for (const { ancestorTitles, title, status, failureMessages, meta } of assertionResults) {
      if (meta.row !== undefined) {
        table.add(meta.row, meta.differences ?? [], status === 'passed')
        if (status === 'passed') continue
      }
      const differences = describe(meta.differences ?? [])
      const detail =
        status === 'failed' ? `${differences} ${failureMessages[0]?.split('\n')[0]}` : differences
      report(
        status !== 'failed',
        [...ancestorTitles, title].join(': '),
        status === 'passed' ? detail : `${status} ${detail}`,
      )
    }
  }
}

/** Forty reviews that a few steps learn. */
function reviews(): string {
  const things = ['film', 'phone', 'food', 'service', 'sound', 'story', 'screen', 'battery', 'room', 'music']
  const says: [string, string][] = [
    ['I loved the $, it was wonderful.', 'good'],
    ['The $ is great and works perfectly!', 'good'],
    ['I hated the $, it was awful.', 'bad'],
    ['The $ is terrible, a complete waste of money.', 'bad'],
  ]
  const rows = things.flatMap((thing) =>
    says.map(([text, label]) => `"${text.replace('$', thing)}",${label}`),
  )
  return ['text,label', ...rows, ''].join('\n')
}

function trial(args: string[]): void {
  const command = [
    join('node_modules', 'tsx', 'dist', 'cli.mjs'),
    'src/headless/trial.ts',
    '--transformer',
    model,
    ...args,
  ]
  execFileSync(process.execPath, command, { cwd: root, stdio: ['ignore', 'ignore', 'pipe'] })
}

/** Loads an export in Python; `row`: its line of the table. */
function reload(interpreter: string, name: string, args: string[], row?: string): void {
  const result = spawnSync(interpreter, [`${here}/reload.py`, model, ...args], {
    cwd: root,
    encoding: 'utf8',
    env: environment,
  })
  if (result.status !== 0) {
    if (row) table.add(row, [], false, 'export')
    return report(false, name, result.stderr.trim())
  }
  const differences = JSON.parse(result.stdout.trim().split('\n').at(-1)!) as Difference[]
  const passed = differences.every(({ worst, limit }) => worst !== null && worst <= limit)
  if (row) table.add(row, differences, passed, 'export')
  report(passed, name, describe(differences))
}

/** Lines of the table under another name than the preset's. */
const rowOf: Record<string, string> = { head: 'head alone', bitfit: 'bias only' }

/** Trains each method with the headless runner, exports it, and loads the export in Python. */
function compareExports(interpreter: string): void {
  const { input_ids, attention_mask, labels } = JSON.parse(
    readFileSync(join(root, 'tests/fixtures/mini-roberta.json'), 'utf8'),
  ) as Record<string, unknown>
  const batch = join(out, 'batch.json')
  const dataset = join(out, 'reviews.csv')
  writeFileSync(join(root, batch), JSON.stringify({ input_ids, attention_mask, labels }))
  writeFileSync(join(root, dataset), reviews())
  const training = ['--dataset', dataset, '--batch-size', '8', '--epochs', '5', '--learning_rate', '0.005']
  const exports: [string, string[]][] = [
    ...presets.map(({ name }): [string, string[]] => [rowOf[name] ?? name, ['--adapter', name]]),
    ['seq_bn leave_out 0', ['--adapter', 'seq_bn[reduction_factor=2,leave_out=[0]]']],
    [
      'lora all',
      ['--adapter', "lora[r=4,alpha=16,attn_matrices=['q','k','v'],intermediate_lora=True,output_lora=True]"],
    ],
  ]
  for (const [name, args] of exports) {
    const folder = join(out, name.replaceAll(/[^\w+]+/g, '-'))
    rmSync(join(root, folder), { recursive: true, force: true })
    const whole = name === 'full' || name === 'bias only' // no adapter to load again: the folder holds a model
    try {
      trial([...training, ...args, '--output_dir', folder])
      if (!whole) trial(['--load-adapter', folder, '--batch', batch, '--dump', `${folder}.json`])
    } catch (error) {
      table.add(name, [], false, 'export')
      report(false, `export of ${name}`, String((error as { stderr?: Buffer }).stderr ?? error).trim())
      continue
    }
    const dump = whole ? [] : ['--dump', batch, `${folder}.json`]
    reload(interpreter, `export of ${name} loaded in Python`, [folder, ...dump], name)
  }
}

/** Zips that the browser test left in out/exported. */
function compareZips(interpreter: string): void {
  const folder = join(root, 'out', 'exported')
  const zips = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.zip')) : []
  if (zips.length === 0)
    process.stdout.write('skip  out/exported holds no zip of the browser test (npm run test:e2e)\n')
  for (const name of zips) {
    const target = join(out, 'exported', name.slice(0, -4))
    for (const [path, bytes] of readZip(new Uint8Array(readFileSync(join(folder, name))))) {
      mkdirSync(dirname(join(root, target, path)), { recursive: true })
      writeFileSync(join(root, target, path), bytes)
    }
    const predictions = join('out', 'exported', name.replace(/zip$/, 'predictions.json'))
    const shown = existsSync(join(root, predictions)) ? ['--predictions', predictions] : []
    reload(interpreter, `${name} from the browser loaded in Python`, [target, ...shown])
  }
}

async function main(only: string | undefined): Promise<void> {
  mkdirSync(join(root, out), { recursive: true })
  const interpreter = python()
  if (only === 'mini') return run(interpreter, [`${here}/make.py`, 'mini'])
  writeFixtures(interpreter)
  if (only === 'fixtures') return
  compare('node', [
    'tests/random.test.ts',
    'tests/tables.test.ts',
    'tests/saved.test.ts',
    'tests/parity.test.ts',
    'tests/golden.test.ts',
    'tests/heads.test.ts',
    'tests/methods-bottleneck.test.ts',
    'tests/methods-control.test.ts',
    'tests/methods-lora.test.ts',
    'tests/methods-registry.test.ts',
  ])
  compare('gpu', ['tests/gpu/parity.test.ts'])
  await compareFolders(interpreter, here, join(out, 'folders'), report)
  await compareStandalone(interpreter, here, join(out, 'standalone'), report)
  await compareContinued(interpreter, model, join(out, 'continued'), report)
  compareExports(interpreter)
  compareZips(interpreter)
  const fromPage = compareExported(interpreter, here, join('out', 'exported', 'methods'), report)
  for (const { name, differences, passed } of fromPage) table.add(name, differences, passed, 'export')
  const { text, over } = table.print()
  process.stdout.write(`\n${text}\n\n${over === 0 ? '' : `${over} lines of the table are over a limit\n`}`)
  process.stdout.write(failures === 0 ? 'all agree\n' : `${failures} checks failed\n`)
  process.exitCode = failures === 0 ? 0 : 1
}

await main(process.argv[2])
