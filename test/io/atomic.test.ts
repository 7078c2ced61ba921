// Files and folders that appear whole or not at all, and what killed processes leave behind.
import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cleanLeftovers, removeFolderAtomic, writeFileAtomic, writeFolderAtomic } from '../../lib/io/atomic.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shardloop-atomic-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const HOST = hostname().replace(/[^A-Za-z0-9-]/g, '-');
/** The number of a process that is gone. */
const gone = () => spawnSync('true').pid;

describe('writeFileAtomic', () => {
  it('writes text, bytes and streams, and makes folders on the way', async () => {
    const path = join(dir, 'a', 'b', 'file');
    await writeFileAtomic(path, 'text');
    expect(await readFile(path, 'utf8')).toBe('text');
    await writeFileAtomic(path, new Uint8Array([65]));
    expect(await readFile(path, 'utf8')).toBe('A');
    await writeFileAtomic(path, async (file) => {
      await file.appendFile('one ');
      await file.appendFile('two');
    });
    expect(await readFile(path, 'utf8')).toBe('one two');
    expect(await readdir(join(dir, 'a', 'b'))).toEqual(['file']);
  });

  it('leaves the old file, and nothing else, when writing fails', async () => {
    const path = join(dir, 'file');
    await writeFileAtomic(path, 'old');
    const failing = writeFileAtomic(path, async (file) => {
      await file.appendFile('half');
      expect(await readFile(path, 'utf8')).toBe('old');
      throw new Error('disk full');
    });
    await expect(failing).rejects.toThrow('disk full');
    expect(await readFile(path, 'utf8')).toBe('old');
    expect(await readdir(dir)).toEqual(['file']);
  });
});

describe('writeFolderAtomic', () => {
  const fill = (content: string) => (folder: string) => writeFile(join(folder, 'x'), content);

  it('publishes a folder, and replaces one', async () => {
    const path = join(dir, 'folder');
    await writeFolderAtomic(path, fill('1'));
    await writeFile(join(path, 'stale'), '');
    await writeFolderAtomic(path, fill('2'));
    expect(await readFile(join(path, 'x'), 'utf8')).toBe('2');
    expect(await readdir(path)).toEqual(['x']);
    expect(await readdir(dir)).toEqual(['folder']);
  });

  it('leaves the old folder when filling fails', async () => {
    const path = join(dir, 'folder');
    await writeFolderAtomic(path, fill('1'));
    await expect(writeFolderAtomic(path, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(await readFile(join(path, 'x'), 'utf8')).toBe('1');
    expect(await readdir(dir)).toEqual(['folder']);
  });
});

describe('what killed processes leave', () => {
  it('is removed, except what a living process or another host may be writing', async () => {
    const keep = [`.x.tmp-${HOST}-1-0123abcd`, '.x.tmp-otherhost-5-0123abcd', 'x.tmp', '.hidden'];
    const drop = [`.x.tmp-${HOST}-${gone()}-0123abcd`, `.y.tmp-${HOST}-${process.pid}-0123abcd`];
    for (const name of [...keep, ...drop]) await mkdir(join(dir, name));
    expect((await cleanLeftovers(dir)).sort()).toEqual([...drop].sort());
    expect((await readdir(dir)).sort()).toEqual([...keep].sort());
  });

  it('is put back when it was set aside and its successor never came', async () => {
    await mkdir(join(dir, `.a.old-${HOST}-${gone()}-0123abcd`));
    await mkdir(join(dir, `.b.old-${HOST}-${gone()}-0123abcd`));
    await mkdir(join(dir, 'b'));
    await cleanLeftovers(dir);
    expect((await readdir(dir)).sort()).toEqual(['a', 'b']);
  });

  it('does not include what this process is writing now', async () => {
    await writeFolderAtomic(join(dir, 'f'), async (folder) => {
      expect(await cleanLeftovers(dir)).toEqual([]);
      await writeFile(join(folder, 'x'), '');
    });
    expect(await readdir(join(dir, 'f'))).toEqual(['x']);
  });

  it('is no error where there is no folder', async () => {
    expect(await cleanLeftovers(join(dir, 'none'))).toEqual([]);
  });
});

describe('removeFolderAtomic', () => {
  it('removes a folder, and nothing when there is none', async () => {
    await mkdir(join(dir, 'f', 'g'), { recursive: true });
    await removeFolderAtomic(join(dir, 'f'));
    await removeFolderAtomic(join(dir, 'f'));
    expect(await readdir(dir)).toEqual([]);
  });
});
