// Unpacks chosen entries of a zip file (a wheel, libtorch's archive) as a stream: stored and deflated entries, zip64,
// checksums, permissions and symbolic links. Not a general unzip: no encryption, no multi-part archives.
import { createReadStream, createWriteStream } from 'node:fs';
import { chmod, type FileHandle, mkdir, open, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, normalize, sep } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { crc32, createInflateRaw, inflateRawSync } from 'node:zlib';
import { SetupError } from './errors.js';

/** Entries up to this size are unpacked in memory. */
const SMALL = 4 << 20;

/** One entry of a zip's directory. */
export interface ZipEntry {
  readonly name: string;
  readonly size: number;
  readonly packed: number;
  readonly method: number;
  readonly crc: number;
  readonly mode: number;
  readonly offset: number;
}

/** The directory of a zip file. Throws BAD_ARGUMENT when the file is not a complete zip. */
export async function readZip(path: string): Promise<ZipEntry[]> {
  const file = await open(path, 'r');
  try {
    const { offset, size, count } = await findDirectory(file, path);
    const directory = await bytes(file, offset, size, path);
    const { size: length } = await file.stat();
    const entries: ZipEntry[] = [];
    let at = 0;
    for (let i = 0; i < count; i++) {
      if (at + 46 > size || directory.readUInt32LE(at) !== 0x02014b50) throw broken(path, `entry ${i} of ${count}`);
      const nameLength = directory.readUInt16LE(at + 28);
      const extraLength = directory.readUInt16LE(at + 30);
      const extra = directory.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength);
      const [size64, packed, start] = zip64Fields(extra, path, [
        directory.readUInt32LE(at + 24),
        directory.readUInt32LE(at + 20),
        directory.readUInt32LE(at + 42),
      ]);
      const entry = {
        name: directory.toString('utf8', at + 46, at + 46 + nameLength),
        method: directory.readUInt16LE(at + 10),
        crc: directory.readUInt32LE(at + 16),
        size: size64,
        packed,
        offset: start,
        mode: directory.readUInt32LE(at + 38) >>> 16,
      };
      if (start + 30 + packed > length) throw broken(path, `entry "${entry.name}" lies beyond its end`);
      entries.push(entry);
      at += 46 + nameLength + extraLength + directory.readUInt16LE(at + 32);
    }
    return entries;
  } finally {
    await file.close();
  }
}

/** The text of one small entry, or null when the zip has none of that name. */
export async function readEntry(path: string, name: RegExp): Promise<string | null> {
  const entry = (await readZip(path)).find((candidate) => name.test(candidate.name));
  if (!entry) return null;
  const file = await open(path, 'r');
  try {
    return (await smallEntry(file, path, entry)).toString('utf8');
  } finally {
    await file.close();
  }
}

/** Unpacks the entries that `wanted` maps to a path (relative to `into`; null leaves an entry out). Returns the bytes. */
export async function unzip(
  path: string,
  into: string,
  wanted: (name: string) => string | null,
  onBytes?: (done: number, all: number) => void,
): Promise<number> {
  const chosen = (await readZip(path))
    .filter((entry) => !entry.name.endsWith('/'))
    .map((entry) => ({ entry, to: wanted(entry.name) }))
    .filter((item): item is { entry: ZipEntry; to: string } => item.to !== null);
  const all = chosen.reduce((sum, { entry }) => sum + entry.size, 0);
  let done = 0;
  let folder = '';
  const file = await open(path, 'r');
  try {
    for (const { entry, to } of chosen) {
      const target = join(into, normalize(to));
      if (!target.startsWith(normalize(into) + sep))
        throw broken(path, `entry "${entry.name}" leads out of its folder`);
      if (folder !== dirname(target)) {
        folder = dirname(target);
        await mkdir(folder, { recursive: true });
      }
      await place(file, path, entry, target);
      done += entry.size;
      onBytes?.(done, all);
    }
  } finally {
    await file.close();
  }
  return all;
}

async function place(file: FileHandle, path: string, entry: ZipEntry, target: string): Promise<void> {
  const isLink = (entry.mode & 0o170000) === 0o120000;
  await rm(target, { force: true }); // of an earlier attempt; and nothing is written through a link
  if (isLink) await symlink((await smallEntry(file, path, entry)).toString('utf8'), target);
  else if (Math.max(entry.size, entry.packed) <= SMALL) await writeFile(target, await smallEntry(file, path, entry));
  else await streamEntry(file, path, entry, target);
  if (!isLink && entry.mode & 0o111) await chmod(target, 0o755);
}

