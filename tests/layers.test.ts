/**
 * The import table, the length budgets and the forbidden words of the source tree, enforced. A layer may import what
 * its row names, from its own folder, and nothing else; `import type` counts like any other import except in
 * protocol.ts, where it is the only kind allowed.
 */
import { readFileSync, readdirSync } from 'node:fs'
import { join, posix } from 'node:path'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

interface Row {
  /** Layers (a folder or a file of src) that this one may import; '*' is all but the page. */
  layers: string[]
  /** Layers and packages of which only types may be imported, so that none of them comes into the bundle. */
  types?: string[]
  /** npm packages, by exact name or by 'scope/*'; '*' is any outside @tensorflow. */
  packages: string[]
}

const tfjs = '@tensorflow/*'
const page = ['ui', 'App.svelte', 'main.ts', 'app.css']

/** The files that put the layers together, for the worker and for the headless runner. */
const program = [
  'run.ts',
  'base.ts',
  'assembly.ts',
  'opened.ts',
  'shelf.ts',
  'sources.ts',
  'problems.ts',
  'deviceText.ts',
  'task.ts',
  'training.ts',
  'predict.ts',
  'predictFile.ts',
  'onnxPipeline.ts',
  'workbench.ts',
  'headless',
]

const table: Record<string, Row> = {
  'config.ts': { layers: [], packages: [] },
  'trainingArguments.ts': { layers: [], packages: [] },
  'random.ts': { layers: [], packages: [] },
  data: {
    layers: ['config.ts', 'trainingArguments.ts', 'random.ts'],
    packages: ['papaparse', 'hyparquet', 'hyparquet-compressors', 'fflate', '@huggingface/tokenizers'],
  },
  kernels: { layers: [], packages: [tfjs] },
  // What a method is, and its maths through the walk's ops: the page and the files read the one, the model runs the other.
  methods: {
    layers: ['config.ts', 'trainingArguments.ts', 'random.ts'],
    types: ['model', 'kernels', tfjs],
    packages: [],
  },
  model: {
    layers: ['kernels', 'methods', 'config.ts', 'trainingArguments.ts', 'random.ts'],
    packages: [tfjs],
  },
  train: {
    layers: ['model', 'kernels', 'data', 'methods', 'config.ts', 'trainingArguments.ts', 'random.ts'],
    packages: [tfjs],
  },
  io: { layers: ['methods', 'config.ts', 'trainingArguments.ts'], packages: ['*'] },
  'protocol.ts': { layers: ['*'], packages: [] },
  ...Object.fromEntries(
    program.map((file): [string, Row] => [file, { layers: ['*'], packages: ['*', tfjs] }]),
  ),
  'worker.ts': { layers: [...program, 'protocol.ts'], packages: [] },
  ui: { layers: ['config.ts', 'trainingArguments.ts', 'protocol.ts', 'io', 'methods'], packages: ['*'] },
  'App.svelte': { layers: ['config.ts', 'trainingArguments.ts', 'protocol.ts', 'io', 'ui'], packages: ['*'] },
  'main.ts': { layers: ['App.svelte', 'app.css', 'ui'], packages: ['svelte'] },
}

const lineBudget = (path: string) => (path.endsWith('.svelte') ? 200 : path === 'run.ts' ? 80 : 400)
const functionBudget = 60

