/**
 * The model host. index.html reads the same setting before anything else is loaded and writes it into the page's
 * Content-Security-Policy, so a change takes hold with a reload.
 */
export const defaultEndpoint = 'https://huggingface.co'

/** Origin of the chosen host. */
export function readEndpoint(): string {
  return localStorage.getItem('endpoint') ?? defaultEndpoint
}

/** Keeps the host and reloads the page; false when `text` is no address. */
export function saveEndpoint(text: string): boolean {
  const given = text.trim() || defaultEndpoint
  const address = /^https?:\/\//.test(given) ? given : `https://${given}`
  // A policy takes hosts as they stand, and URL would escape a space.
  if (!/^https?:\/\/[\w.[\]:-]+(\/|$)/.test(address) || !URL.canParse(address)) return false
  const { origin } = new URL(address)
  if (origin === defaultEndpoint) localStorage.removeItem('endpoint')
  else localStorage.setItem('endpoint', origin)
  location.reload()
  return true
}