/** An entry of at most a few megabytes: one read. Most of the ten thousand headers of a wheel are a few kilobytes. */
async function smallEntry(file: FileHandle, path: string, entry: ZipEntry): Promise<Buffer> {
  if (Math.max(entry.size, entry.packed) > SMALL) throw broken(path, `entry "${entry.name}" is far too large`);
  const packed = await bytes(file, await startOf(file, path, entry), entry.packed, path);
  const content = entry.method === 0 ? packed : inflate(path, entry, packed);
  if (content.length !== entry.size || crc32(content, 0) >>> 0 !== entry.crc) throw failsChecksum(path, entry);
  return content;
}

function inflate(path: string, entry: ZipEntry, packed: Buffer): Buffer {
  try {
    return inflateRawSync(packed, { maxOutputLength: entry.size + 1 });
  } catch (cause) {
    throw failsChecksum(path, entry, cause);
  }
}

async function streamEntry(file: FileHandle, path: string, entry: ZipEntry, target: string): Promise<void> {
  const start = await startOf(file, path, entry);
  let crc = 0;
  let size = 0;
  const check = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      crc = crc32(chunk, crc);
      size += chunk.length;
      done(size > entry.size ? failsChecksum(path, entry) : null, chunk);
    },
  });
  if (entry.packed === 0) throw failsChecksum(path, entry); // A range of no bytes cannot be read.
  const packed = createReadStream(path, { start, end: start + entry.packed - 1, highWaterMark: 1 << 20 });
  const into = createWriteStream(target);
  if (entry.method === 0) await pipeline(packed, check, into);
  else await pipeline(packed, createInflateRaw({ chunkSize: 1 << 18 }), check, into);
  if (size !== entry.size || crc >>> 0 !== entry.crc) throw failsChecksum(path, entry);
}

/** Where the bytes of an entry begin: after its own header, whose lengths can differ from the directory's. */
async function startOf(file: FileHandle, path: string, entry: ZipEntry): Promise<number> {
  const header = await bytes(file, entry.offset, 30, path);
  if (header.readUInt32LE(0) !== 0x04034b50) throw broken(path, `entry "${entry.name}"`);
  if (entry.method !== 0 && entry.method !== 8) {
    throw broken(path, `entry "${entry.name}" is packed by method ${entry.method}; expected 0 or 8`);
  }
  return entry.offset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
}

function failsChecksum(path: string, entry: ZipEntry, cause?: unknown): SetupError {
  return broken(path, `entry "${entry.name}" fails its checksum`, cause);
}

async function findDirectory(file: FileHandle, path: string): Promise<{ offset: number; size: number; count: number }> {
  const { size: length } = await file.stat();
  const span = Math.min(length, 65_557);
  const end = await bytes(file, length - span, span, path);
  let at = span - 22;
  while (at >= 0 && end.readUInt32LE(at) !== 0x06054b50) at--;
  if (at < 0) throw broken(path, 'no end of directory');
  const plain = {
    count: end.readUInt16LE(at + 10),
    size: end.readUInt32LE(at + 12),
    offset: end.readUInt32LE(at + 16),
  };
  if (plain.count !== 0xffff && plain.offset !== 0xffffffff && plain.size !== 0xffffffff) return plain;
  if (at < 20 || end.readUInt32LE(at - 20) !== 0x07064b50) throw broken(path, 'no zip64 locator');
  const wide = await bytes(file, Number(end.readBigUInt64LE(at - 12)), 56, path);
  if (wide.readUInt32LE(0) !== 0x06064b50) throw broken(path, 'no zip64 end of directory');
  return {
    count: Number(wide.readBigUInt64LE(32)),
    size: Number(wide.readBigUInt64LE(40)),
    offset: Number(wide.readBigUInt64LE(48)),
  };
}

/** Replaces the 32-bit fields that are all ones by the 64-bit ones of the zip64 extra field, in its order. */
function zip64Fields(extra: Buffer, path: string, fields: [number, number, number]): [number, number, number] {
  if (!fields.includes(0xffffffff)) return fields;
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) !== 1) continue;
    let field = at + 4;
    return fields.map((value) => {
      if (value !== 0xffffffff) return value;
      if (field + 8 > extra.length) throw broken(path, 'a zip64 field is cut off');
      const wide = Number(extra.readBigUInt64LE(field));
      field += 8;
      return wide;
    }) as [number, number, number];
  }
  return fields;
}

async function bytes(file: FileHandle, offset: number, length: number, path: string): Promise<Buffer> {
  const { size } = await file.stat();
  // Checked before memory is taken: a damaged directory can name any length.
  if (offset < 0 || offset + length > size) throw broken(path, `it ends at byte ${size}`);
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, offset);
  if (bytesRead !== length) throw broken(path, `it ends at byte ${offset + bytesRead}`);
  return buffer;
}

function broken(path: string, what: string, cause?: unknown): SetupError {
  const message = `${path} is not a complete zip file: ${what}. Delete it and run the command again.`;
  return new SetupError('BAD_ARGUMENT', message, { cause });
}
