/** Made-up labelled reviews that no sample set holds, as the kind of CSV people have. */
import { TorchGenerator } from '../../src/random.ts'

const things = ['kettle', 'lamp', 'tent', 'bicycle pump', 'rain coat', 'garden hose', 'toaster', 'desk chair']
const praise = [
  'works a treat',
  'is simply lovely; I use it daily',
  'was worth every penny',
  'made my "week"',
]
const blame = [
  'broke on day one',
  'smells odd, and leaks',
  'never arrived\nin one piece',
  'is a waste of money',
]

const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`

/** `count` rows with the columns stars;comment;verdict, semicolons between, quoted newlines within; both labels alternate. */
export function madeUpCsv(count: number): string {
  const pick = new TorchGenerator(7)
  const draws = pick.randperm(count)
  const lines = ['stars;comment;verdict']
  for (let i = 0; i < count; i++) {
    const good = i % 2 === 0
    const words = good ? praise : blame
    const text = `The ${things[draws[i]! % things.length]} ${words[(draws[i]! >> 3) % words.length]}, order ${draws[i]}.`
    lines.push(`${good ? 5 : 1};${quoted(text)};${good ? 'keep' : 'return'}`)
  }
  return lines.join('\r\n') + '\r\n'
}
