/**
 * Reads adapter setups: the folders of one adapter_setup.json, or a fusion folder with those of its members. Throws one
 * sentence for what is absent, twice there, or not what its configuration says.
 */
import type { FusionConfig, SetupBundle, TensorMap } from '../config.ts'
import { namesIn } from '../methods/composition.ts'
import { dynamicFusion, staticFusion } from '../methods/fusion.ts'
import { adapterName } from './adapterKeys.ts'
import {
  fileNames,
  jsonFile,
  nameOf,
  readAdapter,
  readHead,
  readWeights,
  renamed,
  type FileMap,
  type ReadOptions,
} from './adapterhub.ts'
import { checkTypes, readFields, shown, type Fields } from './fields.ts'
import { checkSetup, emptySetup, readBlock, setupFile, plainSetup } from './setup.ts'

export interface ReadSetup {
  setup: SetupBundle
  notes: string[]
}

const fusionStrings: Record<string, FusionConfig> = { dynamic: dynamicFusion, static: staticFusion }
/** `AdapterFusionConfig` has no defaults; files of before dropout_prob lack that alone. */
const fusionRequired = Object.keys(dynamicFusion).filter((field) => field !== 'dropout_prob')

/** What stands in the folders of a setup, by the names that the files give. */
interface Found {
  adapters: Map<string, FileMap>
  heads: Map<string, FileMap>
  fusions: Map<string, FileMap>
}

/**
 * The setup in these folders (contents by the folder's name). `root` holds adapter_setup.json; without one the only
 * fusion is the setup.
 */
export async function fromAdapterSetup(
  folders: Map<string, FileMap>,
  root: FileMap | null,
  label: string,
  options: ReadOptions = {},
): Promise<ReadSetup> {
  const notes: string[] = []
  const found = findContents(folders)
  const file = root ? jsonFile(root, setupFile) : null
  const ours = (own: string) => adapterName(own)
  const active = file ? readBlock(file.adapter_setup, ours) : onlyFusion(found)
  const setup = emptySetup(adapterName(label), plainSetup(active))
  for (const [own, files] of found.adapters) {
    const name = newName(own, setup.adapters, notes)
    setup.adapters[name] = await readAdapter(files, name, notes)
  }
  for (const [own, files] of found.heads) {
    if (options.with_head === false) continue
    const name = newName(own, setup.heads, found.adapters.has(own) ? null : notes)
    const { head, id2label, tensors } = (await readHead(files, name, notes))!
    setup.heads[name] = { config: head, id2label, tensors }
  }
  for (const [own, files] of found.fusions) await addFusion(setup, own, files)
  const width = [...folders.values()].map(widthOf).find((size) => size !== null)
  if (width) setup.hidden_size = width
  if (options.with_head !== false)
    setup.active_heads = file ? readHeads(file.head_setup, ours) : Object.keys(setup.heads)
  checkSetup(setup)
  const rest = Object.keys(setup.adapters).filter((name) => !namesIn(setup.active).includes(name))
  if (rest.length > 0) notes.push(`The setup does not use ${rest.join(', ')}.`)
  return { setup, notes }
}

function findContents(folders: Map<string, FileMap>): Found {
  const found: Found = { adapters: new Map(), heads: new Map(), fusions: new Map() }
  const contents = [['adapter', found.adapters, 'adapters'], ['head', found.heads, 'heads'], ['fusion', found.fusions, 'fusions']] as const // prettier-ignore
  for (const files of folders.values())
    for (const [content, map, what] of contents) {
      const file = jsonFile(files, fileNames[content][0])
      if (!file) continue
      const adapter = content === 'head' && file.name === null ? jsonFile(files, fileNames.adapter[0]) : null
      const name = nameOf(adapter ?? file)
      if (map.has(name))
        throw new Error(`Two of the ${what} are called “${name}”; rename or remove one of them.`)
      map.set(name, files)
    }
  return found
}

/** Our name for one of the files. Throws when two become the same. */
function newName(own: string, taken: Record<string, unknown>, notes: string[] | null): string {
  const name = adapterName(own)
  if (Object.hasOwn(taken, name))
    throw new Error(`Two names of the setup become “${name}” here; rename “${own}”.`)
  if (name !== own) notes?.push(`“${own}” is called “${name}” here.`)
  return name
}

/** Without adapter_setup.json: the fusion of the adapters beside it. */
function onlyFusion({ fusions }: Found): SetupBundle['active'] {
  const [only, more] = [...fusions]
  if (!only)
    throw new Error('The files hold several adapters but neither a setup nor a fusion; import one at a time.')
  if (more)
    throw new Error(`The files hold the fusions ${[...fusions.keys()].join(' and ')}; import one at a time.`)
  return { type: 'Fuse', children: memberNames(jsonFile(only[1], fileNames.fusion[0])!).map(adapterName) }
}

function memberNames(file: Fields): string[] {
  const names = file.adapter_names ?? file.name
  const list = typeof names === 'string' ? names.split(',') : names
  if (Array.isArray(list) && list.length > 0 && list.every((name) => typeof name === 'string')) return list
  throw new Error(`The fusion's adapter_names are ${shown(names)}; they must be the names of its adapters.`)
}

/** Adds a fusion under its members' names, whatever the file calls it. */
async function addFusion(setup: SetupBundle, own: string, files: FileMap): Promise<void> {
  const file = jsonFile(files, fileNames.fusion[0])!
  const name = memberNames(file).map(adapterName).join(',')
  const config = readFusionConfig(file.config)
  const weights = await readWeights(files, 'fusion')
  const tensors: TensorMap = renamed(weights, (key) => {
    const [, path, found, rest] =
      /^(.*\.adapter_fusion_layer\.)(.*)\.((?:query|key|value)\.\w+)$/.exec(key) ?? []
    const prefixed = key.startsWith('roberta.') ? '' : 'roberta.'
    if (path === undefined) return key
    // A fusion whose name begins with this one's comes into its file too.
    return found === own ? `${prefixed}${path}${name}.${rest}` : null
  })
  if (setup.fusions[name]) throw new Error(`Two of the fusions join ${name}; remove one of them.`)
  setup.fusions[name] = { config, tensors }
}

function readFusionConfig(value: unknown): FusionConfig {
  const known =
    typeof value === 'string' && Object.hasOwn(fusionStrings, value) ? fusionStrings[value] : value
  if (typeof known !== 'object' || known === null)
    throw new Error(
      `The fusion's configuration is ${shown(value)}; it must be its fields, dynamic or static.`,
    )
  const fields = readFields(
    { ...known } as Fields,
    { ...dynamicFusion },
    fusionRequired,
    "fusion's configuration",
    null,
  )
  checkTypes(fields, { ...dynamicFusion }, { dropout_prob: 'number' }, "fusion's configuration")
  return fields as unknown as FusionConfig
}

/** Names of the active heads in any form of `head_setup`. */
function readHeads(value: unknown, ours: (own: string) => string): string[] {
  if (value === null || value === undefined || value === true) return []
  if (typeof value === 'string') return [ours(value)]
  if (Array.isArray(value) && value.every((name) => typeof name === 'string')) return value.map(ours)
  return namesIn(readBlock(value, ours))
}

/** The hidden size that a folder's configurations name. */
function widthOf(files: FileMap): number | null {
  const { hidden_size } = jsonFile(files, fileNames.adapter[0]) ?? jsonFile(files, fileNames.head[0]) ?? {}
  return Number.isInteger(hidden_size) ? Number(hidden_size) : null
}
