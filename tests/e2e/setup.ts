/** Vitest global setup of the browser tests that drive the built app: a Chromium, and a fresh build. */
import findChromium from '../chromium.ts'
import { buildSite } from './site.ts'

export default function setup(): void {
  findChromium()
  buildSite()
}
