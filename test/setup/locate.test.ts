// Where the addon is looked for at run time, and the page of help.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { explainLoadFailure, helpPage, locateAddon, readRecord } from '../../lib/setup/locate.js';
import { addonInPackage, pointerFile } from '../../lib/setup/paths.js';
import { fakeLibtorch, put, temporary } from './fakes.js';

let root = '';
let cache = '';
beforeEach(() => {
  root = temporary();
  cache = temporary();
  vi.stubEnv('SHARDLOOP_CACHE', cache);
  vi.stubEnv('SHARDLOOP_ADDON', undefined);
});
afterEach(() => {
  vi.unstubAllEnvs();
  for (const folder of [root, cache]) rmSync(folder, { recursive: true, force: true });
});

describe('locateAddon', () => {
  it('takes SHARDLOOP_ADDON, then the package, then what the cache names', () => {
    const pointed = put(join(cache, 'addons', 'k', 'shardloop.node'), '');
    put(pointerFile(root), JSON.stringify({ addon: pointed }));
    expect(locateAddon(root)).toBe(pointed);
    const inPackage = put(addonInPackage(root), '');
    expect(locateAddon(root)).toBe(inPackage);
    const named = put(join(root, 'mine.node'), '');
    vi.stubEnv('SHARDLOOP_ADDON', named);
    expect(locateAddon(root)).toBe(named);
  });

  it('writes the page of help when there is none', () => {
    vi.stubEnv('SHARDLOOP_ADDON', '/none.node');
    mkdirSync(dirname(pointerFile(root)), { recursive: true });
    writeFileSync(pointerFile(root), JSON.stringify({ addon: '/gone/shardloop.node' }));
    let error: unknown;
    try {
      locateAddon(root);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'ADDON_MISSING' });
    const page = (error as Error).message;
    expect(page).toMatch(/^The native addon is not built yet\./);
    expect(page).toMatch(/SHARDLOOP_ADDON=\/none.node\n {6}there is no such file/);
    expect(page).toContain(addonInPackage(root));
    expect(page).toMatch(/it names \/gone\/shardloop.node, which is gone/);
    expect(page).toMatch(/What to do:\n {2}- run `npx shardloop setup`/);
  });

  it('is not led astray by a damaged pointer or record', () => {
    mkdirSync(dirname(pointerFile(root)), { recursive: true });
    for (const text of ['{', 'null', '{"addon": 5}', '[]']) {
      writeFileSync(pointerFile(root), text);
      expect(() => locateAddon(root)).toThrow(/not built yet/);
    }
    const addon = put(addonInPackage(root), '');
    put(join(dirname(addon), 'shardloop.json'), 'not json');
    expect(readRecord(addon)).toBeNull();
  });
});

describe('an addon that cannot be loaded', () => {
  const record = (dir: string) =>
    JSON.stringify({ key: 'k', libtorch: { dir, version: '2.14.1', source: 'x', cuda: null } });

  it('is laid to its libtorch when that is gone', () => {
    const addon = put(addonInPackage(root), '');
    put(join(dirname(addon), 'shardloop.json'), record(join(root, 'gone')));
    const error = explainLoadFailure(addon, new Error('libc10.so: cannot open shared object file'));
    expect(error.code).toBe('LIBTORCH_MISSING');
    expect(error.message).toMatch(/libc10.so: cannot open[\s\S]*its libtorch 2.14.1, .*gone\n {6}this folder is gone/);
    expect(error.message).toContain('npm run setup');
  });

  it('is laid to the addon otherwise', () => {
    const addon = put(addonInPackage(root), '');
    put(join(dirname(addon), 'shardloop.json'), record(fakeLibtorch(join(root, 'torch'), '2.14.1', { broken: true })));
    const error = explainLoadFailure(addon, new Error('invalid ELF header'));
    expect(error.code).toBe('ADDON_MISSING');
    expect(error.message).toMatch(/invalid ELF header[\s\S]*this folder is there/);
    expect(error.cause).toBeInstanceOf(Error);
  });
});

it('helpPage leaves out what was not tried', () => {
  expect(helpPage({ problem: 'No.', attempts: [], remedies: ['a', 'b'] })).toBe('No.\n\nWhat to do:\n  - a\n  - b');
});
