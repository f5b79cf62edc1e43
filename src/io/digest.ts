/** SHA-256 of data that is never whole in memory; WebCrypto can only hash what is. */
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex } from '@noble/hashes/utils.js'

const pieceBytes = 4 << 20

export interface Digest {
  update(bytes: Uint8Array): void
  hex(): string
}

export function startDigest(): Digest {
  const hash = sha256.create()
  return { update: (bytes) => void hash.update(bytes), hex: () => bytesToHex(hash.digest()) }
}

/** Feeds a whole Blob piece by piece. Stops with an error when `signal` aborts. */
export async function digestBlob(digest: Digest, blob: Blob, signal?: AbortSignal): Promise<void> {
  for (let at = 0; at < blob.size; at += pieceBytes) {
    if (signal?.aborted) throw new Error('Reading the weights was stopped.')
    digest.update(new Uint8Array(await blob.slice(at, at + pieceBytes).arrayBuffer()))
  }
}

/** SHA-256 in hex. */
export async function sha256Hex(blob: Blob, signal?: AbortSignal): Promise<string> {
  const digest = startDigest()
  await digestBlob(digest, blob, signal)
  return digest.hex()
}

/** One identity for weights in one or several files: the digest itself, or that of the digests, one a line. */
export async function combinedSha256(digests: string[]): Promise<string> {
  return digests.length === 1 ? digests[0]! : sha256Hex(new Blob([digests.join('\n')]))
}
