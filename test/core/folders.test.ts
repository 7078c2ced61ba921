// makeFolder: what it makes, and errors where Node's recursive mkdir never returns.
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { makeFolder } from '../../lib/core/folders.js';

const folder = mkdtempSync(join(tmpdir(), 'shardloop-folders-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('makes what is not there, and tells whether it was', () => {
  const deep = join(folder, 'a', 'b', 'c');
  expect(makeFolder(deep)).toBe(true);
  expect(statSync(deep).isDirectory()).toBe(true);
  expect(makeFolder(deep)).toBe(false);
  expect(makeFolder(relative(process.cwd(), join(folder, 'd')))).toBe(true);
  expect(statSync(join(folder, 'd')).isDirectory()).toBe(true);
});

it('says what is in the way', () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  expect(() => makeFolder(file)).toThrow(/EEXIST/);
  expect(() => makeFolder(join(file, 'below'))).toThrow(/ENOTDIR/);
});

it.runIf(process.platform === 'linux')('ends where a file system denies that a parent exists', () => {
  expect(() => makeFolder('/proc/shardloop/below')).toThrow(/ENOENT/);
});
