// The key of a build, the arguments of CMake, the place of a built addon, and when the CUDA part is built: on stand-ins,
// without compiling. Builds themselves are in setup.test.ts.
import { chmodSync, cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { CUDA_LIBRARY, cachedAddon, configureArguments, publish } from '../../lib/setup/addon.js';
import { type BuildInputs, buildKey, nodeHeaders, sourceFiles } from '../../lib/setup/build-key.js';
import { cudaPart } from '../../lib/setup/cuda-part.js';
import type { Libtorch } from '../../lib/setup/libtorch.js';
import { addonInPackage, packageRoot, pointerFile } from '../../lib/setup/paths.js';
import { fakeLibtorch, put, temporary } from './fakes.js';

let inputs: BuildInputs;
let libtorch: Libtorch;
beforeEach(() => {
  const root = temporary();
  put(join(root, 'package.json'), '{}');
  put(join(root, 'CMakeLists.txt'), 'project(x)');
  put(join(root, 'native', 'a.cc'), 'int a;');
  put(join(root, 'native', 'kernels', 'k.cu'), 'int k;');
  for (const name of ['node-api-headers', 'node-addon-api']) {
    put(join(root, 'node_modules', name, 'package.json'), JSON.stringify({ name, version: '1.0.0' }));
  }
  const dir = fakeLibtorch(join(temporary(), 'torch'), '2.14.1', { broken: true });
  libtorch = { dir, version: '2.14.1', cuda: null, source: 'a test' };
  inputs = { root, libtorch, compiler: '/usr/bin/c++ 12', cuda: null };
});

describe('the key of a build', () => {
  it('is the same for the same content in another clone', () => {
    const other = temporary();
    cpSync(inputs.root, other, { recursive: true });
    expect(buildKey({ ...inputs, root: other })).toBe(buildKey(inputs));
    put(join(inputs.root, 'README.md'), 'not a source');
    put(join(inputs.root, 'native', 'notes.md'), 'not a source');
    expect(buildKey(inputs)).toBe(buildKey({ ...inputs, root: other }));
  });

  it('changes with everything that the build depends on', () => {
    const keys = [buildKey(inputs)];
    const changed = () => keys.push(buildKey(inputs));
    writeFileSync(join(inputs.root, 'native', 'a.cc'), 'int b;');
    changed();
    put(join(inputs.root, 'native', 'b.h'), '');
    changed();
    writeFileSync(join(inputs.root, 'CMakeLists.txt'), 'project(y)');
    changed();
    writeFileSync(join(inputs.root, 'node_modules', 'node-addon-api', 'package.json'), '{"version": "1.0.1"}');
    changed();
    keys.push(buildKey({ ...inputs, compiler: '/usr/bin/c++ 13' }));
    keys.push(buildKey({ ...inputs, libtorch: { ...libtorch, version: '2.15.0' } }));
    keys.push(buildKey({ ...inputs, cuda: { nvcc: 'nvcc', version: '13.0', architectures: '90' } }));
    keys.push(buildKey({ ...inputs, cuda: { nvcc: 'nvcc', version: '13.0', architectures: '80;90' } }));
    expect(new Set(keys).size).toBe(keys.length);
    expect(keys[0]).toMatch(/^[0-9a-f]{20}$/);
  });

  it('reads the native sources of this package', () => {
    expect(sourceFiles(packageRoot())).toEqual(expect.arrayContaining(['CMakeLists.txt', 'native/addon.cc']));
    expect(existsSync(join(nodeHeaders(packageRoot()).addonApi, 'napi.h'))).toBe(true);
    expect(existsSync(join(nodeHeaders(packageRoot()).nodeApi, 'node_api.h'))).toBe(true);
  });

  it('names the package whose headers are missing', () => {
    rmSync(join(inputs.root, 'node_modules', 'node-addon-api'), { recursive: true });
    expect(() => buildKey(inputs)).toThrow(/node-addon-api is not installed/);
  });
});

it('tells CMake where libtorch, the headers and the compiler are', () => {
  const args = configureArguments({ ...inputs, cuda: { nvcc: '/n/nvcc', version: '13.0', architectures: '90' } }, '/w');
  expect(args).toEqual(
    expect.arrayContaining([
      `-DSHARDLOOP_LIBTORCH=${libtorch.dir}`,
      '-DCMAKE_CXX_COMPILER=/usr/bin/c++',
      '-DSHARDLOOP_OUT=/w/out',
      '-DSHARDLOOP_NVCC=/n/nvcc',
      '-DSHARDLOOP_CUDA_ARCHITECTURES=90',
    ]),
  );
});

describe('a built addon', () => {
  function built(cache: string, key: string, cuda: boolean): string {
    const addon = put(cachedAddon(cache, key), `addon ${key}`);
    put(join(dirname(addon), 'shardloop.json'), JSON.stringify({ key }));
    if (cuda) put(join(dirname(addon), CUDA_LIBRARY), 'cuda');
    return addon;
  }

  it('is put into the package with its record, and replaced as a whole', async () => {
    const cache = temporary();
    const target = await publish(built(cache, 'one', true), inputs.root, cache);
    expect(target).toBe(addonInPackage(inputs.root));
    expect(readdirSync(dirname(target)).sort()).toEqual([CUDA_LIBRARY, 'shardloop.json', 'shardloop.node']);
    await publish(built(cache, 'two', false), inputs.root, cache);
    expect(readFileSync(target, 'utf8')).toBe('addon two');
    expect(readdirSync(dirname(target)).sort()).toEqual(['shardloop.json', 'shardloop.node']);
  });

  it('stays in the cache when the package cannot be written', async () => {
    const cache = temporary();
    const addon = built(cache, 'one', false);
    expect(await publish(addon, '/proc/self', cache)).toBe(addon);
    expect(JSON.parse(readFileSync(pointerFile('/proc/self', cache), 'utf8'))).toMatchObject({ addon });
  });
});

describe('the CUDA part', () => {
  const env = { PATH: '' };

  it('is left out with a reason', async () => {
    expect(await cudaPart(inputs.root, libtorch, false, env)).toMatch(/--no-cuda/);
    expect(await cudaPart(inputs.root, libtorch, true, env)).toMatch(/no CUDA sources/);
    put(join(inputs.root, 'native', 'cuda', 'x.cc'), '');
    expect(await cudaPart(inputs.root, libtorch, true, env)).toMatch(/is a CPU build/);
  });

  it('takes an nvcc that fits libtorch, and the architectures that are named', async () => {
    put(join(inputs.root, 'native', 'cuda', 'x.cc'), '');
    const nvcc = put(join(inputs.root, 'nvcc'), '#!/bin/sh\necho "Cuda compilation tools, release 13.0, V13.0.88"\n');
    chmodSync(nvcc, 0o755);
    const withNvcc = { ...env, PATH: process.env.PATH, CUDACXX: nvcc, SHARDLOOP_CUDA_ARCHITECTURES: '80;90' };
    expect(await cudaPart(inputs.root, { ...libtorch, cuda: '13.0' }, true, withNvcc)).toEqual({
      nvcc,
      version: '13.0',
      architectures: '80;90',
    });
    expect(await cudaPart(inputs.root, { ...libtorch, cuda: '12.8' }, true, withNvcc)).toMatch(
      /does not fit CUDA 12.8/,
    );
  });
});
