/**
 * Finds a Chromium that can run the browser tests, or installs one and says so. Order: CHROMIUM_PATH, a browser
 * on the system, Playwright's own download; then `apt-get install chromium` (as root) and Playwright's installer.
 * Whatever is found must start and be new enough for WebGPU. Vitest calls `setup` before the projects that need it.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter, dirname, join } from 'node:path'
import { chromium } from 'playwright'

/** The first Chromium whose software WebGPU adapter and headless mode behave as the tests expect. */
const oldestMajor = 121

/** WebGPU on the software adapter, no sandbox (containers), no traffic of the browser's own. */
export const chromiumArgs = [
  '--no-sandbox',
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-dev-shm-usage',
]

const commands = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'microsoft-edge']

const wellKnown: Partial<Record<NodeJS.Platform, string[]>> = {
  darwin: [
    '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
    '/Applications/Chromium.app/Contents/MacOS/Chromium',
    '/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge',
  ],
  win32: [process.env.PROGRAMFILES, process.env['PROGRAMFILES(X86)'], process.env.LOCALAPPDATA]
    .filter((root) => root !== undefined)
    .map((root) => join(root, 'Google', 'Chrome', 'Application', 'chrome.exe')),
}

/** Why the browser at `path` cannot be used, or null when it can. */
export function chromiumProblem(path: string): string | null {
  if (!existsSync(path)) return 'there is no such file'
  // chrome.exe opens a window instead of printing its version.
  if (process.platform === 'win32') return null
  try {
    const version = execFileSync(path, ['--version'], { encoding: 'utf8', stdio: 'pipe', timeout: 60_000 })
    const major = Number(/ (\d+)\./.exec(version)?.[1])
    return major >= oldestMajor
      ? null
      : `it is ${version.trim() || 'of unknown version'}; ${oldestMajor} or newer is needed`
  } catch (error) {
    return `it does not start (${String(error).split('\n')[0]})`
  }
}

/** Browsers on this machine, best first, without starting any. */
function candidates(): string[] {
  const onPath = (process.env.PATH ?? '')
    .split(delimiter)
    .flatMap((folder) => commands.map((command) => join(folder, command)))
  return [...onPath, ...(wellKnown[process.platform] ?? []), chromium.executablePath()].filter((path) =>
    existsSync(path),
  )
}

/** Path of a usable Chromium, or null. Throws when CHROMIUM_PATH names one that cannot be used. */
export function findChromium(): string | null {
  const chosen = process.env.CHROMIUM_PATH
  if (chosen) {
    const problem = chromiumProblem(chosen)
    if (problem) throw new Error(`CHROMIUM_PATH is ${chosen}, but ${problem}.`)
    return chosen
  }
  return candidates().find((path) => chromiumProblem(path) === null) ?? null
}

function run(command: string, args: string[]): boolean {
  process.stderr.write(`  ${command} ${args.join(' ')}\n`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  return spawnSync(command, args, { stdio: ['ignore', 2, 2], env }).status === 0
}

/** Path of a usable Chromium, installed now if there is none. Throws one sentence when that fails too. */
export function ensureChromium(): string {
  const found = findChromium()
  if (found) return found
  process.stderr.write('No usable Chromium on this machine; installing one for the browser tests:\n')
  const root = process.getuid?.() === 0
  if (root && existsSync('/usr/bin/apt-get')) {
    if (run('apt-get', ['update'])) run('apt-get', ['install', '-y', '--no-install-recommends', 'chromium'])
  }
  let path = findChromium()
  if (!path) {
    const cli = join(dirname(createRequire(import.meta.url).resolve('playwright/package.json')), 'cli.js')
    run(process.execPath, [cli, 'install', ...(root ? ['--with-deps'] : []), '--no-shell', 'chromium'])
    path = findChromium()
  }
  if (!path) {
    throw new Error(
      'The browser tests need Chromium, none was found and installing one failed: install Chromium or Chrome ' +
        `${oldestMajor} or newer, or set CHROMIUM_PATH to one, and run again.`,
    )
  }
  process.stderr.write(`Installed ${path}\n`)
  return path
}

/** Vitest global setup: workers and the browser provider read the path from the environment. */
export default function setup(): void {
  process.env.CHROMIUM_PATH = ensureChromium()
}
