// The archive as a source of libtorch: a server on loopback and files, never the official one.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { chooseArchive, fetchArchive, officialUrl } from '../../lib/setup/fetch-archive.js';
import { inspect } from '../../lib/setup/libtorch.js';
import { silentReport } from '../../lib/setup/report.js';
import { makeZip, temporary, versionHeader } from './fakes.js';

const folder = temporary();
const zip = makeZip(join(folder, 'libtorch.zip'), {
  'libtorch/include/ATen/ATen.h': '',
  'libtorch/include/torch/csrc/api/include/torch/version.h': versionHeader('2.14.1'),
  'libtorch/lib/libtorch_cpu.so': 'x',
  'libtorch/lib/libc10.so': 'x',
  'libtorch/lib/libtorch_cuda.so': 'x',
  'libtorch/build-version': '2.14.1+cu130',
  'libtorch/share/cmake/left-out': '',
});
const content = readFileSync(zip);
const sha256 = createHash('sha256').update(content).digest('hex');
const ranges: (string | undefined)[] = [];
let server: Server;
let url = '';

// A server on loopback that knows ranges, and cuts the connection in the middle of /cut.zip.
beforeAll(async () => {
  server = createServer((request, response) => {
    ranges.push(request.headers.range);
    if (request.url === '/gone.zip') return response.writeHead(404).end();
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    if (from >= content.length) return response.writeHead(416).end();
    const length = content.length - from;
    response.writeHead(from > 0 ? 206 : 200, { 'content-length': length });
    if (request.url === '/cut.zip' && from === 0) {
      response.write(content.subarray(0, 100));
      return setTimeout(() => response.destroy(), 50);
    }
    return response.end(content.subarray(from));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());

it('takes an archive from a file, in both spellings, and checks its sum', async () => {
  for (const from of [zip, pathToFileURL(zip).href]) {
    const into = await fetchArchive({ url: from, sha256 }, temporary(), silentReport);
    expect(inspect(into, 'x')).toMatchObject({ dir: join(into, 'libtorch'), version: '2.14.1', cuda: '13.0' });
    expect(existsSync(join(into, 'libtorch', 'share'))).toBe(false);
    expect(existsSync(zip)).toBe(true); // A file that was given stays.
  }
});

it('downloads, and leaves only what was unpacked', async () => {
  const cache = temporary();
  const into = await fetchArchive({ url: `${url}/a.zip`, sha256 }, cache, silentReport);
  expect(inspect(into, 'x')).toMatchObject({ version: '2.14.1' });
  expect(existsSync(join(cache, 'downloads', `${sha256.slice(0, 16)}.zip`))).toBe(false);
  const before = ranges.length;
  expect(await fetchArchive({ url: `${url}/a.zip`, sha256 }, cache, silentReport)).toBe(into);
  expect(ranges.length).toBe(before);
});

it('goes on where a cut-off download stopped', async () => {
  const cache = temporary();
  const archive = { url: `${url}/cut.zip`, sha256 };
  await expect(fetchArchive(archive, cache, silentReport)).rejects.toThrow(/could not be downloaded/);
  expect(existsSync(join(cache, 'libtorch'))).toBe(false);
  expect(inspect(await fetchArchive(archive, cache, silentReport), 'x')).toMatchObject({ version: '2.14.1' });
  expect(ranges.at(-1)).toBe('bytes=100-');
});

it('takes up a download that was whole already', async () => {
  const cache = temporary();
  mkdirSync(join(cache, 'downloads'));
  writeFileSync(join(cache, 'downloads', `${sha256.slice(0, 16)}.zip.partial`), content);
  expect(inspect(await fetchArchive({ url: `${url}/a.zip`, sha256 }, cache, silentReport), 'x')).toMatchObject({
    version: '2.14.1',
  });
});

it('uses nothing of an archive with another sum, and fetches it anew the next time', async () => {
  const cache = temporary();
  const wrong = { url: `${url}/a.zip`, sha256: 'a'.repeat(64) };
  await expect(fetchArchive(wrong, cache, silentReport)).rejects.toThrow(`is ${sha256}; expected ${wrong.sha256}`);
  expect(existsSync(join(cache, 'libtorch'))).toBe(false);
  expect(existsSync(join(cache, 'downloads', `${'a'.repeat(16)}.zip`))).toBe(false);
});

it('says what the server or the disk answered', async () => {
  await expect(fetchArchive({ url: `${url}/gone.zip`, sha256 }, temporary(), silentReport)).rejects.toThrow(
    /answered 404/,
  );
  await expect(fetchArchive({ url: '/none.zip', sha256 }, temporary(), silentReport)).rejects.toThrow(/does not exist/);
});

it('asks for a sum, since none is pinned', () => {
  expect(chooseArchive({}, '2.14.1', null)).toMatch(/checksum is not pinned.*libtorch\/cpu\//);
  expect(chooseArchive({ sha256: 'xyz' }, '2.14.1', null)).toMatch(/not a SHA-256/);
  expect(chooseArchive({ sha256: 'A'.repeat(64) }, '2.14.1', '13.0')).toEqual({
    url: officialUrl('2.14.1', '13.0'),
    sha256: 'a'.repeat(64),
  });
  expect(chooseArchive({ url: 'x.zip', sha256 }, '2.14.1', null)).toEqual({ url: 'x.zip', sha256 });
});
