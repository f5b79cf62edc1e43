/**
 * What programs of ours need of WGSL that tfjs, which writes the lines in front of them, does not give: extensions,
 * which must be enabled in the very first lines of a module, and inputs that a program may write to. They stand as
 * comments at the head of a program's code, and the device reads them where it compiles a module.
 */

/** Extensions of WGSL, and the feature a device needs for each. */
export const extensions = { f16: 'shader-f16', subgroups: 'subgroups' } as const satisfies Record<
  string,
  GPUFeatureName
>

export type Extension = keyof typeof extensions

/** The lines that ask for extensions and for inputs that can be written. */
export function asking(enable: readonly Extension[] = [], writes: readonly string[] = []): string {
  return [
    ...enable.map((name) => `// enable ${name}\n`),
    ...writes.map((name) => `// writes ${name}\n`),
  ].join('')
}

/** From now on `device` compiles modules with what their code asks for. */
export function allowAsking(device: GPUDevice): void {
  const compile = device.createShaderModule.bind(device)
  device.createShaderModule = (descriptor) => compile({ ...descriptor, code: granted(descriptor.code) })
}

/** A module in which what its comments ask for is done. */
export function granted(code: string): string {
  const asked = (word: string) =>
    [...code.matchAll(new RegExp(`^// ${word} (\\w+)$`, 'gm'))].map(([, x]) => x!)
  const writable = asked('writes').reduce(
    (code, name) => code.replace(`var<storage, read> ${name}:`, `var<storage, read_write> ${name}:`),
    code,
  )
  return (
    asked('enable')
      .map((name) => `enable ${name};\n`)
      .join('') + writable
  )
}
