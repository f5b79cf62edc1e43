/**
 * What the page can say about the GPU before the worker is started, and what to do where there is none. Asking for
 * an adapter costs nothing; the device itself is made in the worker.
 */

export type Probe =
  | { state: 'checking' }
  | { state: 'found'; name: string; software: boolean }
  | { state: 'none'; reason: string; advice: string }

/** The adapter's name as far as the browser tells it. */
function nameOf({ description, vendor, architecture }: GPUAdapterInfo): string {
  return description || [vendor, architecture].filter(Boolean).join(' ') || 'a GPU the browser does not name'
}

/** Looks for a WebGPU adapter. Never throws: a browser that fails here has none. */
export async function probeGpu(): Promise<Probe> {
  const advice = adviceFor(navigator.userAgent, navigator.maxTouchPoints > 1)
  if (!isSecureContext)
    return {
      state: 'none',
      reason: 'Browsers offer WebGPU only over https or on localhost.',
      advice: 'Open this page by its https address.',
    }
  if (!navigator.gpu) return { state: 'none', reason: 'This browser does not offer WebGPU.', advice }
  const adapter = await navigator.gpu
    .requestAdapter({ powerPreference: 'high-performance' })
    .catch(() => null)
  if (!adapter)
    return { state: 'none', reason: 'This browser knows WebGPU but found no GPU it may use.', advice }
  const { info } = adapter
  return {
    state: 'found',
    name: nameOf(info),
    software: info.isFallbackAdapter || /swiftshader|llvmpipe/i.test(nameOf(info)),
  }
}

/** What to do about a missing GPU, for the browser and system that `userAgent` names. */
export function adviceFor(userAgent: string, touch: boolean): string {
  const iOS = /iPhone|iPad|iPod/.test(userAgent) || (/Macintosh/.test(userAgent) && touch)
  if (iOS)
    return 'On iPhone and iPad every browser uses Safari’s engine: WebGPU needs iOS or iPadOS 26. Before that, Settings › Apps › Safari › Advanced › Feature Flags › WebGPU.'
  if (/Android/.test(userAgent))
    return 'On Android use Chrome 121 or newer with Android 12 or newer, on a phone with a Qualcomm, ARM or newer Xclipse GPU.'
  const linux = /Linux|X11/.test(userAgent)
  if (/Firefox\//.test(userAgent)) {
    if (linux)
      return 'Firefox on Linux: open about:config, set dom.webgpu.enabled to true and restart it, or use Chrome or Edge.'
    return 'Firefox has WebGPU on Windows from version 141 and on Macs with Apple silicon from 145: update it, or use Chrome or Edge.'
  }
  if (/Safari\//.test(userAgent) && !/Chrom|Edg/.test(userAgent))
    return 'Safari has WebGPU from macOS Tahoe 26. Before that, use Chrome or Edge on the same Mac.'
  if (linux)
    return 'Chrome or Edge on Linux: open chrome://flags, enable “Unsafe WebGPU Support” and “Vulkan”, restart, and look at chrome://gpu for the driver.'
  return 'Use Chrome or Edge 113 or newer, turn on “Use graphics acceleration” in its system settings, update the graphics driver, and look at chrome://gpu for the reason.'
}
