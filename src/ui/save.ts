/** Hands bytes or text to the user as a download. Nothing leaves the machine. */

/** Saves bytes under `name`. */
export function saveBytes(name: string, mime: string, bytes: Uint8Array<ArrayBuffer>): void {
  saveBlob(name, new Blob([bytes], { type: mime }))
}

/** Saves text, in UTF-8, under `name`. */
export function saveText(name: string, mime: string, text: string): void {
  saveBlob(name, new Blob([text], { type: `${mime};charset=utf-8` }))
}

function saveBlob(name: string, blob: Blob): void {
  const url = URL.createObjectURL(blob)
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  // A browser may read the blob after the click; Safari was seen to take seconds.
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}
