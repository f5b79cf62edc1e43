/** Uses a scratch file as a run does, and says what came of it. */
import { openScratchFile } from '../../src/io/scratchFile.ts'

async function use(): Promise<object> {
  const file = (await openScratchFile())!
  // Another one at the same time, as of a run in another tab, takes nothing away from it.
  const other = (await openScratchFile())!
  await other.close()
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('scratch')
  let open = 0
  for await (const name of folder.keys()) open += name === '' ? 0 : 1
  file.write(Float32Array.of(1, 2), 0)
  file.write(Float32Array.of(3, 4, 5), 8)
  const read = new Float32Array(5)
  file.read(read.subarray(0, 3), 8)
  file.read(read.subarray(3), 0)
  let beyond = ''
  try {
    file.read(new Float32Array(4), 8)
  } catch (error) {
    beyond = (error as Error).message
  }
  await file.close()
  return { capacity: file.capacity > 1e6, open, read: [...read], beyond }
}

void use().then((said) => self.postMessage(said))
