/**
 * The methods' names, forms and checks, fetched when they are first needed: who opens the page and looks around does not
 * download what every method of the library is.
 */
type Methods = typeof import('./presets.ts') & typeof import('./planned.ts')

let loaded = $state.raw<Methods | null>(null)

/** Fetches them once; any number of callers may wait. */
export async function loadMethods(): Promise<Methods> {
  const [presets, planned] = await Promise.all([import('./presets.ts'), import('./planned.ts')])
  return (loaded ??= { ...presets, ...planned })
}

/** As they are now; null before they were needed. Reactive. */
export function knownMethods(): Methods | null {
  return loaded
}