/** Words that never belong in src, with the reason. */
const forbidden: [RegExp, string][] = [
  [/console\.log/, 'console.log: post an event or throw'],
  [/Math\.random/, 'Math.random: the seed is an argument'],
  [/\bas any\b(?! [a-z])|@ts-ignore|@ts-nocheck/, 'a silenced type'],
  [/\b(TODO|FIXME|XXX)\b/, 'unfinished work'],
  [/\bdataSync\(/, 'dataSync: stalls the GPU'],
]

const layerOf = (path: string) => path.split('/')[0]!

/** The script of a component, at its own line numbers; a .ts file as it is. */
function script(path: string, source: string): string {
  if (!path.endsWith('.svelte')) return source
  const blank = (text: string) => text.replace(/[^\n]/g, '')
  let out = ''
  let end = 0
  for (const match of source.matchAll(/(<script[^>]*>)([\s\S]*?)<\/script>/g)) {
    const start = match.index + match[1]!.length
    out += blank(source.slice(end, start)) + match[2]!
    end = start + match[2]!.length
  }
  return out
}

interface Import {
  specifier: string
  typeOnly: boolean
}

function isTypeOnly(node: ts.ImportDeclaration | ts.ExportDeclaration): boolean {
  if (ts.isExportDeclaration(node)) return node.isTypeOnly
  return node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword
}

/** Static imports, re-exports, dynamic imports and `new URL('./x', import.meta.url)` of one parsed file. */
function importsOf(file: ts.SourceFile): Import[] {
  const found: Import[] = []
  const visit = (node: ts.Node): void => {
    if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier) {
      found.push({ specifier: (node.moduleSpecifier as ts.StringLiteral).text, typeOnly: isTypeOnly(node) })
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [argument] = node.arguments
      if (argument && ts.isStringLiteralLike(argument))
        found.push({ specifier: argument.text, typeOnly: false })
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      found.push({ specifier: (node.argument.literal as ts.StringLiteral).text, typeOnly: true })
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

const packageName = (specifier: string) =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')

function packageAllowed(specifier: string, packages: string[]): boolean {
  const name = packageName(specifier)
  if (name.startsWith('@tensorflow/')) return packages.includes(tfjs)
  return packages.includes('*') || packages.includes(name)
}

/** What one import of the file at `path` breaks, or null. */
function importProblem(path: string, { specifier, typeOnly }: Import): string | null {
  const layer = layerOf(path)
  const row = table[layer]!
  if (layer === 'protocol.ts' && !typeOnly) return `imports ${specifier} at run time; only types are allowed`
  if (!specifier.startsWith('.')) {
    if (specifier.startsWith('node:'))
      return layer === 'headless' ? null : `imports ${specifier}, which a browser lacks`
    return packageAllowed(specifier, [...row.packages, ...(typeOnly ? (row.types ?? []) : [])])
      ? null
      : `imports the package ${packageName(specifier)}`
  }
  const [file = '', query] = specifier.split('?')
  const target = posix.normalize(posix.join(posix.dirname(path), file))
  if (target.startsWith('..')) return `imports ${specifier}, outside src`
  if (!/\.(ts|svelte|css|json)$/.test(target)) return `imports ${specifier} without its extension`
  // The page starts the worker by its URL, which pulls nothing into the page's bundle.
  if (target === 'worker.ts' && query === 'worker&url' && page.includes(layer)) return null
  const layers = [layer, ...row.layers, ...(typeOnly ? (row.types ?? []) : [])]
  const allowed =
    layers.includes(layerOf(target)) || (layers.includes('*') && !page.includes(layerOf(target)))
  return allowed ? null : `imports ${layerOf(target)} (${specifier})`
}

/** Functions longer than the budget, with the line they start on. */
function longFunctions(file: ts.SourceFile): string[] {
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node) && 'body' in node && node.body) {
      const start = file.getLineAndCharacterOfPosition(node.getStart(file)).line
      const length = file.getLineAndCharacterOfPosition(node.getEnd()).line - start + 1
      if (length > functionBudget)
        found.push(`line ${start + 1}: a function of ${length} lines (at most ${functionBudget})`)
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

/** Everything that the file at `path` (relative to src) breaks, one sentence each. */
function violations(path: string, source: string): string[] {
  const found: string[] = []
  const lines = source.replace(/\n$/, '').split('\n').length
  if (lines > lineBudget(path)) found.push(`${lines} lines (at most ${lineBudget(path)})`)
  for (const [word, reason] of forbidden) if (word.test(source)) found.push(reason)
  if (/(^|\/)(utils?|helpers?|types|common|index)(\.svelte)?\.ts$/.test(path))
    found.push('a name that says nothing')
  if (path.endsWith('.css')) return found.map((text) => `${path}: ${text}`)
  if (!table[layerOf(path)]) return [`${path}: not in the import table`]
  const file = ts.createSourceFile(path, script(path, source), ts.ScriptTarget.Latest, true)
  for (const item of importsOf(file)) {
    const problem = importProblem(path, item)
    if (problem) found.push(problem)
  }
  if (
    layerOf(path) !== 'worker.ts' &&
    !page.includes(layerOf(path)) &&
    /(?:\b(?:self|globalThis)\.|(?<![.\w]))postMessage\(/.test(source)
  ) {
    found.push('postMessage: only worker.ts posts')
  }
  if (!page.includes(layerOf(path)) && /(?<![.#\w])(document|window)\.\w/.test(source))
    found.push('touches the DOM')
  found.push(...longFunctions(file))
  return found.map((text) => `${path}: ${text}`)
}

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(ts|svelte|css)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name).replaceAll('\\', '/'))
}

describe('source tree', () => {
  it('keeps to the import table, the budgets and the forbidden words', () => {
    const paths = sources('src')
    expect(paths.length).toBeGreaterThan(2)
    expect(
      paths.flatMap((path) => violations(path.slice('src/'.length), readFileSync(path, 'utf8'))),
    ).toEqual([])
  })

  it('keeps test files within the file budget', () => {
    const long = sources('tests').filter((path) => readFileSync(path, 'utf8').split('\n').length > 401)
    expect(long).toEqual([])
  })
})

describe('the check itself', () => {
  const long = (lines: number) =>
    Array.from({ length: lines }, (_, index) => `export const c${index} = ${index}`).join('\n')
  const broken: [string, string, string][] = [
    ['model/bad.ts', "import { Panel } from '../ui/Panel.svelte'", 'imports ui'],
    [
      'data/bad.ts',
      "import * as tf from '@tensorflow/tfjs-core'",
      'imports the package @tensorflow/tfjs-core',
    ],
    [
      'io/bad.ts',
      "import { ones } from '@tensorflow/tfjs-core'",
      'imports the package @tensorflow/tfjs-core',
    ],
    ['kernels/bad.ts', "import type { RobertaConfig } from '../config.ts'", 'imports config.ts'],
    ['kernels/bad.ts', "export * from '../model/roberta.ts'", 'imports model'],
    ['methods/bad.ts', "import { matmul } from '../kernels/matmul.ts'", 'imports kernels'],
    ['methods/bad.ts', "import { tidy } from '@tensorflow/tfjs-core'", 'imports the package'],
    ['train/bad.ts', "export const db = () => import('../io/db.ts')", 'imports io'],
    ['train/bad.ts', 'export const x = 1\nself.postMessage(x)', 'only worker.ts posts'],
    ['worker.ts', "import { train } from './train/train.ts'", 'imports train'],
    ['protocol.ts', "import { parse } from './data/parse.ts'", 'at run time'],
    [
      'ui/Bad.svelte',
      '<script lang="ts">\n  import { matmul } from \'../kernels/matmul.ts\'\n</script>\n<p>x</p>',
      'imports kernels',
    ],
    ['ui/bad.ts', "import type { Table } from '../data/parse.ts'", 'imports data'],
    ['ui/bad.ts', "import { loop } from '../worker.ts'", 'imports worker.ts'],
    ['config.ts', "import { a } from './random.ts'", 'imports random.ts'],
    ['run.ts', 'document.title = ""', 'touches the DOM'],
    ['data/bad.ts', "import { a } from './parse'", 'without its extension'],
    ['data/bad.ts', "import { a } from '../../tests/chromium.ts'", 'outside src'],
    ['data/bad.ts', "import { readFileSync } from 'node:fs'", 'a browser lacks'],
    ['elsewhere/bad.ts', 'export {}', 'not in the import table'],
    ['data/utils.ts', 'export {}', 'a name that says nothing'],
    ['data/bad.ts', 'console.log(1)', 'console.log'],
    ['data/bad.ts', 'const x = Math.random()', 'Math.random'],
    ['data/bad.ts', 'const x = {} as any', 'silenced type'],
    ['data/bad.ts', long(401), '401 lines'],
    ['run.ts', long(81), '81 lines'],
    ['ui/Bad.svelte', '<p>x</p>\n'.repeat(201), '201 lines'],
    ['data/bad.ts', `export function f() {\n${'  g()\n'.repeat(59)}}`, 'a function of 61 lines'],
  ]
  it.each(broken.map(([path, source, expected]) => ({ path, source, expected })))(
    'refuses $path: $expected',
    ({ path, source, expected }) => {
      expect(violations(path, source).join('\n')).toContain(expected)
    },
  )

  const sound: [string, string][] = [
    [
      'train/good.ts',
      "import * as tf from '@tensorflow/tfjs-core'\nimport { adamw } from '../kernels/adamw.ts'",
    ],
    ['protocol.ts', "import type { Metrics } from './train/metrics.ts'\nexport type { Metrics }"],
    ['methods/good.ts', "import type { Ops } from '../model/ops.ts'"],
    ['ui/good.ts', "import { presets } from '../methods/registry.ts'"],
    ['ui/good.ts', "import url from '../worker.ts?worker&url'"],
    ['run.ts', `import { db } from './io/db.ts'\n${long(79)}`],
    ['App.svelte', '<script lang="ts">\n  import Chart from \'./ui/Chart.svelte\'\n</script>\n<Chart />'],
    ['data/good.ts', `export function f() {\n${'  g()\n'.repeat(58)}}`],
  ]
  it.each(sound.map(([path, source]) => ({ path, source })))('accepts $path', ({ path, source }) => {
    expect(violations(path, source)).toEqual([])
  })
})
