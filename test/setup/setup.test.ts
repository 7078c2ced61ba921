// Set-up itself, on the libtorch and the compiler of this machine. The addon is in the cache (npm test sets up first),
// so nothing long is compiled here; what a build does is told by its record and by loading it.
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readRecord } from '../../lib/setup/locate.js';
import { addonInPackage, packageRoot, recordBeside } from '../../lib/setup/paths.js';
import { probe } from '../../lib/setup/probe.js';
import { silentReport } from '../../lib/setup/report.js';
import { setup } from '../../lib/setup/setup.js';
import { temporary } from './fakes.js';

const root = packageRoot();
const clones: string[] = [];
afterAll(() => {
  for (const folder of clones) rmSync(folder, { recursive: true, force: true });
});

/** What a second clone holds: sources, package.json, and dependencies. */
function clone(): string {
  const folder = temporary();
  clones.push(folder);
  for (const name of ['native', 'CMakeLists.txt', 'package.json', 'binding.gyp', 'dist']) {
    cpSync(join(root, name), join(folder, name), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  return folder;
}

/** An addon of a few lines that answers as many schemas as it is told: what the check of set-up asks for. */
function tinyAddon(ops: string): string {
  return `#include <node_api.h>
static napi_value nothing(napi_env, napi_callback_info) { return nullptr; }
static napi_value schemas(napi_env env, napi_callback_info) {
  napi_value list;
  napi_create_array_with_length(env, ${ops}, &list);
  return list;
}
NAPI_MODULE_INIT() {
  napi_value f;
  napi_create_function(env, "init", NAPI_AUTO_LENGTH, nothing, nullptr, &f);
  napi_set_named_property(env, exports, "init", f);
  napi_create_function(env, "schemas", NAPI_AUTO_LENGTH, schemas, nullptr, &f);
  napi_set_named_property(env, exports, "schemas", f);
  return exports;
}
`;
}

/** A clone whose native sources compile in a second. The stamp keeps its key apart from that of every other run. */
function tinyClone(ops: string): string {
  const folder = clone();
  rmSync(join(folder, 'native'), { recursive: true });
  mkdirSync(join(folder, 'native'));
  writeFileSync(join(folder, 'native', 'tiny.cc'), tinyAddon(ops));
  writeFileSync(join(folder, 'native', 'stamp.h'), `// ${stamp}\n`);
  return folder;
}
const stamp = `${process.pid} ${Date.now()}`;

describe('setup', () => {
  it('takes the addon from the cache in a second clone, and keeps it when run again', async () => {
    const folder = clone();
    const first = await setup({ root: folder, report: silentReport });
    expect(first.did).toBe('cached');
    expect(first.addon).toBe(addonInPackage(folder));
    expect(first.ops).toBeGreaterThan(3000);
    expect(readRecord(first.addon)?.libtorch.dir).toBe(first.libtorch.dir);
    expect((await setup({ root: folder, report: silentReport })).did).toBe('kept');
  });

  it('mends an addon that was damaged or whose record is of another build', async () => {
    const folder = clone();
    const { addon } = await setup({ root: folder, report: silentReport });
    writeFileSync(recordBeside(addon), JSON.stringify({ ...readRecord(addon), key: 'other' }));
    writeFileSync(addon, 'not an addon');
    expect((await setup({ root: folder, report: silentReport })).did).toBe('cached');
    rmSync(addon);
    expect((await setup({ root: folder, report: silentReport })).did).toBe('cached');
  });

  it('works twice at the same time', async () => {
    const folder = clone();
    const program = `const { setup } = await import(${JSON.stringify(join(root, 'dist', 'setup', 'setup.js'))});
      const r = await setup({ root: ${JSON.stringify(folder)} }); console.log(r.ops);`;
    const runs = [1, 2].map(
      () =>
        new Promise<string>((resolve) => {
          const child = spawn(process.execPath, ['--input-type=module', '-e', program]);
          let out = '';
          child.stdout.on('data', (chunk) => {
            out += chunk;
          });
          child.on('close', () => resolve(out.trim()));
        }),
    );
    for (const ops of await Promise.all(runs)) expect(Number(ops)).toBeGreaterThan(3000);
  });

  it('builds what is new, takes it from the cache in another clone, and builds again when forced', async () => {
    const folder = tinyClone('1');
    const built = await setup({ root: folder, report: silentReport });
    expect(built).toMatchObject({ did: 'built', ops: 1 });
    expect(await setup({ root: folder, report: silentReport })).toMatchObject({ did: 'kept' });
    expect(await setup({ root: tinyClone('1'), report: silentReport })).toMatchObject({ did: 'cached', ops: 1 });
    expect(await setup({ root: folder, force: true, report: silentReport })).toMatchObject({ did: 'built' });
    writeFileSync(join(folder, 'native', 'tiny.cc'), tinyAddon('2'));
    expect(await setup({ root: folder, report: silentReport })).toMatchObject({ did: 'built', ops: 2 });
    expect(existsSync(join(folder, 'build', 'native', 'CMakeCache.txt'))).toBe(true); // The next build is incremental.
  });

  it('does not put an addon that fails to load in the place of one that loads', async () => {
    const folder = tinyClone('1');
    const { addon, ops } = await setup({ root: folder, report: silentReport });
    writeFileSync(join(folder, 'native', 'tiny.cc'), 'int not_an_addon() { return 1; }\n');
    await expect(setup({ root: folder, report: silentReport })).rejects.toThrow(/did not self-register/);
    expect(await probe(addon)).toMatchObject({ ops });
  });

  it('insists on the CUDA part when it is asked for', async () => {
    const folder = tinyClone('1');
    const options = { root: folder, cuda: true, fetch: false, report: silentReport };
    await expect(setup(options)).rejects.toThrow(
      /the CUDA part cannot be built: this version of shardloop has no CUDA sources|CUDA is wanted/,
    );
  });

  it('says what is missing when there is no compiler', async () => {
    const env = { ...process.env, CXX: '/nonexistent/c++' };
    await expect(setup({ root, env, report: silentReport })).rejects.toThrow(
      /needs a C\+\+20 compiler[\s\S]*apt-get install g\+\+/,
    );
  });

  it('names the error of the compiler and the log when the sources do not compile', async () => {
    const folder = clone();
    rmSync(join(folder, 'native'), { recursive: true });
    mkdirSync(join(folder, 'native'));
    writeFileSync(join(folder, 'native', 'broken.cc'), 'int f() { return does_not_exist; }\n');
    const failed = setup({ root: folder, report: silentReport });
    await expect(failed).rejects.toThrow(
      /native build failed:[\s\S]*does_not_exist[\s\S]*The whole log: .*build-.*\.log/,
    );
    expect(existsSync(addonInPackage(folder))).toBe(false);
  });

  it('explains an addon that cannot be loaded, and keeps it nowhere', async () => {
    const folder = clone();
    rmSync(join(folder, 'native'), { recursive: true });
    mkdirSync(join(folder, 'native'));
    writeFileSync(join(folder, 'native', 'empty.cc'), 'int f() { return 1; }\n');
    const failed = setup({ root: folder, report: silentReport });
    await expect(failed).rejects.toThrow(/cannot be loaded[\s\S]*did not self-register[\s\S]*What to do/);
    expect(existsSync(addonInPackage(folder))).toBe(false);
    const again = setup({ root: folder, report: silentReport });
    await expect(again).rejects.toThrow(/cannot be loaded/);
  });
});

it('node-gyp builds the same addon by the same CMake, without fetching headers', () => {
  const folder = clone();
  // node-gyp insists on a folder of headers; gyp compiles nothing, so the one file that it reads may be nearly empty.
  const headers = join(temporary(), 'include', 'node');
  mkdirSync(headers, { recursive: true });
  writeFileSync(join(headers, 'common.gypi'), "{ 'target_defaults': { 'configurations': { 'Release': {} } } }\n");
  writeFileSync(join(headers, 'config.gypi'), "{ 'target_defaults': {}, 'variables': {} }\n");
  writeFileSync(join(headers, 'node_version.h'), '');
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)));
  const program = join(root, 'node_modules', 'node-gyp', 'bin', 'node-gyp.js');
  const ran = spawnSync(process.execPath, [program, 'rebuild', `--nodedir=${join(headers, '..', '..')}`], {
    cwd: folder,
    env,
    encoding: 'utf8',
  });
  expect(ran.stderr + ran.stdout).toMatch(/gyp info ok/);
  expect(ran.status).toBe(0);
  const addon = addonInPackage(folder);
  expect(readRecord(addon)?.key).toBe(readRecord(addonInPackage(root))?.key);
  expect(readFileSync(addon).equals(readFileSync(addonInPackage(root)))).toBe(true);
});
