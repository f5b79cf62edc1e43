import { createReadStream, readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { playwright } from '@vitest/browser-playwright'
import type { Plugin } from 'vite'
import { defineConfig } from 'vitest/config'
import { chromiumArgs } from './tests/chromium.ts'

const require = createRequire(import.meta.url)
const sampleFolder = join(dirname(require.resolve('sentiment/package.json')), 'test/fixtures')
const wasmFolder = join(dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json')), 'dist')

/** One sample set as the page gets it: rows `{text, label}`. The fixture ends with a row that has no label. */
function sample(name: string): string {
  const rows: { text: string; class: 0 | 1 | null }[] = JSON.parse(
    readFileSync(join(sampleFolder, name), 'utf8'),
  )
  const labelled = rows.filter((row) => row.class !== null)
  return JSON.stringify(
    labelled.map((row) => ({ text: row.text, label: row.class === 1 ? 'positive' : 'negative' })),
    null,
    1,
  )
}

/**
 * Files that live in dependencies and are fetched by URL: the sample reviews as `samples/*.json` (amazon, imdb, yelp,
 * 1,000 sentences each) and tfjs's WebAssembly as `wasm/*.wasm`. The same in the dev server and in the build.
 */
function fetchedFiles(): Plugin {
  const samples = ['amazon.json', 'imdb.json', 'yelp.json']
  const wasm = readdirSync(wasmFolder).filter((name) => name.endsWith('.wasm'))
  return {
    name: 'adaptab-fetched-files',
    configureServer(server) {
      server.middlewares.use((request, response, next) => {
        const [, folder, name = ''] = /^\/(samples|wasm)\/([\w.-]+)(?:\?|$)/.exec(request.url ?? '') ?? []
        if (folder === 'samples' && samples.includes(name)) {
          response.setHeader('Content-Type', 'application/json').end(sample(name))
        } else if (folder === 'wasm' && wasm.includes(name)) {
          response.setHeader('Content-Type', 'application/wasm')
          createReadStream(join(wasmFolder, name)).pipe(response)
        } else {
          next()
        }
      })
    },
    generateBundle() {
      if (this.environment.config.isWorker) return
      for (const name of samples)
        this.emitFile({ type: 'asset', fileName: `samples/${name}`, source: sample(name) })
      for (const name of wasm) {
        this.emitFile({
          type: 'asset',
          fileName: `wasm/${name}`,
          source: readFileSync(join(wasmFolder, name)),
        })
      }
    },
  }
}

/** Bundled once, up front: a dependency found late makes the dev server reload the page, in mid-run or mid-test. */
const prebundled = [
  '@huggingface/transformers',
  '@huggingface/tokenizers',
  '@noble/hashes/sha2.js',
  '@noble/hashes/utils.js',
  '@tensorflow/tfjs-backend-cpu',
  '@tensorflow/tfjs-backend-wasm',
  '@tensorflow/tfjs-backend-webgpu',
  '@tensorflow/tfjs-core',
  'fflate',
  'hyparquet',
  'hyparquet-compressors',
  'idb',
  'papaparse',
  'uplot',
]

export default defineConfig({
  // Relative URLs: the built site works from any sub-path of any static host.
  base: './',
  plugins: [svelte({ configFile: false }), fetchedFiles()],
  worker: { format: 'es' },
  build: {
    target: 'es2023',
    // Importing these only names things: what the page does not use of them stays out of its bundle.
    rolldownOptions: {
      treeshake: {
        moduleSideEffects: [{ test: /\/src\/(methods|io|data)\//, sideEffects: false }],
      },
    },
  },
  optimizeDeps: { include: prebundled },
  test: {
    // One project after another: on two cores the software GPU leaves nothing for the rest.
    projects: [
      {
        extends: true,
        test: {
          name: 'node',
          include: ['tests/**/*.test.ts'],
          exclude: ['tests/gpu/**', 'tests/e2e/**'],
          environment: 'node',
          testTimeout: 60_000,
          hookTimeout: 120_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'gpu',
          include: ['tests/gpu/**/*.test.ts'],
          globalSetup: ['tests/chromium.ts'],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            instances: [{ browser: 'chromium' }],
            provider: playwright({
              launchOptions: {
                // Read when the browser starts, after the global setup has found one.
                get executablePath() {
                  return process.env.CHROMIUM_PATH
                },
                args: chromiumArgs,
              },
            }),
          },
        },
      },
      {
        extends: true,
        test: {
          name: 'e2e',
          include: ['tests/e2e/**/*.test.ts'],
          environment: 'node',
          globalSetup: ['tests/e2e/setup.ts'],
          testTimeout: 600_000,
          hookTimeout: 300_000,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
