// Checkpoints: everything that a run needs to go on exactly, in a folder `checkpoint-<step>` that is complete or absent.
// Named groups of tensors, and state that is JSON. What they mean is the caller's (train/).
//
// checkpoint-120/ <group>.safetensors  the tensors of one group: model, optimizer, random, ...
//                 state.json           schedule, data position, and whatever else is JSON
//                 manifest.json        step, and of every other file its size and SHA-256
//                 COMMITTED            the SHA-256 of manifest.json; written last
// The folder is filled under a temporary name and renamed, so the marker is there in every folder of this name, unless
// somebody copied half of one. Several writers can put their own groups in one folder; one of them commits.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, ShardloopError, type Tensor } from '../core/index.js';
import { cleanLeftovers, exists, removeFolderAtomic, writeFileAtomic, writeFolderAtomic } from './atomic.js';
import { readSafetensors, type SafetensorsFile, type WrittenFile, writeSafetensors } from './safetensors.js';

/** Any value that JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** What a checkpoint holds. */
export interface CheckpointContent {
  /** Groups of tensors by name: model, optimizer, random, ... Group names are letters, digits, '-', '_' and '.'. */
  readonly tensors: Readonly<Record<string, ReadonlyMap<string, Tensor>>>;
  /** Everything else. Numbers must be finite (JSON would turn NaN into null). */
  readonly state: Json;
}

/** How {@link saveCheckpoint} keeps house. */
export interface SaveCheckpointOptions {
  /** Keep only the newest n checkpoints of the folder, this one included. Default: all. */
  readonly saveTotalLimit?: number;
}

interface Manifest {
  readonly format: 1;
  readonly step: number;
  readonly files: Readonly<Record<string, WrittenFile>>;
}

const NAME = /^checkpoint-(\d+)$/;
const GROUP = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

/**
 * Writes `<dir>/checkpoint-<step>` whole or not at all, replacing one of the same step, and then removes the oldest
 * ones beyond `saveTotalLimit`. Returns the path. Throws BAD_ARGUMENT for a bad step, group name, or state that is no
 * JSON; a full disk or the like leaves all earlier checkpoints as they are.
 */
export async function saveCheckpoint(
  dir: string,
  step: number,
  content: CheckpointContent,
  options: SaveCheckpointOptions = {},
): Promise<string> {
  const { saveTotalLimit: limit } = options;
  if (!Number.isSafeInteger(step) || step < 0) throw badArgument('step', 'an integer from 0 up', step);
  if (limit !== undefined && (!Number.isSafeInteger(limit) || limit < 1)) {
    throw badArgument('saveTotalLimit', 'a positive integer', limit);
  }
  const bad = Object.keys(content.tensors).find((name) => !GROUP.test(name));
  if (bad !== undefined) throw badArgument('group name', 'letters, digits, "-", "_" and "."', bad);
  checkJson(content.state, 'state');
  const path = join(dir, `checkpoint-${step}`);
  await cleanLeftovers(dir);
  await writeFolderAtomic(path, async (folder) => {
    const files: Record<string, WrittenFile> = {};
    for (const [group, tensors] of Object.entries(content.tensors)) {
      const name = `${group}.safetensors`;
      files[name] = await writeSafetensors(join(folder, name), tensors);
    }
    files['state.json'] = await writeText(join(folder, 'state.json'), JSON.stringify(content.state));
    const manifest: Manifest = { format: 1, step, files };
    const { sha256 } = await writeText(join(folder, 'manifest.json'), JSON.stringify(manifest, null, 2));
    await writeText(join(folder, 'COMMITTED'), `${sha256}\n`);
  });
  if (limit !== undefined) await removeOldest(dir, limit);
  return path;
}

async function writeText(path: string, text: string): Promise<WrittenFile> {
  await writeFileAtomic(path, text);
  const bytes = Buffer.from(text);
  return { bytes: bytes.byteLength, sha256: createHash('sha256').update(bytes).digest('hex') };
}

async function removeOldest(dir: string, limit: number): Promise<void> {
  for (const path of (await listCheckpoints(dir)).slice(0, -limit)) await removeFolderAtomic(path);
}

function badArgument(name: string, expected: string, value: unknown): ShardloopError {
  return new ShardloopError(
    'BAD_ARGUMENT',
    `saveCheckpoint: ${name}: expected ${expected}, received ${describe(value)}`,
  );
}

