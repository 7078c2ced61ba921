// The name of a built addon in the cache: a hash of all that its build depends on, so that another clone, or the same
// one after a change and back, finds it. Not here: the build (addon.ts).
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { SetupError } from './errors.js';
import type { Libtorch } from './libtorch.js';
import { libraryName } from './platform.js';

/** What a build is made of. */
export interface BuildInputs {
  /** The folder of the package: native/ and CMakeLists.txt. */
  readonly root: string;
  readonly libtorch: Libtorch;
  /** Path and version of the compiler. */
  readonly compiler: string;
  /** nvcc's version and the GPU architectures when the CUDA part is built, else null. */
  readonly cuda: { readonly nvcc: string; readonly version: string; readonly architectures: string } | null;
}

/** Twenty hexadecimal digits that change when any input of the build does. */
export function buildKey(inputs: BuildInputs): string {
  const hash = createHash('sha256');
  const add = (name: string, value: string | Buffer) => {
    hash.update(`${name}\0${value.length}\0`).update(value);
  };
  for (const file of sourceFiles(inputs.root)) add(file, readFileSync(join(inputs.root, file)));
  const { dir, version } = inputs.libtorch;
  add('libtorch', `${dir} ${version} ${statSync(join(dir, 'lib', libraryName('torch_cpu'))).size}`);
  add('compiler', inputs.compiler);
  add('platform', `${process.platform} ${process.arch}`);
  const headers = nodeHeaders(inputs.root);
  add('headers', `${headers.nodeApiVersion} ${headers.addonApiVersion}`);
  add('cuda', inputs.cuda ? `${inputs.cuda.version} ${inputs.cuda.architectures}` : 'none');
  return hash.digest('hex').slice(0, 20);
}

/** CMakeLists.txt and everything under native/, sorted, as paths relative to the package. */
export function sourceFiles(root: string): string[] {
  const walk = (folder: string): string[] =>
    readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) return walk(path);
      return /\.(cc|h|hpp|cu|cuh|cmake)$/.test(entry.name) ? [path] : [];
    });
  return ['CMakeLists.txt', ...walk('native').sort()];
}

/** The include folders of node-api-headers and node-addon-api, wherever npm put them. */
export function nodeHeaders(root: string): {
  nodeApi: string;
  addonApi: string;
  nodeApiVersion: string;
  addonApiVersion: string;
} {
  const require = createRequire(join(root, 'package.json'));
  const find = (name: string) => {
    try {
      const file = require.resolve(`${name}/package.json`);
      const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
      return { folder: dirname(file), version };
    } catch (cause) {
      throw new SetupError('BUILD_FAILED', `the package ${name} is not installed: run npm install again`, { cause });
    }
  };
  const nodeApi = find('node-api-headers');
  const addonApi = find('node-addon-api');
  return {
    nodeApi: join(nodeApi.folder, 'include'),
    addonApi: addonApi.folder,
    nodeApiVersion: nodeApi.version,
    addonApiVersion: addonApi.version,
  };
}
