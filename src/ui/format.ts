/** Numbers as the page writes them: short, of a steady width, with their unit. A missing number is an en dash. */

const missing = '–'

/** 0.8123 -> "0.812"; the same number of digits whatever the value, so that columns keep their place. */
export function fixed(value: number | null | undefined, digits = 3): string {
  return value == null || Number.isNaN(value) ? missing : value.toFixed(digits)
}

/** 894528 -> "894,528". */
export function count(value: number | null | undefined): string {
  return value == null ? missing : Math.round(value).toLocaleString('en-US')
}

/** 0.1234 -> "12.3 %". */
export function share(value: number | null | undefined, digits = 1): string {
  return value == null ? missing : `${(value * 100).toFixed(digits)} %`
}

/** 0.00025 -> "2.50e-4". */
export function scientific(value: number | null | undefined): string {
  if (value == null || Number.isNaN(value)) return missing
  return value === 0 ? '0' : value.toExponential(2)
}

/** 0.5372 -> "0.537", 3.2e-9 -> "3.20e-9". */
export function threeDigits(value: number): string {
  return value === 0 ? '0' : value.toPrecision(3)
}

/** 1536000 -> "1.5 MB". Powers of ten, as disks and downloads are sold. */
export function bytes(value: number | null | undefined): string {
  if (value == null) return missing
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  let scaled = value
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000
    unit += 1
  }
  return `${unit === 0 || scaled >= 99.5 ? Math.round(scaled) : scaled.toFixed(1)} ${units[unit]}`
}

/** 75 -> "1 min 15 s". */
export function duration(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds)) return missing
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes} min ${whole % 60} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** Milliseconds since 1970 -> "21 Nov 2026, 21:40" in the reader's own zone. */
export function date(timestamp: number): string {
  return new Date(timestamp).toLocaleString('en-GB', {
    day: 'numeric',
    month: 'short',
    year: 'numeric',
    hour: '2-digit',
    minute: '2-digit',
  })
}

/** Many things in one word: 1 row, 2 rows. */
export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`
}

/** A message as a sentence: a capital, unless it begins with a file's name, and a full stop. */
export function sentence(message: string): string {
  const [first = ''] = message.split(/[\s,:]/, 1)
  const start = /[._\d/]/.test(first) ? message : message.charAt(0).toUpperCase() + message.slice(1)
  return /[.!?…”)]$/.test(start) ? start : `${start}.`
}