function checkJson(value: unknown, where: string): void {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return;
  if (typeof value === 'number' && Number.isFinite(value)) return;
  if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) checkJson(item, `${where}[${i}]`);
    return;
  }
  if (typeof value === 'object' && [Object.prototype, null].includes(Object.getPrototypeOf(value))) {
    for (const [key, item] of Object.entries(value as object))
      if (item !== undefined) checkJson(item, `${where}.${key}`);
    return;
  }
  throw badArgument(where, 'a value that JSON can hold', value);
}

/** The complete checkpoints of a folder, oldest step first. A folder that does not exist has none. */
export async function listCheckpoints(dir: string): Promise<string[]> {
  if (!(await exists(dir))) return [];
  const found: [number, string][] = [];
  for (const name of await readdir(dir)) {
    const match = NAME.exec(name);
    if (match && (await exists(join(dir, name, 'COMMITTED')))) found.push([Number(match[1]), join(dir, name)]);
  }
  return found.sort(([a], [b]) => a - b).map(([, path]) => path);
}

/** The complete checkpoint of the highest step in a folder, or null. */
export async function latestCheckpoint(dir: string): Promise<string | null> {
  await cleanLeftovers(dir);
  return (await listCheckpoints(dir)).at(-1) ?? null;
}

/** An open checkpoint, every file of which was checked. */
export interface Checkpoint {
  readonly path: string;
  readonly step: number;
  readonly state: Json;
  /** The names of the groups of tensors. */
  readonly groups: readonly string[];
  /** New tensors (mapped from the file, on the CPU) of one group by name. Throws BAD_CHECKPOINT when there is no such group. */
  tensors(group: string): Map<string, Tensor>;
  /** Lets go of the files; tensors that were read stay usable. */
  close(): void;
}

/**
 * Opens one checkpoint folder and checks every file against the manifest. Throws BAD_CHECKPOINT naming the file that
 * is missing, damaged or foreign, and what was expected.
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const manifest = await readManifest(path);
  for (const [name, expected] of Object.entries(manifest.files)) await checkFile(join(path, name), expected);
  const state = JSON.parse(await readFile(join(path, 'state.json'), 'utf8')) as Json;
  const files = new Map<string, SafetensorsFile>();
  for (const name of Object.keys(manifest.files)) {
    if (name.endsWith('.safetensors'))
      files.set(basename(name, '.safetensors'), await readSafetensors(join(path, name)));
  }
  return {
    path,
    step: manifest.step,
    state,
    groups: [...files.keys()],
    tensors(group) {
      const file = files.get(group);
      if (file === undefined) {
        throw damaged(
          path,
          `expected a group of tensors "${group}", it holds ${[...files.keys()].join(', ') || 'none'}`,
        );
      }
      return new Map(file.names.map((name) => [name, file.tensor(name)]));
    },
    close() {
      for (const file of files.values()) file.close();
    },
  };
}

async function readManifest(path: string): Promise<Manifest> {
  const read = async (name: string) =>
    readFile(join(path, name), 'utf8').catch((cause: NodeJS.ErrnoException) => {
      throw damaged(
        path,
        `expected the file ${name}, it cannot be read (${cause.code}); the checkpoint is incomplete`,
        cause,
      );
    });
  const marker = (await read('COMMITTED')).trim();
  const text = await read('manifest.json');
  if (createHash('sha256').update(text).digest('hex') !== marker) {
    throw damaged(
      path,
      'manifest.json is not the one that COMMITTED marks; the checkpoint is damaged or mixed from two',
    );
  }
  const manifest = JSON.parse(text) as Manifest;
  if (manifest.format !== 1)
    throw damaged(path, `expected format 1, received ${describe(manifest.format)}; use a newer shardloop`);
  return manifest;
}

async function checkFile(path: string, expected: WrittenFile): Promise<void> {
  const stats = await stat(path).catch(() => null);
  if (stats === null) throw damaged(path, `expected a file of ${expected.bytes} bytes, it is missing`);
  if (stats.size !== expected.bytes) throw damaged(path, `expected ${expected.bytes} bytes, received ${stats.size}`);
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 4 << 20 })) hash.update(chunk as Buffer);
  if (hash.digest('hex') !== expected.sha256)
    throw damaged(path, 'its content is not what was written (SHA-256 differs)');
}

function damaged(path: string, what: string, cause?: unknown): ShardloopError {
  return new ShardloopError('BAD_CHECKPOINT', `${path}: ${what}`, { cause });
}
