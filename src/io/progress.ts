/** Bytes, speed and time left of one file on its way, reported a few times a second. */

/** `total` is null when the server does not say; `seconds_left` until it means something. */
export interface DownloadProgress {
  file: string
  bytes: number
  total: number | null
  bytes_per_second: number
  seconds_left: number | null
}

const reportMs = 150
/** The speed is that of so many last milliseconds. */
const windowMs = 6000
/** Before that, a time left would jump about. */
const settleMs = 2000

/** A function to call with the bytes that have arrived; `true` as second argument reports at once. */
export function trackProgress(
  file: string,
  start: number,
  total: number | null,
  report: (progress: DownloadProgress) => void,
): (bytes: number, now?: boolean) => void {
  const began = performance.now()
  const marks: { time: number; bytes: number }[] = [{ time: began, bytes: start }]
  let reported = -Infinity
  return (bytes, now = false) => {
    const time = performance.now()
    if (!now && time - reported < reportMs) return
    reported = time
    marks.push({ time, bytes })
    while (marks.length > 2 && time - marks[1]!.time > windowMs) marks.shift()
    const first = marks[0]!
    const bytes_per_second = time > first.time ? ((bytes - first.bytes) / (time - first.time)) * 1000 : 0
    const settled = total !== null && bytes_per_second > 0 && time - began >= settleMs
    report({
      file,
      bytes,
      total,
      bytes_per_second,
      seconds_left: settled ? (total - bytes) / bytes_per_second : null,
    })
  }
}
