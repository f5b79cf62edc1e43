/** Files of a drop, folders opened. */

/** All files dropped, those inside a dropped folder included, in no certain order. */
export async function droppedFiles(event: DragEvent): Promise<File[]> {
  const items = [...(event.dataTransfer?.items ?? [])]
  // Entries must be taken before the first await: the list empties when the event is over.
  const entries = items.map((item) => item.webkitGetAsEntry())
  const files = await Promise.all(entries.map((entry) => (entry ? filesOf(entry) : [])))
  return files.flat()
}

async function filesOf(entry: FileSystemEntry): Promise<File[]> {
  if (entry instanceof FileSystemFileEntry)
    return [await new Promise<File>((resolve, reject) => entry.file(resolve, reject))]
  if (!(entry instanceof FileSystemDirectoryEntry)) return []
  const reader = entry.createReader()
  const files: File[] = []
  // readEntries gives at most 100 at a time, and an empty list at the end.
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    )
    if (batch.length === 0) return files
    for (const child of batch) files.push(...(await filesOf(child)))
  }
}
