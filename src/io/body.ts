/** The body of a response, piece by piece: a loop, because not every browser can iterate over a stream. */

export async function* bodyPieces(response: Response): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  if (!response.body) return
  const reader = response.body.getReader()
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value
  } finally {
    // Ends the transfer when the caller stops early. Not awaited: a dead connection may never answer.
    reader.cancel().catch(() => undefined)
  }
}

/** Bytes that will arrive, or null: with a content coding the header counts the packed ones. */
export function bodyLength(response: Response): number | null {
  const length = response.headers.get('content-length')
  return length !== null && !response.headers.has('content-encoding') ? Number(length) : null
}
