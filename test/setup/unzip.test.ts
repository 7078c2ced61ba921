// The zip reader against zips of Python's making, damaged ones, and noise.
import { existsSync, lstatSync, readFileSync, readlinkSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fc, it as property } from '@fast-check/vitest';
import { expect, it } from 'vitest';
import { SetupError } from '../../lib/setup/errors.js';
import { readEntry, readZip, unzip } from '../../lib/setup/unzip.js';
import { makeZip, temporary } from './fakes.js';

it.each([{}, { stored: true }, { zip64: true }])('unpacks what is wanted, where it is wanted (%o)', async (options) => {
  const folder = temporary();
  const large = 'x'.repeat(5 << 20); // More than what is unpacked in memory.
  const entries = {
    'a/one.txt': 'one',
    'a/b/large.bin': large,
    'empty.txt': '',
    'left/out.txt': 'no',
    'bin/tool': '#!',
  };
  const zip = makeZip(join(folder, 'a.zip'), entries, {
    ...options,
    modes: { 'bin/tool': 0o755 },
    link: ['bin/link', 'tool'],
  });
  const seen: number[] = [];
  const into = join(folder, 'out');
  const bytes = await unzip(
    zip,
    into,
    (name) => (name.startsWith('left/') ? null : name),
    (done) => seen.push(done),
  );
  expect(bytes).toBe(3 + large.length + 2 + 4);
  expect(seen.at(-1)).toBe(bytes);
  expect(readFileSync(join(into, 'a/one.txt'), 'utf8')).toBe('one');
  expect(readFileSync(join(into, 'a/b/large.bin'), 'utf8')).toBe(large);
  expect(statSync(join(into, 'empty.txt')).size).toBe(0);
  expect(existsSync(join(into, 'left'))).toBe(false);
  expect(statSync(join(into, 'bin/tool')).mode & 0o111).toBe(0o111);
  expect(lstatSync(join(into, 'bin/link')).isSymbolicLink()).toBe(true);
  expect(readlinkSync(join(into, 'bin/link'))).toBe('tool');
  await unzip(zip, into, (name) => (name === 'bin/tool' ? 'bin/link' : name)); // again, and where a link was
  expect(lstatSync(join(into, 'bin/link')).isSymbolicLink()).toBe(true);
  expect(readFileSync(join(into, 'bin/tool'), 'utf8')).toBe('#!');
});

it('reads one entry as text', async () => {
  const zip = makeZip(join(temporary(), 'a.zip'), { 'x/METADATA': 'Version: 1', y: '2' });
  expect(await readEntry(zip, /METADATA$/)).toBe('Version: 1');
  expect(await readEntry(zip, /nothing/)).toBeNull();
});

it('refuses an entry that leads out of its folder', async () => {
  const folder = temporary();
  const zip = makeZip(join(folder, 'a.zip'), { '../evil.txt': 'no' });
  await expect(unzip(zip, join(folder, 'out'), (name) => name)).rejects.toThrow(/leads out of its folder/);
  expect(existsSync(join(folder, 'evil.txt'))).toBe(false);
});

it('refuses a file that was cut off, and one with a damaged byte', async () => {
  const folder = temporary();
  const zip = makeZip(join(folder, 'a.zip'), { a: 'hello hello hello' }, { stored: true });
  const whole = readFileSync(zip);
  const damaged = Buffer.from(whole);
  damaged[whole.indexOf('hello')] = 0x4a;
  writeFileSync(join(folder, 'b.zip'), damaged);
  await expect(unzip(join(folder, 'b.zip'), join(folder, 'out'), (name) => name)).rejects.toThrow(/fails its checksum/);
  truncateSync(zip, whole.length - 30);
  await expect(readZip(zip)).rejects.toThrow(/not a complete zip file/);
});

property.prop([fc.uint8Array({ maxLength: 400 }), fc.integer({ min: 0, max: 400 })], { numRuns: 200 })(
  'answers any bytes with entries or a named error',
  async (noise, at) => {
    const path = join(fuzzFolder, 'noise.zip');
    const bytes = Buffer.from(fuzzZip);
    bytes.set(noise.subarray(0, Math.max(0, bytes.length - at)), Math.min(at, bytes.length));
    writeFileSync(path, bytes);
    try {
      await unzip(path, join(fuzzFolder, 'out'), (name) => (/^[a-z]+$/.test(name) ? name : null));
    } catch (error) {
      expect(error).toBeInstanceOf(SetupError);
    }
  },
);
const fuzzFolder = temporary();
const fuzzZip = readFileSync(makeZip(join(fuzzFolder, 'a.zip'), { a: 'text', b: 'more text '.repeat(20) }));
