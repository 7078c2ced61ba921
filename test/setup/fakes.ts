// Stand-ins for the tests of set-up: a libtorch of a few empty files, wheels of a few bytes, and a Python that hands
// them out. Everything lies in a temporary folder; nothing is downloaded.
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { temporaryFolder } from '../temporary.js';

export function temporary(): string {
  return temporaryFolder('setup');
}

export function put(path: string, text: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

/** A shared library with nothing in it: the system can load it. */
export function emptyLibrary(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  execFileSync('c++', ['-shared', '-fPIC', '-x', 'c++', '/dev/null', '-o', path]);
}

export function versionHeader(version: string): string {
  const [major, minor, patch] = version.split('.');
  return `#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH ${patch}\n`;
}

/** A folder that looks like a libtorch, and that can be loaded unless `broken`. */
export function fakeLibtorch(dir: string, version: string, options: { cuda?: string; broken?: boolean } = {}): string {
  put(join(dir, 'include', 'ATen', 'ATen.h'), '');
  put(join(dir, 'include', 'torch', 'headeronly', 'version.h'), versionHeader(version));
  for (const name of ['torch_cpu', 'c10', ...(options.cuda ? ['torch_cuda'] : [])]) {
    const path = join(dir, 'lib', `lib${name}.so`);
    if (options.broken) put(path, 'not a library');
    else emptyLibrary(path);
  }
  if (options.cuda)
    put(join(dir, 'version.py'), `__version__ = '${version}'\ncuda: Optional[str] = '${options.cuda}'\n`);
  return dir;
}

/** A zip made by Python's zipfile: what pip's wheels are made by. `modes` are Unix permissions; `link` a symbolic link. */
export function makeZip(
  path: string,
  entries: Record<string, string>,
  options: { modes?: Record<string, number>; link?: [string, string]; stored?: boolean; zip64?: boolean } = {},
): string {
  mkdirSync(dirname(path), { recursive: true });
  const program = `
import json, sys, zipfile
path, entries, o = json.load(sys.stdin)
kind = zipfile.ZIP_STORED if o.get('stored') else zipfile.ZIP_DEFLATED
with zipfile.ZipFile(path, 'w', kind) as z:
    for name, text in entries.items():
        info = zipfile.ZipInfo(name)
        info.compress_type = kind
        info.external_attr = (0o100000 | o.get('modes', {}).get(name, 0o644)) << 16
        with z.open(info, 'w', force_zip64=bool(o.get('zip64'))) as f:
            f.write(text.encode())
    if o.get('link'):
        info = zipfile.ZipInfo(o['link'][0])
        info.create_system = 3
        info.external_attr = 0o120777 << 16
        z.writestr(info, o['link'][1])
`;
  execFileSync('python3', ['-c', program], { input: JSON.stringify([path, entries, options]) });
  return path;
}

/**
 * A Python: answers --version, says where its torch is, and "downloads" by copying the wheels whose name begins with a
 * requirement's. Every pip download is appended to `<folder>/downloads.log`.
 */
export function fakePython(folder: string, options: { torch?: string; wheels?: string; pip?: boolean } = {}): string {
  const path = join(folder, 'python3');
  const log = join(folder, 'downloads.log');
  put(
    path,
    `#!/bin/sh
case "$1" in
  --version) echo "Python 3.12.0"; exit 0;;
  -c) echo "${options.torch ?? ''}"; exit 0;;
esac
[ "${options.pip === false ? 'no' : 'yes'}" = yes ] || { echo "No module named pip" >&2; exit 1; }
[ "$3" = --version ] && { echo "pip 24.0"; exit 0; }
echo "$@" >> "${log}"
dest=
while [ $# -gt 0 ]; do
  case "$1" in
    --dest) dest="$2"; mkdir -p "$dest"; shift 2;;
    torch==*|nvidia-*|cuda-*)
      stem=$(echo "$1" | sed -e 's/[^a-z0-9-].*//' -e 's/-/_/g')
      cp "${options.wheels ?? '/nonexistent'}/$stem"-*.whl "$dest"/ || exit 1
      shift;;
    *) shift;;
  esac
done
`,
  );
  chmodSync(path, 0o755);
  return path;
}
