// The last resort: the official libtorch archive, by HTTP(S) or from a file, with a checked sum and resumed downloads.
// No sum of an official archive is pinned yet, so the sum must be given; see docs/setup.md.
// Not here: the other sources (find.ts).
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, statSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { messageOf, SetupError } from './errors.js';
import { withLock } from './lock.js';
import { megabytes, type Report, since } from './report.js';
import { unzip } from './unzip.js';

/** An archive and the sum that it must have. */
export interface Archive {
  /** `https://...`, `http://...`, `file://...` or a path. */
  readonly url: string;
  /** SHA-256, 64 hexadecimal digits. */
  readonly sha256: string;
}

/** Sums of official archives that someone has checked: none yet. `url` -> SHA-256. */
export const KNOWN_SUMS: Readonly<Record<string, string>> = {};

/** Where the official archive of a version lies; `cuda` such as `13.0`, or null for the CPU build. */
export function officialUrl(version: string, cuda: string | null): string {
  const tag = cuda ? `cu${cuda.replace('.', '')}` : 'cpu';
  return `https://download.pytorch.org/libtorch/${tag}/libtorch-shared-with-deps-${version}%2B${tag}.zip`;
}

/** The archive to use: an URL or path given with its sum, or the official one when its sum is given or known. */
export function chooseArchive(
  given: { url?: string; sha256?: string },
  version: string,
  cuda: string | null,
): Archive | string {
  const url = given.url ?? officialUrl(version, cuda);
  const sha256 = (given.sha256 ?? KNOWN_SUMS[url])?.toLowerCase();
  if (!sha256) {
    return `its checksum is not pinned: give it by --archive-sha256 or SHARDLOOP_ARCHIVE_SHA256 (for ${url})`;
  }
  if (!/^[0-9a-f]{64}$/.test(sha256)) return `its checksum "${sha256}" is not a SHA-256 of 64 hexadecimal digits`;
  return { url, sha256 };
}

/** The folder in the cache where an archive is unpacked: it is complete when it exists. */
export function archiveFolder(cache: string, archive: Archive): string {
  return join(cache, 'libtorch', `archive-${archive.sha256.slice(0, 16)}`);
}

/** Fetches, checks and unpacks; returns the folder that holds libtorch/. A cut-off download goes on where it stopped. */
export async function fetchArchive(archive: Archive, cache: string, report: Report): Promise<string> {
  const folder = archiveFolder(cache, archive);
  return withLock(
    join(cache, 'locks', `${archive.sha256.slice(0, 16)}.lock`),
    async () => {
      if (existsSync(folder)) return folder;
      const file = await obtain(archive, cache, report);
      report.line(`checking the sum of ${file.path}`);
      const sum = await sha256Of(file.path);
      if (sum !== archive.sha256) {
        if (file.ours) await rm(file.path, { force: true });
        throw new SetupError(
          'LIBTORCH_MISSING',
          `the SHA-256 of ${archive.url} is ${sum}; expected ${archive.sha256}. Nothing of it was used.`,
        );
      }
      const partial = `${folder}.partial`;
      await rm(partial, { recursive: true, force: true });
      await mkdir(partial, { recursive: true });
      const start = Date.now();
      const bytes = await unzip(
        file.path,
        partial,
        (name) => (/^libtorch\/(include|lib|build-)/.test(name) ? name : null),
        (done, all) => report.tick(`unpacking: ${megabytes(done)} of ${megabytes(all)}`),
      );
      report.line(`unpacked ${megabytes(bytes)} in ${since(start)}`);
      await rename(partial, folder);
      if (file.ours) await rm(file.path, { force: true });
      return folder;
    },
    report.line,
  );
}

async function obtain(archive: Archive, cache: string, report: Report): Promise<{ path: string; ours: boolean }> {
  if (!/^https?:/.test(archive.url)) {
    const path = archive.url.startsWith('file:') ? fileURLToPath(archive.url) : archive.url;
    if (!existsSync(path)) throw new SetupError('LIBTORCH_MISSING', `the archive ${path} does not exist`);
    return { path, ours: false };
  }
  const path = join(cache, 'downloads', `${archive.sha256.slice(0, 16)}.zip`);
  await mkdir(join(cache, 'downloads'), { recursive: true });
  if (!existsSync(path)) {
    report.line(`downloading ${archive.url}`);
    await download(archive.url, `${path}.partial`, report);
    await rename(`${path}.partial`, path);
  }
  return { path, ours: true };
}

async function download(url: string, partial: string, report: Report): Promise<void> {
  const have = existsSync(partial) ? statSync(partial).size : 0;
  const start = Date.now();
  try {
    const response = await fetch(url, { headers: have > 0 ? { range: `bytes=${have}-` } : {} });
    if (response.status === 416) return; // The partial file has all bytes already; its sum is checked next.
    if (!response.ok || !response.body)
      throw new Error(`the server answered ${response.status} ${response.statusText}`);
    const resumed = response.status === 206;
    const all = Number(response.headers.get('content-length') ?? 0) + (resumed ? have : 0);
    let done = resumed ? have : 0;
    const body = Readable.fromWeb(response.body as import('node:stream/web').ReadableStream);
    body.on('data', (chunk: Buffer) => {
      done += chunk.length;
      report.tick(`downloading: ${megabytes(done)}${all ? ` of ${megabytes(all)}` : ''}`);
    });
    await pipeline(body, createWriteStream(partial, { flags: resumed ? 'a' : 'w' }));
    report.line(
      `downloaded ${megabytes(done)} in ${since(start)}${resumed ? ' (went on where an earlier run stopped)' : ''}`,
    );
  } catch (error) {
    const reason = error instanceof Error && error.cause ? messageOf(error.cause) : messageOf(error);
    throw new SetupError('LIBTORCH_MISSING', `${url} could not be downloaded: ${reason}`, { cause: error });
  }
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest('hex');
}
