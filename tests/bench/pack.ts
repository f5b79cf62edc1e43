/**
 * `npm run bench:pack`: an archive that checks and times the kernels on a machine with a GPU and nothing else, no network,
 * browser or Node: this machine's Node, Dawn, the bench as one file, and a script that finds the Vulkan driver. For
 * machines of this one's kind (Linux).
 */
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'vite'

const limit = 60e6
const root = fileURLToPath(new URL('../..', import.meta.url))
const device = join(root, 'tests/bench/device')
const folder = join(root, 'out/adaptab-bench')
const archive = `${folder}.tar.gz`

/** The bench as one file; Dawn's package stays outside it, since it loads a library beside itself. */
async function bundle(): Promise<void> {
  await build({
    configFile: false,
    root,
    logLevel: 'warn',
    publicDir: false,
    ssr: { noExternal: true, external: ['webgpu'] },
    build: {
      ssr: join(device, 'main.ts'),
      outDir: folder,
      emptyOutDir: false,
      target: 'es2023',
      minify: true,
      rolldownOptions: { output: { entryFileNames: 'main.mjs', codeSplitting: false } },
    },
  })
}

function copyDawn(): void {
  const from = dirname(createRequire(import.meta.url).resolve('webgpu'))
  const library = `dist/${process.platform}-${process.arch}`
  const to = join(folder, 'node_modules/webgpu')
  mkdirSync(join(to, library), { recursive: true })
  for (const file of ['index.js', 'package.json', 'LICENSE.md', `${library}/dawn.node`])
    copyFileSync(join(from, file), join(to, file))
}

/** The Vulkan loader of this machine, for machines that have a driver and no loader; null where there is none here. */
function vulkanLoader(): string | null {
  const folders = [
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/usr/lib64',
    '/usr/lib',
    '/usr/lib/chromium',
  ]
  return folders.map((one) => join(one, 'libvulkan.so.1')).find(existsSync) ?? null
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}

if (process.platform !== 'linux')
  fail('The archive is made of this machine’s Node and Dawn: run bench:pack on Linux.')
rmSync(folder, { recursive: true, force: true })
mkdirSync(join(folder, 'bin'), { recursive: true })
await bundle()
copyDawn()
copyFileSync(process.execPath, join(folder, 'bin/node'))
chmodSync(join(folder, 'bin/node'), 0o755)
for (const file of ['run.sh', 'pytorch.py']) copyFileSync(join(device, file), join(folder, file))
chmodSync(join(folder, 'run.sh'), 0o755)
const loader = vulkanLoader()
if (loader) {
  mkdirSync(join(folder, 'lib'))
  copyFileSync(loader, join(folder, 'lib/libvulkan.so.1'))
} else process.stderr.write('This machine has no Vulkan loader to put in; the other one must have its own.\n')
writeFileSync(
  join(folder, 'README.txt'),
  'Adaptab’s bench. Run ./run.sh: it finds the Vulkan driver, checks the kernels, and prints times, which it also writes to adaptab-bench.json.\n',
)
execFileSync('tar', [
  '--use-compress-program',
  'gzip -9',
  '-cf',
  archive,
  '-C',
  dirname(folder),
  'adaptab-bench',
])
const { size } = statSync(archive)
const told = `${archive} has ${(size / 1e6).toFixed(1)} MB`
if (size > limit) fail(`${told}, more than the ${limit / 1e6} MB that it may have.`)
process.stdout.write(`${told}.\n`)
